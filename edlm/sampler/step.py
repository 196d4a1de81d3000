"""The steps of a sampler: one denoiser pass, the reveal set, and its decisions."""

from collections.abc import Generator, Sequence
from functools import partial

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.denoisers.scoring import scores_at
from edlm.diffusion.plan import RevealPlan
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowGenerators, RowStreams
from edlm.energies.decision import Step
from edlm.numerics import widest_float
from edlm.sampler import inputs
from edlm.sampler.decisions import decide
from edlm.sampler.kernel import Kernel
from edlm.sampler.output import Choice, DecisionInfo, StepInfo, Steps, merge_decisions
from edlm.sampler.particles import Particles
from edlm.sampler.passes import Passes


@torch.no_grad()
def denoise(
    kernel: Kernel,
    x_t: Tensor,
    streams: RowStreams,
    *,
    target: Tensor | None = None,
    attention_mask: Tensor | None = None,
) -> Generator[tuple[Tensor, StepInfo], None, Steps]:
    """Run the steps that decide something, one by one; arguments and errors are those of `EnergySampler.fill`.

    Yields:
        After each of them its ``x_s[batch, length]`` and its diagnostics.

    Returns:
        All steps.
    """
    masked, real = inputs.check_tokens(kernel.denoiser, x_t, target, attention_mask)
    plan = kernel.plan(masked, streams)
    check_first_step(kernel, plan, x_t, real)
    passes, number, mask = Passes.of(kernel), kernel.num_particles, kernel.denoiser.mask_token_id
    particles, idle, taken = Particles.of(kernel, len(x_t), x_t.device), idle_step(kernel, x_t), {}
    plan, draws = plan.repeated(number), streams.particles(number)
    x_t, real = (table if table is None else table.repeat_interleave(number, 0) for table in (x_t, real))
    i = plan.next_due(0, x_t == mask)
    while i < plan.total_steps:
        block, at = divmod(i, kernel.num_steps)
        (step,) = begin_steps([kernel], plan, x_t.new_full((len(x_t),), i), x_t, passes, real)
        x_s, info = take_step(kernel, step, draws.values(at, block), i)
        particles, index, taken[i] = particles.survive(kernel, step, info, partial(streams.resampling, at, block))
        x_t = torch.cat([x_s, x_t[:, x_s.shape[1] :]], 1)[index]
        following = plan.next_due(i + 1, x_t == mask)
        if following // kernel.num_steps > block:
            particles, index = particles.settle(partial(streams.resampling, kernel.num_steps, block))
            x_t = x_t[index]
        yield x_t[::number], taken[i]
        i = following
    return Steps(taken, idle, plan.num_steps, plan.num_blocks)


def denoised(kernel: Kernel, x_t: Tensor, streams: RowStreams, **options: Tensor | None) -> tuple[Tensor, Steps]:
    """The tokens after all steps of `denoise`, and these."""
    steps, tokens = denoise(kernel, x_t, streams, **options), x_t
    while True:
        try:
            tokens, _ = next(steps)
        except StopIteration as end:
            return tokens.clone(), end.value


def begin_steps(
    kernels: Sequence[Kernel], plan: RevealPlan, at: Tensor, x_t: Tensor, passes: Passes, real: Tensor | None = None
) -> list[Step]:
    """The steps ``at[batch]`` of kernels that differ in energies and decisions only, from one pass on ``x_t``.

    Only rows that are due are run. Positions that are not revealed are filled only where an energy judges whole
    sequences. Of a denoiser that writes in blocks, a step ends with its row's block.

    ``real`` is False at padding, bool, ``[batch, length]``; None without padding.
    """
    denoiser = kernels[0].denoiser
    block = plan.block(at)
    masked = (x_t == denoiser.mask_token_id) & block
    t = time_of(at % plan.num_steps, plan.num_steps)
    due = plan.num_due(at, masked) > 0
    seen, seen_real = _cut(denoiser, x_t, real, block & masked.any(1, keepdim=True))
    width = seen.shape[1]
    uses = [due & kernel.uses_energy(t) for kernel in kernels]
    fills = [_positions_to_fill(k, of_rows, masked, due) for k, of_rows in zip(kernels, uses, strict=True)]
    rows = torch.stack([due, *(fill.any(1) for fill in fills if fill is not None)]).any(0).nonzero()[:, 0]
    t = t.float()
    reads_hidden = (plan.rule is not None and plan.rule.reads_hidden) or any(
        k.energy.reads_hidden for k, of_rows in zip(kernels, uses, strict=True) if of_rows.any()
    )
    encoding = passes.encode(seen, t, rows, seen_real, block[:, :width], reads_hidden) if len(rows) else None
    scores = None if plan.rule is None else scores_at(plan.rule, denoiser, encoding, masked & due[:, None])
    revealed = plan.slots(at, masked, scores)
    steps = []
    for kernel, fill, of_rows in zip(kernels, fills, uses, strict=True):
        slots = revealed
        if fill is not None:
            fill[revealed.rows, revealed.positions] = False
            slots = revealed.followed_by(Slots.where(fill))
        keeps = kernel.energy is not None and kernel.energy.reads_marginals
        steps.append(Step(denoiser, seen, t, encoding, slots, seen_real, revealed, of_rows, passes.memory, keeps))
    return steps


def begin_step(kernel: Kernel, i: int, x_t: Tensor) -> Step:
    """Step ``i``, in an order that is not random, of rows ``x_t[batch, length]`` that began fully masked."""
    plan = kernel.plan(torch.ones_like(x_t, dtype=torch.bool), RowStreams([0] * len(x_t)))
    return begin_steps([kernel], plan, x_t.new_full((len(x_t),), i), x_t, Passes.of(kernel))[0]


def take_step(
    kernel: Kernel, step: Step, streams: RowGenerators, number: int, num_likeliest: int = 0
) -> tuple[Tensor, StepInfo]:
    """Decide a step: its ``x_s``, as long as its ``x_t``, and its diagnostics as step ``number`` of all blocks."""
    x_s, choices = decide(kernel, step, streams, num_likeliest)
    decisions = choices or [DecisionInfo.without_energy(step.uses, kernel.candidates_weighed)]
    calls, num_revealed = int(len(step.slots) > 0), (x_s != step.x_t).sum(1)
    return x_s, _info(kernel, decisions, number % kernel.num_steps, num_revealed, calls, tuple(choices))


def idle_step(kernel: Kernel, x_t: Tensor) -> StepInfo:
    """Diagnostics of a first step of rows ``x_t[batch, length]`` in which nothing is decided."""
    nothing = torch.zeros_like(x_t[:, :1], dtype=torch.bool).any(1)
    decision = DecisionInfo.without_energy(nothing, kernel.candidates_weighed * kernel.num_particles)
    return _info(kernel, [decision], 0, nothing.long(), 0, ())


def _info(
    kernel: Kernel,
    decisions: Sequence[DecisionInfo],
    at: int,
    num_revealed: Tensor,
    denoiser_calls: int,
    choices: tuple[Choice, ...],
) -> StepInfo:
    merged = merge_decisions(decisions, grouped=kernel.group_size is not None and not kernel.tokenwise)
    how = {"num_revealed": num_revealed, "denoiser_calls": denoiser_calls, "choices": choices}
    return StepInfo(step=at, t=1 - at / kernel.num_steps, **how, **merged)


def check_first_step(kernel: Kernel, plan: RevealPlan, x_t: Tensor, real: Tensor | None) -> None:
    """Raise ValueError where the energy needs complete sequences, or a prefix without masks, and masks stay."""
    first = plan.block(torch.zeros(len(x_t), dtype=torch.long, device=x_t.device))
    seen, real = _cut(kernel.denoiser, x_t, real, first)
    inputs.check_completeness(kernel, seen, first[:, : seen.shape[1]], real)


def _cut(denoiser: Denoiser, x_t: Tensor, real: Tensor | None, block: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a step sees: of a denoiser that writes in blocks, rows up to the end of ``block[batch, length]``.

    Rows without one are as long as the longest.
    """
    if denoiser.block_size is None or not block.any():
        return x_t, real
    places = torch.arange(x_t.shape[1], device=x_t.device)
    last = torch.where(block, places, -1).amax(1)
    ends = (last // denoiser.block_size + 1) * denoiser.block_size
    width = min(int(ends.max()), x_t.shape[1])
    ends = ends.masked_fill(last < 0, width).clamp(max=width)
    inside = places[:width] < ends[:, None]
    inside = inside if real is None else inside & real[:, :width]
    return x_t[:, :width], None if bool(inside.all()) else inside


def _positions_to_fill(kernel: Kernel, uses: Tensor, masked: Tensor, due: Tensor) -> Tensor | None:
    """Positions that candidates fill, bool ``[batch, length]``; None for the reveal set alone."""
    if kernel.scope == "step" or not uses.any():
        return None
    return masked.clone() if kernel.energy.needs_every_row else masked & due[:, None]


def time_of(at: Tensor, num_steps: int) -> Tensor:
    """Time ``1 - i/T`` at which step ``i`` starts, as precise as the device can, shape ``[batch]``."""
    return (num_steps - at).to(widest_float(at.device)) / num_steps
