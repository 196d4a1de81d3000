"""Which token stands on the left of each slot, and which slots therefore form chains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

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
        length, mask, device = x_partial.shape[1], step.denoiser.mask_token_id, x_partial.device
        order = (slots.rows * length + slots.positions).argsort()
        slots = slots.part(order)
        given = (x_partial != mask) if step.attention_mask is None else (x_partial != mask) & step.attention_mask
        code = torch.where(given, -2 - x_partial, -1)  # -1 is no neighbour; -2 - v is a token v; i is a slot
        code[slots.rows, slots.positions] = torch.arange(len(slots), device=device)
        nearest = torch.where(code != -1, torch.arange(length, device=device), -1).cummax(1).values
        at = F.pad(nearest, (1, 0), value=-1)[slots.rows, slots.positions]
        where = (slots.rows, at.clamp(min=0))
        code = code[where].masked_fill(at < 0, -1)
        distance = torch.bucketize(slots.positions - at, torch.tensor(_FARTHER, device=device), right=True)
        seen = (step.x_t[where] != mask) & (at >= 0)
        return cls(slots, order, code.clamp(min=-1), (-2 - code).clamp(min=-1), seen, distance)

    def without(self) -> Neighbours:
        """The same slots without any neighbours."""
        none = torch.full_like(self.previous, -1)
        return Neighbours(self.slots, self.order, none, none, self.seen, self.distance)

    def part(self, index: slice) -> Neighbours:
        """Some of the slots: whole chains, see `parts`."""
        previous = (self.previous[index] - index.start).clamp(min=-1)
        others = (table[index] for table in (self.given, self.seen, self.distance))
        return Neighbours(self.slots.part(index), self.order[index], previous, *others)

    def parts(self, size: int) -> list[slice]:
        """Consecutive slots of whole chains that begin within ``size`` slots of each other."""
        if len(self.slots) <= size:
            return [slice(0, len(self.slots))]
        number = self.first // size
        begins = number.diff(prepend=number.new_full((1,), -1)) > 0
        return [slice(*ends) for ends in pairwise([*self.first[begins].tolist(), len(self.slots)])]

    @cached_property
    def first(self) -> Tensor:
        """Indices of the slots whose neighbour is no slot: each begins a chain."""
        return (self.previous < 0).nonzero()[:, 0]

    @cached_property
    def linked(self) -> Tensor:
        """Indices of the other slots."""
        return (self.previous >= 0).nonzero()[:, 0]

    @cached_property
    def chain(self) -> Tensor:
        """Number of the chain of each slot, ``[num_slots]``."""
        return (self.previous < 0).cumsum(0) - 1

    @cached_property
    def depth(self) -> Tensor:
        """Place of each slot in its chain, from 0, ``[num_slots]``."""
        return torch.arange(len(self.slots), device=self.previous.device) - self.first[self.chain]
