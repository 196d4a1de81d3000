"""Exact decisions: all tokens of a step, one round after the other, from a normalised energy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowGenerators
from edlm.energies.base import Step
from edlm.numerics import precise
from edlm.sampler.proposal import draw_categorical

if TYPE_CHECKING:
    from edlm.sampler.sampler import EnergySampler


def decide(sampler: EnergySampler, step: Step, uses: Tensor, streams: RowGenerators) -> Tensor:
    """Draw and write the tokens of a step.

    Args:
        sampler: Its options and energy.
        step: The step.
        uses: Rows that use the energy, bool ``[batch]``; the others draw from the marginals.
        streams: Value streams of the rows for this step.

    Returns:
        ``x_s``, shape ``[batch, length]``.
    """
    rounds = step.slots.rounds(sampler.round_size)
    uniforms = streams.uniform(step.slots.counts.cpu())[torch.cat(rounds).cpu()]
    parts = iter(uniforms.split([len(index) for index in rounds]))
    return _round_by_round(sampler, step, uses, lambda group, log_q: draw_categorical(log_q, next(parts))[:, 0])


def log_prob(sampler: EnergySampler, step: Step, uses: Tensor, x_0: Tensor) -> Tensor:
    """``log P(x_0 at the step's slots | x_t)`` of what `decide` draws, exact, nats, ``[batch]``."""
    data = step.slots.gather(x_0)
    if not sampler.proposal.is_default:
        return _tempered_log_prob(sampler, step, uses, x_0)
    log_q = sampler.energy.log_prob(step, data, sampler.round_size)
    if bool(uses[step.slots.rows].all()):
        return log_q
    log_p = precise(step.denoiser.slot_log_probs(step.encoding, step.slots).gather(1, data[:, None])[:, 0])
    return torch.where(uses, log_q, step.slots.sum_rows(log_p))


def _tempered_log_prob(sampler: EnergySampler, step: Step, uses: Tensor, x_0: Tensor) -> Tensor:
    """The same of a proposal that has to be normalised slot by slot."""
    totals = [precise(step.x_t.new_zeros(len(uses)))]

    def read(group: Slots, log_q: Tensor) -> Tensor:
        data = group.gather(x_0)
        totals.append(group.sum_rows(precise(log_q.gather(1, data[:, None])[:, 0])))
        return data

    _round_by_round(sampler, step, uses, read)
    return sum(totals)


def _round_by_round(
    sampler: EnergySampler, step: Step, uses: Tensor, tokens_of: Callable[[Slots, Tensor], Tensor]
) -> Tensor:
    """Write what ``tokens_of(slots, log_q)`` gives at each round; ``log_q`` needs no normalising constant."""
    state, x_partial = sampler.energy.start(step, sampler.round_size), step.x_t
    all_use = bool(uses[step.slots.rows].all())
    for index in step.slots.rounds(sampler.round_size):
        group = step.slots.part(index)
        logits = sampler.energy.next_logits(state, x_partial, group)
        if not all_use:
            base = step.denoiser.decode(step.encoding.at(group))
            logits = torch.where(uses[group.rows, None], logits, base)
        x_partial = group.write(x_partial, tokens_of(group, sampler.proposal(step.denoiser.possible(logits))))
    return x_partial
