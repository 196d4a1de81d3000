"""The loop over the steps: `fill` runs it to its end, generation watches it step by step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from edlm.diffusion.streams import RowStreams
from edlm.sampler import inputs
from edlm.sampler.kernel import Kernel
from edlm.sampler.output import DecisionInfo, StepInfo, summarize
from edlm.sampler.step import Passes, begin_step, decider


@torch.no_grad()
def denoise(
    kernel: Kernel,
    x_t: Tensor,
    streams: RowStreams,
    *,
    target: Tensor | None = None,
    attention_mask: Tensor | None = None,
) -> Iterator[tuple[Tensor, StepInfo]]:
    """Run all steps, one by one.

    Args:
        kernel: The law of a step.
        x_t: Tokens, shape ``[batch, length]``; not changed.
        streams: Randomness of the rows.
        target: Masked positions that are to be filled, bool ``[batch, length]``; all if None.
        attention_mask: False at padding, on the right of the rows, shape ``[batch, length]``.

    Yields:
        After each step its ``x_s[batch, length]`` and its diagnostics.

    Raises:
        ValueError: as `EnergySampler.fill`.
    """
    real = inputs.check_padding(x_t, attention_mask)
    masked = inputs.check_tokens(kernel, x_t, target, real)
    plan = kernel.plan(masked, streams.order())
    passes = Passes(kernel.denoiser, attention_mask=real)
    for i in range(kernel.num_steps):
        step = begin_step(kernel, plan, torch.full_like(x_t[:, 0], i), x_t, passes)
        x_t, decisions = decider(kernel, step).decide(kernel, step, streams.values(i))
        yield (
            x_t,
            summarize(
                i,
                1 - i / kernel.num_steps,
                num_revealed=(x_t != step.x_t).sum(1),
                denoiser_calls=int(len(step.slots) > 0),
                decisions=decisions or [DecisionInfo.without_energy(step.uses, kernel.candidates_weighed)],
                grouped=kernel.group_size is not None and not kernel.tokenwise,
            ),
        )
