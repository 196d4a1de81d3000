"""What a reader from left to right sees of candidates: up to the first mask, and up to the end of the text."""

from __future__ import annotations

import torch
from torch import Tensor

from edlm.energies.base import Decision
from edlm.numerics import precise


def at_slots(decision: Decision) -> Tensor:
    """The positions that are filled, bool ``[batch, length]``."""
    chosen = torch.zeros_like(decision.x_partial, dtype=torch.bool)
    chosen[decision.slots.rows, decision.slots.positions] = True
    return chosen


def readable(decision: Decision) -> Tensor:
    """The positions before the first one that is still masked, or padding, bool ``[batch, length]``.

    Raises:
        ValueError: something before a slot is masked.
    """
    step, chosen = decision.step, at_slots(decision)
    unknown = (decision.x_partial == step.denoiser.mask_token_id) & ~chosen
    if step.attention_mask is not None:
        unknown = unknown | ~step.attention_mask.bool()
    seen = unknown.cumsum(1) == 0
    if (chosen & ~seen).any():
        rows = (chosen & ~seen).any(1).nonzero()[:, 0].tolist()
        raise ValueError(
            f"a causal LM reads from the left: nothing before a slot may be masked, got masks "
            f"(or padding) in rows {rows}; use scope='sequence' or order='left_to_right'"
        )
    return seen


def ends_of_text(decision: Decision, eos_token_id: int | None) -> Tensor:
    """The position of the EOS that ends each candidate's text, ``length`` where none does; ``[batch, k]``.

    It is the first EOS from the row's first slot on after which all given tokens are EOS too: one in a prompt
    separates documents, and text that is already there cannot lie behind the end.
    """
    batch, k, length = decision.candidates.shape
    if eos_token_id is None:
        return decision.candidates.new_full((batch, k), length)
    places = torch.arange(length, device=decision.candidates.device)
    chosen, x = at_slots(decision), decision.x_partial
    given = ~chosen & (x != eos_token_id) & (x != decision.step.denoiser.mask_token_id)
    if decision.step.attention_mask is not None:
        given = given & decision.step.attention_mask.bool()
    last_given = torch.where(given, places, 0).amax(1)
    first_slot = torch.where(chosen, places, length).amin(1)
    earliest = torch.maximum(last_given, first_slot)
    may_end = (decision.candidates == eos_token_id) & (places >= earliest[:, None, None])
    return torch.where(may_end, places, length).amin(2)


def log_proposal_until(decision: Decision, ends: Tensor) -> Tensor:
    """``log q'`` of the slots up to ``ends[batch, k]``, nats; float64, ``[batch, k]``."""
    slots = decision.slots
    before = slots.positions[:, None] <= ends[slots.rows]
    return slots.sum_rows(precise(torch.where(before, decision.slot_log_proposal, 0.0)))
