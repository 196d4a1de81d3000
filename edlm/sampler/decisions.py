"""Decisions of a step, and the bound of their log-probability: by candidates, or exact.

By candidates: energies, weights, choice; in the bound with the data among the candidates. Exact, from a normalised
energy that can be drawn from: all tokens of a step; their log-probability is known.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowGenerators
from edlm.energies.decision import Decision, Step
from edlm.energies.exact import draw_tokens
from edlm.energies.laws import Likeliest
from edlm.energies.proposal import decision_of, draw_candidates, draw_categorical, make_decision
from edlm.numerics import precise
from edlm.sampler.impossible import ImpossibleCandidates
from edlm.sampler.kernel import Kernel
from edlm.sampler.output import Choice, DecisionInfo
from edlm.sampler.reweighting import effective_sample_size, log_share_of_data, log_weights

MAX_REDRAWS = 100


def decide(kernel: Kernel, step: Step, streams: RowGenerators, num_likeliest: int = 0) -> tuple[Tensor, list[Choice]]:
    """Decide and write the tokens of a step, group by group: ``x_s[batch, length]``, and each decision.

    Candidates fill the step's slots, and its reveal set is written; ``streams`` are the rows' values of this step;
    without candidates the ``num_likeliest`` likeliest tokens are recorded.

    Raises:
        ImpossibleCandidates: under ``on_impossible="raise"``, or when redraws run out.
    """
    if _decides_exactly(kernel, step):
        return _decide_exactly(kernel, step, streams, num_likeliest)
    x_partial, infos = step.x_t, []
    active = torch.ones_like(step.uses)  # rows that were not stopped by the policy "keep"
    for group in step.slots.groups(kernel.group_size):
        if not active.all():
            group = group.select(active[group.rows])
        tokens, info = _choose_candidate(kernel, step, group, x_partial, streams, num_likeliest)
        infos.append(info)
        active = active & ~info.kept
        written = active[group.rows] & (group.ranks < step.revealed.counts[group.rows])
        x_partial = group.select(written).write(x_partial, tokens[written])
    return x_partial, infos


def log_prob(kernel: Kernel, step: Step, streams: RowGenerators, x_0: Tensor, inner_draws: int = 1) -> Tensor:
    """A lower bound of ``log P(x_0 at the revealed slots | x_t)``, nats, ``[batch]``; the step holds data so far.

    References:
        Equation (*) of the project's method page; ``inner_draws``: see `EnergySampler.likelihood_bound`.
    """
    if _decides_exactly(kernel, step):
        return _exact_log_prob(kernel, step, x_0)
    total = precise(step.x_t.new_zeros(len(step.uses)))
    k = kernel.num_candidates if step.uses.any() else 1
    num_data = inner_draws if kernel.scope == "sequence" else 1  # at step scope there is one way to fill it
    numbers = (num_data, max(inner_draws, k - 1)) if k > 1 else (0, 0)
    for log_q, weights, judged in _along_data(kernel, step, streams, x_0, numbers):
        total = total + log_q
        if k > 1:
            total = total + torch.where(judged, log_share_of_data(weights, k, num_data), 0.0)
    return total


def survival(kernel: Kernel, step: Step, streams: RowGenerators, x_0: Tensor) -> tuple[Tensor, Tensor]:
    """A step of particles that write the data ``x_0``, at step scope; see `edlm.sampler.particles`.

    Returns:
        ``log q' - E`` of the data, the step's part of ``log gamma``; and the log of the mean weight of the candidates,
        of which the data is one. Nats, ``[batch]``.
    """
    gamma = mean = precise(step.x_t.new_zeros(len(step.uses)))
    k = kernel.num_candidates
    for log_q, weights, _ in _along_data(kernel, step, streams, x_0, (int(step.uses.any()), k - 1)):
        gamma = gamma + log_q + weights[:, 0]
        mean = mean + weights.logsumexp(1) - math.log(weights.shape[1])
    return gamma, mean


def _along_data(
    kernel: Kernel, step: Step, streams: RowGenerators, x_0: Tensor, numbers: tuple[int, int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Decide the data group by group.

    Yields:
        ``log q'`` of the group's data that is revealed, nats, ``[batch]``; log weights of fillings by the data and of
        other candidates, ``numbers`` of them, ``[batch, n]``, 0 in rows that are not judged; and which rows are.
    """
    uses, x_partial, (num_data, num_others) = step.uses, step.x_t, numbers
    for group in step.slots.groups(kernel.group_size):
        log_probs = step.denoiser.slot_log_probs(step.encoding, group)
        log_q = kernel.proposal(log_probs)
        data = group.gather(x_0)
        revealed = group.ranks < step.revealed.counts[group.rows]  # at sequence scope, draws complete the data
        of_data = precise(log_q.gather(1, data[:, None])[:, 0])
        of_data = group.sum_rows(torch.where(revealed, of_data, 0.0))
        judged = uses & (group.counts > 0)
        weights = of_data.new_zeros(len(uses), max(1, sum(numbers)))
        if num_data:
            tokens = draw_categorical(log_q, streams.uniform(group.counts.cpu(), num_data + num_others, uses))
            tokens[:, :num_data] = torch.where(revealed[:, None], data[:, None], tokens[:, :num_data])
            decision = make_decision(step, group, x_partial, log_probs, tokens, log_q)
            # Data that the proposal rules out has an infinite bound, whatever its residual energy.
            judged = judged & torch.isfinite(decision.log_proposal[:, 0])
            weights = log_weights(_energies(kernel, decision, judged), kernel.weight_temperature)
        yield of_data, weights, judged
        x_partial = group.write(x_partial, data)


def _energies(kernel: Kernel, decision: Decision, judged: Tensor) -> Tensor:
    """Energies ``[batch, k]``, 0 in rows that are not judged; under ``correct_proposal`` with its correction."""
    energies = kernel.energy(decision)
    if kernel.correct_proposal:
        # exp(-E / temperature) p_theta / q', where E holds log p_theta instead of log q'.
        share = kernel.weight_temperature - kernel.energy.proposal_share
        energies = energies + share * (decision.log_proposal - decision.log_p)
    return torch.where(judged[:, None], energies, 0.0)


def _choose_candidate(
    kernel: Kernel, step: Step, group: Slots, x_partial: Tensor, streams: RowGenerators, num_likeliest: int
) -> tuple[Tensor, Choice]:
    """Draw k candidates a row, weigh them, choose one; its tokens at the slots, shape ``[num_slots]``."""
    if not step.uses.any():
        uniforms = streams.uniform(group.counts.cpu())
        tokens, likeliest = draw_tokens(step, group, kernel.proposal, uniforms, num_likeliest)
        info = DecisionInfo.without_energy(step.uses, kernel.candidates_weighed)
        return tokens, Choice(**vars(info), slots=group, tokens=tokens[:, None], likeliest=likeliest)
    k = kernel.num_candidates
    draws = draw_candidates(step, group, kernel.proposal, streams.uniform(group.counts.cpu(), k, step.uses))

    uses = step.uses & (group.counts > 0)
    redraws = torch.zeros_like(group.counts)
    while True:
        energies = _energies(kernel, decision_of(step, group, x_partial, draws), uses)
        weights = log_weights(energies, kernel.weight_temperature)
        impossible = torch.isneginf(weights).all(1)
        if kernel.on_impossible != "redraw" or not impossible.any() or redraws.max() >= MAX_REDRAWS:
            break
        redraws = redraws + impossible
        again = impossible[group.rows].nonzero()[:, 0]
        fresh = streams.uniform((group.counts * impossible).cpu(), k)
        for table, drawn in zip(draws, draw_candidates(step, group.part(again), kernel.proposal, fresh), strict=True):
            table[again] = drawn
    if impossible.any() and not kernel.keeps_impossible:
        advice = "more candidates, on_impossible='redraw' or 'keep', or a softer energy may help"
        tried = f", after {int(redraws.max())} redraws; {advice}"
        raise ImpossibleCandidates.at_first(f"all {k} candidates", impossible, step.t, tried)
    weights = weights.masked_fill(impossible[:, None], 0.0)
    chosen = torch.zeros_like(group.counts)
    if k > 1:
        drawing = uses.nonzero()[:, 0]
        chosen[drawing] = draw_categorical(weights[drawing], streams.uniform(uses.long().cpu()))[:, 0]
    info = DecisionInfo(energies, effective_sample_size(weights), redraws, impossible, k * uses * (1 + redraws))
    choice = Choice(**vars(info), slots=group, tokens=draws.tokens, chosen=chosen, weights=weights.softmax(1))
    return draws.tokens.gather(1, chosen[group.rows, None])[:, 0], choice


def _decides_exactly(kernel: Kernel, step: Step) -> bool:
    return kernel.tokenwise and bool(step.uses.any())


def _decide_exactly(
    kernel: Kernel, step: Step, streams: RowGenerators, num_likeliest: int
) -> tuple[Tensor, list[Choice]]:
    """The whole step is one decision; rows that do not use the energy draw from the marginals."""
    slots, tokens = step.slots, torch.empty_like(step.slots.positions)
    uniforms = streams.uniform(slots.counts.cpu(), 2)
    of_energy, others = _by_use(step)
    at = of_energy.cpu()
    drawing = (kernel.round_size, kernel.proposal, num_likeliest)
    tokens[of_energy], likeliest = kernel.energy.sample(_part_of(step, of_energy), uniforms[at], *drawing)
    if len(others):
        by_marginals = uniforms[others.cpu(), :1]
        tokens[others], tops = draw_tokens(step, slots.part(others), kernel.proposal, by_marginals, num_likeliest)
        likeliest = _merged(likeliest, tops, torch.cat([of_energy, others]).argsort())
    info = replace(DecisionInfo.without_energy(step.uses, num_candidates=1), judged=slots.counts * step.uses)
    choice = Choice(**vars(info), slots=slots, tokens=tokens[:, None], likeliest=likeliest)
    return slots.write(step.x_t, tokens), [choice]


def _exact_log_prob(kernel: Kernel, step: Step, x_0: Tensor) -> Tensor:
    """``log P(x_0 at the step's slots | x_t)`` of what `_decide_exactly` draws, exact, nats, ``[batch]``."""
    of_energy, others = _by_use(step)
    part = _part_of(step, of_energy)
    total = kernel.energy.log_prob(part, part.slots.gather(x_0), kernel.round_size, kernel.proposal)
    if not len(others):
        return total
    slots = step.slots.part(others)
    log_q = kernel.proposal(step.denoiser.slot_log_probs(step.encoding, slots))
    return total + slots.sum_rows(precise(log_q.gather(1, slots.gather(x_0)[:, None])[:, 0]))


def _by_use(step: Step) -> tuple[Tensor, Tensor]:
    """Indices of the slots of rows that use the energy, and of the others."""
    uses = step.uses[step.slots.rows]
    return uses.nonzero()[:, 0], (~uses).nonzero()[:, 0]


def _part_of(step: Step, index: Tensor) -> Step:
    """The step of whole rows of its slots."""
    return step if len(index) == len(step.slots) else replace(step, slots=step.slots.part(index))


def _merged(one: Likeliest, other: Likeliest, back: Tensor) -> Likeliest:
    """The likeliest tokens of all slots, as many as both parts have."""
    if one is None or other is None:
        return None
    number = min(one[0].shape[1], other[0].shape[1])
    return tuple(torch.cat([a[:, :number], b[:, :number]])[back] for a, b in zip(one, other, strict=True))
