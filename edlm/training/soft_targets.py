"""Soft targets: what the denoiser itself says of a token once those decided before it in its step are known."""

from dataclasses import replace

import torch
from torch import Tensor

from edlm.diffusion.slots import Slots, num_rounds
from edlm.energies.decision import Decision, Targets
from edlm.numerics import precise


def with_soft_targets(decision: Decision, log_probs: Tensor, per_row: int, uniforms: Tensor) -> Decision:
    """The same decision, learnt at some of its slots only, each from a law in place of the data's token.

    The law of slot ``j`` is ``p_theta(x_j | x_t, tokens of earlier rounds)``: a denoiser pass with these revealed,
    which a head is to tell in advance. ``log_p`` is then the mean of ``log p_theta(x_j | x_t)`` under it.

    Args:
        decision: With the data as its only candidate.
        log_probs: The marginals of all its slots, nats, ``[num_slots, vocab_size]``.
        per_row: Slots of each row that are learnt, or all where it has fewer.
        uniforms: In [0, 1), ``[batch, length]``, on any device; they choose these slots.
    """
    step, slots, denoiser = decision.step, decision.slots, decision.step.denoiser
    index = _chosen(slots, per_row, uniforms)
    rows = slots.rows[index]
    rounds = slots.ranks % num_rounds(slots.counts, decision.round_size)[slots.rows]
    never = torch.iinfo(torch.int64).max
    known = slots.write(torch.full_like(step.x_t, never), rounds)[rows] < rounds[index, None]
    x_t = torch.where(known, decision.candidates[rows, 0], step.x_t[rows])
    is_mask = denoiser.mask_token_id
    t = step.t[rows] * (x_t == is_mask).sum(1) / (step.x_t[rows] == is_mask).sum(1)
    numbers = torch.arange(len(rows), device=rows.device)
    alone = Slots(numbers, slots.positions[index], torch.zeros_like(rows), len(rows))
    targets = Targets(index, denoiser.slot_log_probs(denoiser.encode(x_t, t), alone).exp())
    log_p = log_probs.new_zeros(len(slots), 1)
    log_p[index, 0] = targets.mean(log_probs[index])
    return replace(decision, slot_log_proposal=log_p, slot_log_p=log_p, targets=targets)


def _chosen(slots: Slots, per_row: int, uniforms: Tensor) -> Tensor:
    """Numbers of at most ``per_row`` random slots of each row, ascending."""
    keys = torch.full(uniforms.shape, torch.inf, dtype=torch.float64)
    rows, positions = slots.rows.cpu(), slots.positions.cpu()
    keys[rows, positions] = precise(uniforms.cpu())[rows, positions]
    last = keys.sort(1).values[:, min(per_row, keys.shape[1]) - 1]
    return (keys[rows, positions] <= last[rows]).nonzero()[:, 0].to(slots.rows.device)
