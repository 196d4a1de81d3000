"""A sampler for the masked diffusion LMs of vLLM.

Written against ``ModelState.custom_sampler`` and ``MaskedDiffusionSampler`` as published, and tested against stand-ins
of their signatures, never inside vLLM.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.sampler.hooks import as_logits
from edlm.sampler.one_step import StepOptions, check_writes, rerank_step


class RerankSampler:
    """A masked diffusion sampler of vLLM that gets the logits of candidates that an energy chose.

    Candidates fill all masks of a request's canvas; the wrapped sampler, which must be greedy, finds the chosen tokens
    the likeliest, each with its own probability, and reveals and commits as ever.

    Args:
        sampler: What the model state's ``custom_sampler`` gives: it has ``diffusion_states`` with ``canvas``,
            ``is_encoder_phase`` and ``mask_token_id``, and is called with ``(logits, input_batch, draft_logits)``.
        energy: Judges candidates. It sees the canvas, and no hidden states.
        denoiser: A `Denoiser` of the served model; by default its mask token is all that is known. It is not run.
        seed: Of all draws: all ranks of a server draw the same.
        options: Of `StepOptions`, such as ``num_candidates``, ``temperature``.

    Raises:
        ValueError: the sampler draws, which would undo the choice; ``on_impossible`` is "keep"; or an option breaks its
            rule.
    """

    def __init__(
        self, sampler: Any, energy: Energy | None, *, denoiser: Denoiser | None = None, seed: int = 0, **options: Any
    ):
        if getattr(sampler, "temperature", 0.0) != 0:
            raise ValueError(
                f"the engine's diffusion temperature must be 0 (candidates have theirs), got {sampler.temperature}"
            )
        check_writes(StepOptions(**options).on_impossible, "the sampler writes at every step")
        self.sampler = sampler
        self.energy = energy
        self.denoiser = sampler.diffusion_states.mask_token_id if denoiser is None else denoiser
        self.options = options
        self.generator = torch.Generator().manual_seed(seed)

    def __getattr__(self, name: str) -> Any:
        if name == "sampler":  # while a copy is made
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def __call__(self, logits: Tensor, input_batch: Any, draft_logits: Tensor | None = None) -> Any:
        """The wrapped sampler's output, on logits ``[num_logits, vocab_size]`` of the chosen candidates."""
        if input_batch.num_draft_tokens == 0:  # prompts are read
            return self.sampler(logits, input_batch, draft_logits)
        counts = np.diff(input_batch.cu_num_logits_np[: input_batch.num_reqs + 1])
        has_logits = counts > 0
        states = self.sampler.diffusion_states
        slots = torch.as_tensor(input_batch.idx_mapping_np[: len(counts)][has_logits], device=logits.device).long()
        lengths = torch.as_tensor(counts[has_logits], device=logits.device)
        canvas = states.canvas[slots].long()[:, : int(lengths.max())]
        real = torch.arange(canvas.shape[1], device=logits.device) < lengths[:, None]
        table = pad_sequence(logits[: int(lengths.sum())].split(lengths.tolist()), batch_first=True)
        target = real & ~states.is_encoder_phase[slots].bool()[:, None]
        call = {"target": target, "attention_mask": real, "generator": self.generator, **self.options}
        tokens, accepted = rerank_step(canvas, table, None, self.energy, self.denoiser, **call)
        chosen = as_logits(table, tokens, accepted, self.denoiser)[real]
        return self.sampler(torch.cat([chosen, logits[len(chosen) :]]), input_batch, draft_logits)


def rerank_model_state(base: type, energy: Energy | None, **options: Any) -> type:
    """A class of model states whose samplers are `RerankSampler`: what ``get_model_state_cls`` of a model returns.

    Args:
        base: The model's own class, with a ``custom_sampler``.
        energy: As for `RerankSampler`.
        options: As for `RerankSampler`.
    """

    class RerankModelState(base):
        """See `rerank_model_state`."""

        def custom_sampler(self, sampler: Any, *others: Any) -> tuple[Any, Any]:
            """The model's own sampler, which gets reranked logits, and its rejection sampler.

            Raises:
                ValueError: the model has no sampler of its own.
            """
            own = super().custom_sampler(sampler, *others)
            if own is None:
                raise ValueError(f"{base.__name__} must have a masked diffusion sampler of its own, got None")
            return RerankSampler(own[0], energy, **options), own[1]

    return RerankModelState
