"""The likelihood bound of samplers on data: the same passes, orders and seeds for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edlm.diffusion.reveal import plan_reveal
from edlm.diffusion.streams import RowStreams
from edlm.sampler import inputs as checks
from edlm.sampler.candidates import bound_of_step
from edlm.sampler.step import Passes, begin_step

if TYPE_CHECKING:
    from edlm.sampler.sampler import EnergySampler


@torch.no_grad()
def likelihood_bounds(
    samplers: Sequence[EnergySampler],
    x_0: Tensor,
    seeds: Sequence[int],
    *,
    given: Tensor | None = None,
    attention_mask: Tensor | None = None,
    sampled_steps: int | None = None,
    inner_draws: Sequence[int] | None = None,
) -> list[Tensor]:
    """One draw of each sampler's upper bound of ``-log P(x_0)``, in nats of the row, on shared denoiser passes.

    Passes are shared by samplers, and by steps of different numbers of steps that start from the same tokens: in a
    fixed order, step ``i`` of ``T`` and step ``2 i`` of ``2 T``.

    Args:
        samplers: Of one denoiser, order and schedule; at least one.
        x_0: Tokens without masks, shape ``[batch, length]``.
        seeds: One a row.
        given: True where a token is given and not to be predicted, shape ``[batch, length]``.
        attention_mask: False at padding, on the right of the rows, shape ``[batch, length]``.
        sampled_steps: Estimate the sum over steps from so many of them, at most ``num_steps``: each row draws one of
            each of as many equal strata. Unbiased; for differences between samplers, whose noise cancels. All if None.
        inner_draws: Of each sampler, as for `EnergySampler.likelihood_bound`; 1 by default.

    Returns:
        For each sampler what `EnergySampler.likelihood_bound` gives, shape ``[batch]``, float64.

    Raises:
        ValueError: the samplers differ in denoiser, order or schedule; ``x_0`` holds a mask; ``inner_draws`` is below
            1; or ``sampled_steps`` is out of range, or given for an order that depends on the marginals.
    """
    _check_alike(samplers)
    inner_draws = [1] * len(samplers) if inner_draws is None else list(inner_draws)
    if len(inner_draws) != len(samplers) or min(inner_draws) < 1:
        raise ValueError(f"inner_draws must be >= 1, one for each of {len(samplers)} samplers, got {inner_draws}")
    real = checks.check_padding(x_0, attention_mask)
    target = [checks.check_data(sampler, x_0, given, real) for sampler in samplers][0]
    streams, denoiser = RowStreams(seeds), samplers[0].denoiser
    passes = Passes(denoiser, any(s.energy is not None and s.energy.reads_hidden for s in samplers), real)
    totals = [0.0] * len(samplers)
    plans, x_ts = {}, {}
    for num_steps in {sampler.num_steps for sampler in samplers}:
        plans[num_steps] = plan_reveal(target, samplers[0].order, num_steps, samplers[0].schedule, streams.order())
        x_ts[num_steps] = x_0.masked_fill(target, denoiser.mask_token_id)
    for num_steps, at, weight in _visits(len(x_0), list(plans), sampled_steps, streams):
        plan, at = plans[num_steps], at.to(x_0.device)
        if sampled_steps is not None:
            x_ts[num_steps] = x_0.masked_fill(plan.masked_at(at), denoiser.mask_token_id)
        some = [i for i, sampler in enumerate(samplers) if sampler.num_steps == num_steps]
        revealed, steps = begin_step([samplers[i] for i in some], plan, at, x_ts[num_steps], passes)
        for i, (step, uses) in zip(some, steps, strict=True):
            log_p = bound_of_step(samplers[i], step, revealed, uses, streams.values(at), x_0, inner_draws[i])
            totals[i] = totals[i] - weight * log_p
        x_ts[num_steps] = revealed.write(x_ts[num_steps], revealed.gather(x_0))
    return totals


def _visits(
    batch_size: int, numbers: list[int], sampled: int | None, streams: RowStreams
) -> list[tuple[int, Tensor, float]]:
    """Number of steps, step of each row ``[batch]``, how many steps it stands for; equal times in a row."""
    if sampled is None:
        times = sorted((Fraction(i, num_steps), num_steps, i) for num_steps in numbers for i in range(num_steps))
        return [(num_steps, torch.full((batch_size,), i), 1.0) for _, num_steps, i in times]
    visits = []
    for num_steps in numbers:
        if not 1 <= sampled <= num_steps:
            raise ValueError(f"sampled_steps must lie in 1..num_steps ({num_steps}), got {sampled}")
        edges = torch.arange(sampled + 1) * num_steps // sampled
        widths = edges.diff()
        uniforms = streams.steps().uniform(torch.full((batch_size,), sampled))[:, 0].view(batch_size, sampled)
        drawn = edges[:-1] + (uniforms * widths).long()
        visits += [(num_steps, drawn[:, j], float(widths[j])) for j in range(sampled)]
    return visits


def _check_alike(samplers: Sequence[EnergySampler]) -> None:
    for name in ("denoiser", "order", "schedule"):
        values = [getattr(sampler, name) for sampler in samplers]
        if any(value is not values[0] and value != values[0] for value in values):
            shown = "several" if name == "denoiser" else values
            raise ValueError(f"samplers that share their passes must have one {name}, got {shown}")
