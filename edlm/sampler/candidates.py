"""One step: candidates, energies, weights, choice; and the same with the data among the candidates."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowGenerators
from edlm.energies.base import Decision, Step
from edlm.numerics import precise
from edlm.sampler import tokenwise as exact
from edlm.sampler.output import DecisionInfo
from edlm.sampler.proposal import draw_categorical, make_decision
from edlm.sampler.reweighting import choose, effective_sample_size, log_share_of_data, log_weights

if TYPE_CHECKING:
    from edlm.sampler.sampler import EnergySampler

MAX_REDRAWS = 100


class ImpossibleCandidates(ValueError):
    """All candidates of a row have infinite energy."""


def decide_step(
    sampler: EnergySampler, step: Step, revealed: Slots, uses: Tensor, streams: RowGenerators
) -> tuple[Tensor, list[DecisionInfo]]:
    """Decide and write the tokens of a step, group by group.

    Args:
        sampler: Its options, denoiser and energy.
        step: The step; its slots are what candidates fill.
        revealed: What is written: the first slots of each row.
        uses: Rows that use the energy, bool ``[batch]``.
        streams: Value streams of the rows for this step.

    Returns:
        ``x_s[batch, length]``, and diagnostics of each decision.
    """
    if sampler.exact and bool(uses.any()):
        info = replace(no_energy_asked(uses, num_candidates=1), judged=step.slots.counts * uses)
        return exact.decide(sampler, step, uses, streams), [info]
    x_partial, infos = step.x_t, []
    going = torch.ones_like(uses)  # rows that were not stopped by the policy "keep"
    for group in step.slots.groups(sampler.group_size):
        if not going.all():
            group = group.select(going[group.rows])
        tokens, info = _choose_candidate(sampler, step, group, x_partial, uses, streams)
        infos.append(info)
        going = going & ~info.kept
        written = going[group.rows] & (group.ranks < revealed.counts[group.rows])
        x_partial = group.select(written).write(x_partial, tokens[written])
    return x_partial, infos


def bound_of_step(
    sampler: EnergySampler,
    step: Step,
    revealed: Slots,
    uses: Tensor,
    streams: RowGenerators,
    x_0: Tensor,
    inner_draws: int = 1,
) -> Tensor:
    """``log P(x_0 at the revealed slots | x_t)`` from below, nats, ``[batch]``: (*) of ``inner_draws`` draws."""
    if sampler.exact and bool(uses.any()):
        return exact.log_prob(sampler, step, uses, x_0)
    x_partial, total = step.x_t, precise(step.x_t.new_zeros(len(uses)))
    k = sampler.num_candidates if uses.any() else 1
    num_data = inner_draws if sampler.scope == "sequence" else 1  # at step scope there is one way to fill it
    num_others = max(inner_draws, k - 1)
    for group in step.slots.groups(sampler.group_size):
        log_probs = step.denoiser.slot_log_probs(step.encoding, group)
        log_q = sampler.proposal(log_probs)
        data = group.gather(x_0)
        ours = group.ranks < revealed.counts[group.rows]  # at sequence scope, draws complete the data
        of_data = precise(log_q.gather(1, data[:, None])[:, 0])
        total = total + group.sum_rows(torch.where(ours, of_data, 0.0))
        if k > 1:
            tokens = draw_categorical(log_q, streams.uniform(group.counts.cpu(), num_data + num_others, uses))
            tokens[:, :num_data] = torch.where(ours[:, None], data[:, None], tokens[:, :num_data])
            decision = make_decision(step, group, x_partial, log_probs, tokens, log_q)
            # Data that the proposal rules out has an infinite bound, whatever its residual energy.
            judged = uses & (group.counts > 0) & torch.isfinite(decision.log_proposal[:, 0])
            weights = log_weights(_energies(sampler, decision, judged), sampler.weight_temperature)
            total = total + torch.where(judged, log_share_of_data(weights, k, num_data), 0.0)
        x_partial = group.write(x_partial, data)
    return total


def _energies(sampler: EnergySampler, decision: Decision, judged: Tensor) -> Tensor:
    """Energies ``[batch, k]``, 0 in rows that are not judged; with ``log q' - log p_theta`` put right if asked."""
    energies = sampler.energy(decision)
    if sampler.correct_proposal:
        # exp(-E / temperature) p_theta / q', where E holds log p_theta instead of log q'.
        share = sampler.weight_temperature - sampler.energy.proposal_share
        energies = energies + share * (decision.log_proposal - decision.log_p)
    return torch.where(judged[:, None], energies, 0.0)


def _choose_candidate(
    sampler: EnergySampler, step: Step, group: Slots, x_partial: Tensor, uses: Tensor, streams: RowGenerators
) -> tuple[Tensor, DecisionInfo]:
    """Draw k candidates a row, weigh them, choose one; its tokens at the slots, shape ``[num_slots]``."""
    log_probs = step.denoiser.slot_log_probs(step.encoding, group)
    log_q = sampler.proposal(log_probs)
    if not uses.any():
        tokens = draw_categorical(log_q, streams.uniform(group.counts.cpu()))
        return tokens[:, 0], no_energy_asked(uses, sampler.candidates_weighed)
    k = sampler.num_candidates
    tokens = draw_categorical(log_q, streams.uniform(group.counts.cpu(), k, uses))

    uses = uses & (group.counts > 0)
    redraws = torch.zeros_like(group.counts)
    while True:
        decision = make_decision(step, group, x_partial, log_probs, tokens, log_q)
        energies = _energies(sampler, decision, uses)
        weights = log_weights(energies, sampler.weight_temperature)
        impossible = torch.isneginf(weights).all(1)
        if sampler.on_impossible != "redraw" or not impossible.any() or redraws.max() >= MAX_REDRAWS:
            break
        redraws = redraws + impossible
        again = impossible[group.rows]
        fresh = streams.uniform((group.counts * impossible).cpu(), k)
        tokens[again] = draw_categorical(log_q[again], fresh)
    if impossible.any() and sampler.on_impossible != "keep":
        raise ImpossibleCandidates(
            f"all {k} candidates have infinite energy at t = {step.t[0].item():.4g} in rows "
            f"{impossible.nonzero()[:, 0].tolist()}, after {int(redraws.max())} redraws; "
            "more candidates, on_impossible='redraw' or 'keep', or a softer energy may help"
        )
    weights = weights.masked_fill(impossible[:, None], 0.0)
    chosen = torch.zeros_like(group.counts)
    if k > 1:
        drawing = uses.nonzero()[:, 0]
        chosen[drawing] = choose(weights[drawing], streams.uniform(uses.long().cpu())[:, 0])
    info = DecisionInfo(energies, effective_sample_size(weights), redraws, impossible, k * uses * (1 + redraws))
    return tokens.gather(1, chosen[group.rows, None])[:, 0], info


def no_energy_asked(uses: Tensor, num_candidates: int) -> DecisionInfo:
    """What is said of a decision that no energy judged: equal weights."""
    none = torch.zeros_like(uses, dtype=torch.long)
    energies = precise(none[:, None].expand(-1, num_candidates))
    return DecisionInfo(energies, energies[:, 0] + num_candidates, none, torch.zeros_like(uses), none)
