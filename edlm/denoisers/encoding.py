"""The result of one pass of a denoiser."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from edlm.denoisers.cache import KeyValues
from edlm.diffusion.slots import Slots


@dataclass(frozen=True)
class Encoding:
    """One denoiser pass: the input of the output layer at each position.

    Attributes:
        finish: Computes the features; work it may defer (the last block) runs only if they are requested.
        hidden: States that enter each block, each ``[encoded_rows, length, hidden_size]``; None unless requested.
        place: Row of ``features`` that holds each row of the batch, shape ``[batch]``; rows that
            need no pass have none (-1).
        cache: What is held from this pass on, if it was to hold positions.
    """

    finish: Callable[[], Tensor]
    hidden: tuple[Tensor, ...] | None
    place: Tensor
    cache: KeyValues | None = None

    @cached_property
    def features(self) -> Tensor:
        """Input of the output layer, shape ``[encoded_rows, length, width]``."""
        return self.finish()

    def at(self, slots: Slots) -> Tensor:
        """Features at the slots, shape ``[num_slots, width]``."""
        return self.features[self.place[slots.rows], slots.positions]
