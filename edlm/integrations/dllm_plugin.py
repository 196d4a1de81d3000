"""A remasking policy for vllm-project/dllm-plugin.

Written against ``dllm_plugin.remasking.base`` as published, and tested against stand-ins of its signature, never inside
vLLM.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.integrations.confidence import surest
from edlm.sampler.one_step import StepOptions, rerank_step


class RerankPolicy:
    """``RemaskingPolicy`` that decides what a step transfers jointly; for ``DllmWorker.run_one_block(policy=...)``.

    Positions are those of ``Llada2DefaultRemaskingPolicy``: all above the threshold, or, if they are fewer than the
    step's share of the block, the surest. With one candidate and ``top_k=1`` it is that policy.

    Args:
        denoiser: The mask token, or a `Denoiser` of the served model; it is not run.
        energy: Judges candidates. It sees the block that is written, and no hidden states.
        seed: Of all draws.
        options: Of `StepOptions`, such as ``num_candidates``, ``temperature``.

    Raises:
        ValueError: an option breaks its rule.
    """

    def __init__(self, denoiser: Denoiser | int, energy: Energy | None, *, seed: int = 0, **options: Any):
        StepOptions(**options)  # checks them
        self.denoiser = denoiser
        self.energy = energy
        self.options = options
        self.mask_token_id = denoiser if isinstance(denoiser, int) else denoiser.mask_token_id
        self.generator = torch.Generator().manual_seed(seed)

    def apply(
        self,
        *,
        input_draft: Sequence[int],
        logits: Any | None = None,
        remasking_config: Mapping[str, Any] | None = None,
    ) -> Any:
        """One step of a block.

        Args:
            input_draft: The block's tokens, masks where unknown.
            logits: Of the block, ``[block, vocab_size]``.
            remasking_config: The plugin's ``commit_confidence_threshold``, ``denoise_steps``, ``denoise_step_index``,
                ``num_transfer`` and ``grammar_extra_transfer``.

        Returns:
            The plugin's ``RemaskStepResult``.

        Raises:
            ValueError: logits are missing.
        """
        if logits is None:
            raise ValueError("logits must be given where masks are to be filled, got None")
        block, config = torch.tensor([list(input_draft)]), dict(remasking_config or {})
        table = torch.as_tensor(logits)[None]
        block, masked = block.to(table.device), (block == self.mask_token_id).to(table.device)
        threshold, share = config.get("commit_confidence_threshold", 0.9), _share(len(input_draft), config)
        reveal = surest(table, masked, self.denoiser, threshold, share)
        call = {"reveal": reveal, "generator": self.generator, **self.options}
        tokens = rerank_step(block, table, None, self.energy, self.denoiser, **call)[0][0].tolist()
        result = import_module("dllm_plugin.remasking.base").RemaskStepResult
        if self.mask_token_id in tokens:
            return result(committed_token_ids=(), next_input_block=tuple(tokens))
        return result(committed_token_ids=tuple(tokens), next_input_block=(self.mask_token_id,) * len(tokens))


def _share(size: int, config: Mapping[str, Any]) -> int:
    """Tokens that a step transfers at least: an equal share of the block, the remainder at the first steps."""
    extra = max(0, int(config.get("grammar_extra_transfer", 0)))
    if "num_transfer" in config:
        return int(config["num_transfer"]) + extra
    steps = int(config.get("denoise_steps", size))
    step = min(max(0, int(config.get("denoise_step_index", 0))), steps - 1)
    return size // steps + (step < size % steps) + extra
