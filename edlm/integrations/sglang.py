"""An algorithm for the diffusion LMs of SGLang.

Written against ``sglang.srt.dllm.algorithm.base`` as published, and tested against stand-ins of its signature, never
inside SGLang.
"""

from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.integrations.confidence import surest
from edlm.sampler.one_step import StepOptions, check_writes, rerank_step


def rerank_algorithm(
    base: type,
    energy: Energy | None,
    *,
    denoiser: Denoiser | None = None,
    threshold: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> type:
    """A class ``EnergyRerank`` for SGLang: what a step writes is decided jointly.

    At each step it writes the positions of which the denoiser is surest, as SGLang's ``LowConfidence`` does; with one
    candidate and ``top_k=1`` it is that algorithm. SGLang finds algorithms in the folder of its own package and by the
    name ``Algorithm``, so a file there holds::

        from sglang.srt.dllm.algorithm.base import DllmAlgorithm
        from edlm.integrations.sglang import rerank_algorithm
        Algorithm = rerank_algorithm(DllmAlgorithm, energy, num_candidates=8)

    and the server is started with ``--dllm-algorithm EnergyRerank``.

    Args:
        base: ``DllmAlgorithm``.
        energy: Judges candidates. It sees the block that is written, and no hidden states: SGLang passes no more.
        denoiser: A `Denoiser` of the served model, for what it rules out, text and trained energies; it is not run.
        threshold: Probability above which a position is written; ``threshold`` of SGLang's algorithm config goes first.
        seed: Of all draws: all ranks of a server draw the same.
        options: Of `StepOptions`, such as ``num_candidates``, ``temperature``.

    Raises:
        ValueError: an option breaks its rule, or ``on_impossible`` is "keep": a block would never be done.
    """
    check_writes(StepOptions(**options).on_impossible, "a block must be done at some time")

    class EnergyRerank(base):
        """See `rerank_algorithm`."""

        def __init__(self, config: Any):
            super().__init__(config)
            self.threshold = (config.algorithm_config or {}).get("threshold", threshold)
            self.generator = torch.Generator().manual_seed(seed)

        def step(self, forward_batch: Any, logits_output: Any, states: list[Any]) -> list[bool]:
            """Write tokens in place; True for blocks that had no mask before, whose forward pass is the last."""
            logits: Tensor = getattr(logits_output, "full_logits", logits_output)
            blocks = forward_batch.input_ids.view(forward_batch.batch_size, self.block_size).long()
            logits = logits.view(*blocks.shape, -1)
            masked, known = blocks == self.mask_id, self.mask_id if denoiser is None else denoiser
            call = {"reveal": surest(logits, masked, known, self.threshold), "generator": self.generator, **options}
            tokens, _ = rerank_step(blocks, logits, None, energy, known, **call)
            forward_batch.input_ids.copy_(tokens.flatten())  # the tensor stays: a CUDA graph reads it
            return (~masked.any(1)).tolist()

    return EnergyRerank
