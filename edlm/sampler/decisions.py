"""Decisions of a step, and the bound of their log-probability: by candidates, or token by token.

By candidates: energies, weights, choice; in the bound with the data among the candidates. Token by token, from a
normalised energy: all tokens of a step, one round after the other; the log-probability is exact.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowGenerators
from edlm.energies.base import Decision, Step
from edlm.numerics import precise
from edlm.sampler.kernel import Kernel
from edlm.sampler.output import Choice, DecisionInfo
from edlm.sampler.proposal import draw_categorical, make_decision
from edlm.sampler.reweighting import effective_sample_size, log_share_of_data, log_weights

MAX_REDRAWS = 100


class ImpossibleCandidates(ValueError):
    """All candidates of a row have infinite energy."""


def decide(kernel: Kernel, step: Step, streams: RowGenerators, num_likeliest: int = 0) -> tuple[Tensor, list[Choice]]:
    """Decide and write the tokens of a step, group by group: ``x_s[batch, length]``, and each decision.

    Candidates fill the step's slots, and its reveal set is written; ``streams`` are the rows' values of this step, and
    so many of the likeliest tokens are recorded where there are no candidates.

    Raises:
        ImpossibleCandidates: under ``on_impossible="raise"``, or when redraws run out.
    """
    if _is_tokenwise(kernel, step):
        return _decide_tokenwise(kernel, step, streams, num_likeliest)
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
    if _is_tokenwise(kernel, step):
        return _tokenwise_log_prob(kernel, step, x_0)
    uses, x_partial, total = step.uses, step.x_t, precise(step.x_t.new_zeros(len(step.uses)))
    k = kernel.num_candidates if uses.any() else 1
    num_data = inner_draws if kernel.scope == "sequence" else 1  # at step scope there is one way to fill it
    num_others = max(inner_draws, k - 1)
    for group in step.slots.groups(kernel.group_size):
        log_probs = step.denoiser.slot_log_probs(step.encoding, group)
        log_q = kernel.proposal(log_probs)
        data = group.gather(x_0)
        revealed = group.ranks < step.revealed.counts[group.rows]  # at sequence scope, draws complete the data
        of_data = precise(log_q.gather(1, data[:, None])[:, 0])
        total = total + group.sum_rows(torch.where(revealed, of_data, 0.0))
        if k > 1:
            tokens = draw_categorical(log_q, streams.uniform(group.counts.cpu(), num_data + num_others, uses))
            tokens[:, :num_data] = torch.where(revealed[:, None], data[:, None], tokens[:, :num_data])
            decision = make_decision(step, group, x_partial, log_probs, tokens, log_q)
            # Data that the proposal rules out has an infinite bound, whatever its residual energy.
            judged = uses & (group.counts > 0) & torch.isfinite(decision.log_proposal[:, 0])
            weights = log_weights(_energies(kernel, decision, judged), kernel.weight_temperature)
            total = total + torch.where(judged, log_share_of_data(weights, k, num_data), 0.0)
        x_partial = group.write(x_partial, data)
    return total


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
    log_probs = step.denoiser.slot_log_probs(step.encoding, group)
    log_q = kernel.proposal(log_probs)
    if not step.uses.any():
        tokens = draw_categorical(log_q, streams.uniform(group.counts.cpu()))
        info = DecisionInfo.without_energy(step.uses, kernel.candidates_weighed)
        return tokens[:, 0], Choice(
            **vars(info), slots=group, tokens=tokens, likeliest=_likeliest(log_q, num_likeliest)
        )
    k = kernel.num_candidates
    tokens = draw_categorical(log_q, streams.uniform(group.counts.cpu(), k, step.uses))

    uses = step.uses & (group.counts > 0)
    redraws = torch.zeros_like(group.counts)
    while True:
        decision = make_decision(step, group, x_partial, log_probs, tokens, log_q)
        energies = _energies(kernel, decision, uses)
        weights = log_weights(energies, kernel.weight_temperature)
        impossible = torch.isneginf(weights).all(1)
        if kernel.on_impossible != "redraw" or not impossible.any() or redraws.max() >= MAX_REDRAWS:
            break
        redraws = redraws + impossible
        again = impossible[group.rows]
        fresh = streams.uniform((group.counts * impossible).cpu(), k)
        tokens[again] = draw_categorical(log_q[again], fresh)
    if impossible.any() and kernel.on_impossible != "keep":
        raise ImpossibleCandidates(
            f"all {k} candidates have infinite energy at t = {step.t[0].item():.4g} in rows "
            f"{impossible.nonzero()[:, 0].tolist()}, after {int(redraws.max())} redraws; "
            "more candidates, on_impossible='redraw' or 'keep', or a softer energy may help"
        )
    weights = weights.masked_fill(impossible[:, None], 0.0)
    chosen = torch.zeros_like(group.counts)
    if k > 1:
        drawing = uses.nonzero()[:, 0]
        chosen[drawing] = draw_categorical(weights[drawing], streams.uniform(uses.long().cpu()))[:, 0]
    info = DecisionInfo(energies, effective_sample_size(weights), redraws, impossible, k * uses * (1 + redraws))
    choice = Choice(**vars(info), slots=group, tokens=tokens, chosen=chosen, weights=weights.softmax(1))
    return tokens.gather(1, chosen[group.rows, None])[:, 0], choice


def _likeliest(log_q: Tensor, number: int) -> tuple[Tensor, Tensor] | None:
    """Tokens and probabilities, both ``[num_slots, number]``, of logits ``[num_slots, vocab_size]``."""
    if not number:
        return None
    log_probs, tokens = log_q.log_softmax(-1).topk(min(number, log_q.shape[-1]))
    return tokens, log_probs.exp()


def _is_tokenwise(kernel: Kernel, step: Step) -> bool:
    return kernel.tokenwise and bool(step.uses.any())


def _decide_tokenwise(
    kernel: Kernel, step: Step, streams: RowGenerators, num_likeliest: int
) -> tuple[Tensor, list[Choice]]:
    """All rounds are one decision; rows that do not use the energy draw from the marginals."""
    rounds = step.slots.rounds(kernel.round_size)
    uniforms = streams.uniform(step.slots.counts.cpu())[torch.cat(rounds).cpu()]
    parts, tops = iter(uniforms.split([len(index) for index in rounds])), []

    def draw(group: Slots, log_q: Tensor) -> Tensor:
        tops.append(_likeliest(log_q, num_likeliest))
        return draw_categorical(log_q, next(parts))[:, 0]

    x_s = _round_by_round(kernel, step, draw)
    info = replace(DecisionInfo.without_energy(step.uses, num_candidates=1), judged=step.slots.counts * step.uses)
    back = torch.cat(rounds).argsort()
    likeliest = tuple(torch.cat(parts)[back] for parts in zip(*tops, strict=True)) if num_likeliest else None
    return x_s, [Choice(**vars(info), slots=step.slots, tokens=step.slots.gather(x_s)[:, None], likeliest=likeliest)]


def _tokenwise_log_prob(kernel: Kernel, step: Step, x_0: Tensor) -> Tensor:
    """``log P(x_0 at the step's slots | x_t)`` of what `_decide_tokenwise` draws, exact, nats, ``[batch]``."""
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
