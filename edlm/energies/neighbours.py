"""Which token stands on the left of each slot, and which slots therefore form chains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from edlm.diffusion.slots import Slots
from edlm.energies.decision import Step

_FARTHER = (2, 4, 8, 16)  # distances at which another class begins
NUM_DISTANCES = len(_FARTHER) + 1


@dataclass(frozen=True)
class Neighbours:
    """The nearest decided or given token on the left of each slot; slots are sorted from left to right.

    Attributes:
        slots: The slots, row by row and in position order.
        order: Index of each of them in the slots that were given, ``[num_slots]``.
        previous: Index of the slot that is the neighbour, or -1: it is given, or there is none; ``[num_slots]``.
        given: The token that is the neighbour, or -1: it is a slot, or there is none; ``[num_slots]``.
        seen: The denoiser saw the neighbour, bool, ``[num_slots]``.
        distance: Class of its distance, 0 for adjacent tokens, ``[num_slots]``.
    """

    slots: Slots
    order: Tensor
    previous: Tensor
    given: Tensor
    seen: Tensor
    distance: Tensor

    @classmethod
    def of(cls, step: Step, slots: Slots, x_partial: Tensor) -> Neighbours:
        """Of slots that are decided together, in ``x_partial[batch, length]``; masks are no neighbours."""
        length, mask = x_partial.shape[1], step.denoiser.mask_token_id
        order = (slots.rows * length + slots.positions).argsort()
        slots = slots.part(order)
        number = x_partial.new_full(x_partial.shape, -1)
        number[slots.rows, slots.positions] = torch.arange(len(slots), device=number.device)
        counts = (x_partial != mask) if step.attention_mask is None else (x_partial != mask) & step.attention_mask
        places = torch.arange(length, device=number.device)
        nearest = torch.where(counts | (number >= 0), places, -1).cummax(1).values
        at = slots.gather(F.pad(nearest[:, :-1], (1, 0), value=-1))
        exists, where = at >= 0, (slots.rows, at.clamp(min=0))
        previous = torch.where(exists, number[where], -1)
        given = torch.where(exists & (previous < 0), x_partial[where], -1)
        distance = torch.bucketize(slots.positions - at, torch.tensor(_FARTHER, device=at.device), right=True)
        return cls(slots, order, previous, given, exists & (step.x_t[where] != mask), distance)

    def without(self) -> Neighbours:
        """The same slots without any neighbours."""
        none = torch.full_like(self.previous, -1)
        return Neighbours(self.slots, self.order, none, none, self.seen, self.distance)

    @cached_property
    def first(self) -> Tensor:
        """Indices of the slots whose neighbour is no slot: each begins a chain."""
        return (self.previous < 0).nonzero()[:, 0]

    @cached_property
    def linked(self) -> Tensor:
        """Indices of the other slots."""
        return (self.previous >= 0).nonzero()[:, 0]

    @cached_property
    def depth(self) -> Tensor:
        """Place of each slot in its chain, from 0, ``[num_slots]``."""
        index = torch.arange(len(self.slots), device=self.previous.device)
        return index - torch.where(self.previous < 0, index, 0).cummax(0).values
