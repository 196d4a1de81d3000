"""The result of one pass of a denoiser."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edlm.diffusion.slots import Slots


@dataclass(frozen=True)
class Encoding:
    """One denoiser pass: the input of the output layer at each position.

    Attributes:
        finish: Computes the features; work it may defer (the last block) runs only if they are requested.
        hidden: States that enter each block, each ``[encoded_rows, length, hidden_size]``; None unless requested.
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


def distinct_rows(*tables: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which rows are unlike all before them, ``[distinct]``, and the place of each row among these, ``[n]``.

    Args:
        tables: Numbers, each ``[n, ...]``; None is left out.
    """
    given = [table for table in tables if table is not None]
    device, n = given[0].device, len(given[0])
    if n < 2:
        return torch.arange(n, device=device), torch.arange(n, device=device)
    exact = (t.unique(return_inverse=True)[1] if t.is_floating_point() else t for t in given)
    whole = torch.cat([table.reshape(n, -1).long().cpu() for table in exact], 1)
    _, kind, counts = whole.unique(dim=0, return_inverse=True, return_counts=True)
    first = kind.argsort(stable=True)[counts.cumsum(0) - counts]
    return first.sort().values.to(device), first.argsort().argsort()[kind].to(device)
