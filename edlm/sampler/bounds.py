"""The likelihood bound of samplers on data: the same passes, orders and seeds for all of them."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from heapq import merge
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edlm.diffusion.plan import RevealPlan
from edlm.diffusion.streams import RowStreams
from edlm.numerics import precise
from edlm.sampler import inputs
from edlm.sampler.decisions import log_prob
from edlm.sampler.kernel import Kernel
from edlm.sampler.passes import Passes
from edlm.sampler.step import begin_steps, check_first_step
from edlm.sampler.survival import nats_of_surviving


class RowBounds(NamedTuple):
    """Of each row, what a sampler needs to write it.

    Attributes:
        nats: One draw of the upper bound of ``-log P``, float64, ``[batch]``.
        passes: Denoiser passes in which some of its tokens are written, ``[batch]``.
    """

    nats: Tensor
    passes: Tensor


class StepLogProb(NamedTuple):
    """A step of each row.

    Attributes:
        at: Its index, counted through all blocks, ``[batch]``.
        weight: The number of steps that it represents.
        log_prob: A lower bound of ``log P`` of the tokens that it writes, nats, ``[batch]``.
        wrote: Whether it writes some, bool, ``[batch]``.
    """

    at: Tensor
    weight: float
    log_prob: Tensor
    wrote: Tensor


@torch.no_grad()
def bounds_of_rows(
    samplers: Sequence[Kernel],
    x_0: Tensor,
    seeds: Sequence[int],
    *,
    given: Tensor | None = None,
    attention_mask: Tensor | None = None,
    sampled_steps: int | None = None,
    inner_draws: Sequence[int] | None = None,
) -> list[RowBounds]:
    """One draw of each sampler's upper bound of ``-log P(x_0)``, on shared denoiser passes; and its own passes.

    Passes are shared by samplers, and by steps of different numbers of steps that start from the same tokens: in a
    fixed order, step ``i`` of ``T`` and step ``2 i`` of ``2 T``.

    Samplers are of one denoiser, order and schedule; ``inner_draws`` holds one number for each, 1 by default. Arguments
    that are not mentioned, the bound of each sampler and errors are those of `EnergySampler.likelihood_bound`.

    With ``sampled_steps``, at most as many as all blocks have, the sum over steps is estimated from this many of them:
    each row draws one of each of as many equal strata. Unbiased; for differences between samplers, whose noise cancels.

    A sampler with particles has passes of its own: all particles but one go other ways; see `edlm.sampler.particles`.

    Raises:
        ValueError: the samplers differ in denoiser, order or schedule; ``sampled_steps`` is out of range, or given for
            an order that depends on the marginals, or ``inner_draws`` for particles.
    """
    _check_alike(samplers)
    inner_draws = [1] * len(samplers) if inner_draws is None else list(inner_draws)
    if len(inner_draws) != len(samplers) or min(inner_draws) < 1:
        raise ValueError(f"inner_draws must be >= 1, one for each of {len(samplers)} samplers, got {inner_draws}")
    streams, denoiser = RowStreams(seeds), samplers[0].denoiser
    target, real = inputs.check_data(denoiser, x_0, given, attention_mask)
    x_t = x_0.masked_fill(target, denoiser.mask_token_id)
    with_particles = [i for i, sampler in enumerate(samplers) if sampler.num_particles > 1]
    if with_particles and (sampled_steps is not None or any(inner_draws[i] > 1 for i in with_particles)):
        raise ValueError("num_particles > 1 needs all steps and inner_draws=1: its bound is one run of the particles")
    bounds = {i: RowBounds(*nats_of_surviving(samplers[i], x_0, x_t, streams, real)) for i in with_particles}
    samplers = [sampler for sampler in samplers if sampler.num_particles == 1]
    inner_draws = [number for i, number in enumerate(inner_draws) if i not in bounds]
    nothing = precise(torch.zeros(len(x_0), device=x_0.device))
    totals, counts = [nothing] * len(samplers), [torch.zeros_like(nothing, dtype=torch.long)] * len(samplers)
    for i, step in log_probs_of_steps(samplers, x_0, x_t, streams, real, sampled_steps, inner_draws):
        totals[i] = totals[i] - step.weight * step.log_prob
        counts[i] = counts[i] + step.wrote
    alone = iter([RowBounds(*pair) for pair in zip(totals, counts, strict=True)])
    return [bounds.get(i) or next(alone) for i in range(len(totals) + len(bounds))]


@torch.no_grad()
def log_probs_of_steps(
    samplers: Sequence[Kernel],
    x_0: Tensor,
    x_t: Tensor,
    streams: RowStreams,
    real: Tensor | None = None,
    sampled_steps: int | None = None,
    inner_draws: Sequence[int] | None = None,
) -> Iterator[tuple[int, StepLogProb]]:
    """The terms of `bounds_of_rows`, of samplers without particles, where the rows ``x_t`` are about to become ``x_0``.

    Yields:
        Index of a sampler, and a step of it.
    """
    if not samplers:
        return
    denoiser = samplers[0].denoiser
    inner_draws = [1] * len(samplers) if inner_draws is None else inner_draws
    reads_hidden = any(sampler.reads_hidden for sampler in samplers)
    passes = Passes(denoiser, reads_hidden, holds_hidden=reads_hidden)
    by_steps = {sampler.num_steps: sampler for sampler in samplers}
    plans = {num_steps: sampler.plan(x_t != x_0, streams) for num_steps, sampler in by_steps.items()}
    for sampler in samplers:
        check_first_step(sampler, plans[sampler.num_steps], x_t, real)
    x_ts = dict.fromkeys(plans, x_t)
    if sampled_steps is None:
        visits = merge(*(_due_steps(plan, x_ts, denoiser.mask_token_id) for plan in plans.values()))
        visits = ((num_steps, torch.full((len(x_0),), i), 1.0) for _, num_steps, i in visits)
    else:
        visits = _sampled_steps(len(x_0), list(plans.values()), sampled_steps, streams)
    for num_steps, at, weight in visits:
        plan, at = plans[num_steps], at.to(x_0.device)
        if sampled_steps is not None:
            x_ts[num_steps] = plan.teacher_forced(x_0, at, denoiser.mask_token_id)
        indices = [i for i, sampler in enumerate(samplers) if sampler.num_steps == num_steps]
        steps = begin_steps([samplers[i] for i in indices], plan, at, x_ts[num_steps], passes, real)
        for i, step in zip(indices, steps, strict=True):
            log_p = log_prob(samplers[i], step, streams.values(at % num_steps, at // num_steps), x_0, inner_draws[i])
            yield i, StepLogProb(at, weight, log_p, step.revealed.counts > 0)
        x_ts[num_steps] = steps[0].revealed.write(x_ts[num_steps], steps[0].revealed.gather(x_0))


def likelihood_bounds(samplers: Sequence[Kernel], x_0: Tensor, seeds: Sequence[int], **options: Any) -> list[Tensor]:
    """The bounds of `bounds_of_rows` alone, nats."""
    return [bounds.nats for bounds in bounds_of_rows(samplers, x_0, seeds, **options)]


def _due_steps(plan: RevealPlan, x_ts: Mapping[int, Tensor], mask_token_id: int) -> Iterator[tuple[Fraction, int, int]]:
    """The steps of a plan that reveal something, while ``x_ts[num_steps]`` are the tokens when the one before is done.

    Yields:
        Its time, so that steps of several plans from equal tokens can share a pass; ``num_steps``; and its number.
    """
    i = plan.next_due(0, x_ts[plan.num_steps] == mask_token_id)
    while i < plan.total_steps:
        yield Fraction(i, plan.num_steps), plan.num_steps, i
        i = plan.next_due(i + 1, x_ts[plan.num_steps] == mask_token_id)


def _sampled_steps(
    batch_size: int, plans: list[RevealPlan], sampled: int, streams: RowStreams
) -> list[tuple[int, Tensor, float]]:
    """List of ``(num_steps, step index of each row [batch], weight)``; it is the number of steps represented."""
    visits = []
    for plan in plans:
        if not 1 <= sampled <= plan.total_steps:
            raise ValueError(f"sampled_steps must lie in 1..{plan.total_steps}, the steps of all blocks, got {sampled}")
        edges = torch.arange(sampled + 1) * plan.total_steps // sampled
        widths = edges.diff()
        uniforms = streams.steps().uniform(torch.full((batch_size,), sampled))[:, 0].view(batch_size, sampled)
        drawn = edges[:-1] + (uniforms * widths).long()
        visits += [(plan.num_steps, drawn[:, j], float(widths[j])) for j in range(sampled)]
    return visits


def _check_alike(samplers: Sequence[Kernel]) -> None:
    attributes = {name: name for name in ("denoiser", "order", "block_length")} | {"schedule": "masking_schedule"}
    for name, attribute in attributes.items():
        values = [getattr(sampler, attribute) for sampler in samplers]
        if any(value is not values[0] and value != values[0] for value in values):
            got = "several" if name == "denoiser" else values
            raise ValueError(f"samplers that share their passes must have one {name}, got {got}")
