"""What one pass of a denoiser gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from edlm.diffusion.slots import Slots


@dataclass(frozen=True)
class Encoding:
    """One denoiser pass: what the output layer needs at each position, before it is applied.

    Attributes:
        finish: Gives the features; what it leaves for later (the last block) is run only if they are asked for.
        hidden: States that enter each block, each ``[encoded_rows, length, hidden_size]``; None unless asked for.
        place: Row of ``features`` that holds each row of the batch, shape ``[batch]``; rows that
            need no pass have none (-1).
    """

    finish: Callable[[], Tensor]
    hidden: tuple[Tensor, ...] | None
    place: Tensor

    @cached_property
    def features(self) -> Tensor:
        """Input of the output layer, shape ``[encoded_rows, length, width]``."""
        return self.finish()

    def at(self, slots: Slots) -> Tensor:
        """Features at the slots, shape ``[num_slots, width]``."""
        return self.features[self.place[slots.rows], slots.positions]
