"""The bound of a sampler with particles: runs in which one particle writes the data; see `edlm.sampler.particles`."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from edlm.diffusion.streams import RowStreams
from edlm.energies.decision import Step
from edlm.sampler.decisions import survival
from edlm.sampler.kernel import Kernel
from edlm.sampler.particles import Particles, mean_weights
from edlm.sampler.passes import Passes
from edlm.sampler.step import begin_steps, check_first_step, take_step


def nats_of_surviving(
    kernel: Kernel, x_0: Tensor, x_t: Tensor, streams: RowStreams, real: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One draw of the upper bound of ``-log P_N(x_0)``, ``log Z^ - log gamma(x_0)``.

    Args:
        kernel: A sampler with ``num_particles > 1``.
        x_0: Data, shape ``[batch, length]``.
        x_t: The same with masks where it is predicted.
        streams: Of the rows.
        real: False at padding, same shape; None without.

    Returns:
        Nats, float64, and denoiser passes of all particles in which they wrote tokens, both ``[batch]``.
    """
    number, num_rows = kernel.num_particles, len(x_0)
    plan = kernel.plan(x_t != x_0, streams)
    check_first_step(kernel, plan, x_t, real)
    plan, draws, passes = plan.repeated(number), streams.particles(number), Passes.of(kernel)
    particles = Particles.of(kernel, num_rows, x_0.device)
    x_0, x_t, real = (t if t is None else t.repeat_interleave(number, 0) for t in (x_0, x_t, real))
    log_gamma, counts, mask = particles.log_evidence, torch.zeros_like(x_0[::number, 0]), kernel.denoiser.mask_token_id
    i = plan.next_due(0, x_t == mask)
    while i < plan.total_steps:
        block, at = divmod(i, kernel.num_steps)
        (step,) = begin_steps([kernel], plan, x_t.new_full((len(x_t),), i), x_t, passes, real)
        first, others = (_part(step, of_data, number) for of_data in (True, False))
        of_step, of_first = survival(kernel, first, draws.values(at, block), x_0)
        x_s, info = take_step(kernel, others, draws.values(at, block), i)
        x_s = first.slots.write(x_s, first.slots.gather(x_0))
        x_t = torch.cat([x_s, x_t[:, x_s.shape[1] :]], 1)
        log_gamma = log_gamma + of_step[::number]
        of_first = of_first.where(~torch.isneginf(of_step), 0.0)  # impossible data goes on, with a bound of inf
        counts = counts + (step.revealed.counts > 0).view(num_rows, number).sum(1)
        particles = particles.weighed(of_first + mean_weights(info, kernel.weight_temperature))
        particles, index = particles.resampled(
            particles.need_resampling(), partial(streams.resampling, at, block), holds_first=True
        )
        x_t = x_t[index]
        i = plan.next_due(i + 1, x_t == mask)
        if i // kernel.num_steps > block:
            particles, index = particles.settle(partial(streams.resampling, kernel.num_steps, block), holds_first=True)
            x_t = x_t[index]
    impossible = torch.isneginf(log_gamma)
    return torch.where(impossible, torch.inf, particles.log_evidence - log_gamma), counts


def _part(step: Step, of_data: bool, number: int) -> Step:
    """The step of the first particle of each row, or of the others; all are at step scope."""
    chosen = (step.slots.rows % number == 0) == of_data
    slots = step.slots.part(chosen.nonzero()[:, 0])
    return replace(step, slots=slots, revealed=slots)
