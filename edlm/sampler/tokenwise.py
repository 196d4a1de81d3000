"""Decisions token by token: all tokens of a step, one round after the other, from a normalised energy."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowGenerators
from edlm.energies.base import Step
from edlm.numerics import precise
from edlm.sampler.kernel import Kernel
from edlm.sampler.output import DecisionInfo
from edlm.sampler.proposal import draw_categorical


def decide(kernel: Kernel, step: Step, streams: RowGenerators) -> tuple[Tensor, list[DecisionInfo]]:
    """Draw and write the tokens of a step; rows that do not use the energy draw from the marginals.

    Args and return value are those of `candidates.decide`; all rounds are one decision.
    """
    rounds = step.slots.rounds(kernel.round_size)
    uniforms = streams.uniform(step.slots.counts.cpu())[torch.cat(rounds).cpu()]
    parts = iter(uniforms.split([len(index) for index in rounds]))
    x_s = _round_by_round(kernel, step, lambda group, log_q: draw_categorical(log_q, next(parts))[:, 0])
    info = DecisionInfo.without_energy(step.uses, num_candidates=1)
    return x_s, [replace(info, judged=step.slots.counts * step.uses)]


def log_prob(kernel: Kernel, step: Step, streams: RowGenerators, x_0: Tensor, inner_draws: int = 1) -> Tensor:
    """``log P(x_0 at the step's slots | x_t)`` of what `decide` draws, exact, nats, ``[batch]``.

    Arguments are those of `candidates.log_prob`; nothing is drawn.
    """
    data = step.slots.gather(x_0)
    if not kernel.proposal.is_default:
        return _tempered_log_prob(kernel, step, x_0)
    log_q = kernel.energy.log_prob(step, data, kernel.round_size)
    if bool(step.uses[step.slots.rows].all()):
        return log_q
    log_p = precise(step.denoiser.slot_log_probs(step.encoding, step.slots).gather(1, data[:, None])[:, 0])
    return torch.where(step.uses, log_q, step.slots.sum_rows(log_p))


def _tempered_log_prob(kernel: Kernel, step: Step, x_0: Tensor) -> Tensor:
    """The same for a proposal that has to be normalised slot by slot."""
    totals = [precise(step.x_t.new_zeros(len(step.uses)))]

    def read(group: Slots, log_q: Tensor) -> Tensor:
        data = group.gather(x_0)
        totals.append(group.sum_rows(precise(log_q.gather(1, data[:, None])[:, 0])))
        return data

    _round_by_round(kernel, step, read)
    return sum(totals)


def _round_by_round(kernel: Kernel, step: Step, tokens_of: Callable[[Slots, Tensor], Tensor]) -> Tensor:
    """Write ``tokens_of(slots, log_q)`` at each round; ``log_q`` needs no normalising constant."""
    state, x_partial = kernel.energy.start(step, kernel.round_size), step.x_t
    all_use = bool(step.uses[step.slots.rows].all())
    for index in step.slots.rounds(kernel.round_size):
        group = step.slots.part(index)
        logits = kernel.energy.next_logits(state, x_partial, group)
        if not all_use:
            base = step.denoiser.decode(step.encoding.at(group))
            logits = torch.where(step.uses[group.rows, None], logits, base)
        x_partial = group.write(x_partial, tokens_of(group, kernel.proposal(step.denoiser.possible(logits))))
    return x_partial
