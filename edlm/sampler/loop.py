"""The loop over the steps: what `fill` runs to its end, and what generation watches as it goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.diffusion.reveal import plan_reveal
from edlm.diffusion.streams import RowStreams
from edlm.sampler import inputs as checks
from edlm.sampler.candidates import decide_step, no_energy_asked
from edlm.sampler.output import StepInfo, summarize
from edlm.sampler.step import Passes, begin_step

if TYPE_CHECKING:
    from edlm.sampler.sampler import EnergySampler


def device_of(denoiser: Denoiser) -> torch.device:
    """Where a denoiser runs."""
    return next(iter([*denoiser.parameters(), *denoiser.buffers()])).device


@torch.no_grad()
def denoise(
    sampler: EnergySampler,
    x_t: Tensor,
    streams: RowStreams,
    *,
    target: Tensor | None = None,
    attention_mask: Tensor | None = None,
) -> Iterator[tuple[Tensor, StepInfo]]:
    """Run the sampler's steps one by one.

    Args:
        sampler: Whose steps.
        x_t: Tokens, shape ``[batch, length]``; not changed.
        streams: Randomness of the rows.
        target: Masked positions that are to be filled, bool ``[batch, length]``; all if None.
        attention_mask: False at padding, on the right of the rows, shape ``[batch, length]``.

    Yields:
        After each step its ``x_s[batch, length]`` and its diagnostics.

    Raises:
        ValueError: as `EnergySampler.fill`.
    """
    real = checks.check_padding(x_t, attention_mask)
    masked = checks.check_tokens(sampler, x_t, target, real)
    denoiser = sampler.denoiser
    plan = plan_reveal(masked, sampler.order, sampler.num_steps, sampler.schedule, streams.order())
    passes = Passes(denoiser, attention_mask=real)
    for i in range(sampler.num_steps):
        masked = plan.still_masked(x_t, denoiser.mask_token_id)
        revealed, [(step, uses)] = begin_step([sampler], plan, torch.full_like(x_t[:, 0], i), x_t, passes)
        x_t, decisions = decide_step(sampler, step, revealed, uses, streams.values(i))
        decisions = decisions or [no_energy_asked(uses, sampler.candidates_weighed)]
        yield (
            x_t,
            summarize(
                i,
                1 - i / sampler.num_steps,
                num_revealed=(masked & (x_t != denoiser.mask_token_id)).sum(1),
                denoiser_calls=int(len(step.slots) > 0),
                decisions=decisions,
                grouped=sampler.group_size is not None and not sampler.exact,
            ),
        )
