"""Slots: the positions of a batch that are decided together, flat, in decision order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """Some positions of each row of a batch; rows may have different numbers of them, or none.

    Attributes:
        rows: Row of each slot, ascending, shape ``[num_slots]``.
        positions: Position of each slot in its row, shape ``[num_slots]``.
        ranks: Place of each slot in its row's decision order, from 0, shape ``[num_slots]``.
        batch_size: Number of rows of the batch.
    """

    rows: Tensor
    positions: Tensor
    ranks: Tensor
    batch_size: int

    @classmethod
    def from_ranked(cls, ranking: Tensor, chosen: Tensor) -> Slots:
        """Slots at ``ranking[chosen]``, ranked in that sequence; both ``[batch, length]``."""
        rows, places = chosen.nonzero(as_tuple=True)
        ranks = (chosen.cumsum(1) - 1)[rows, places]
        return cls(rows, ranking[rows, places], ranks, len(chosen))

    @classmethod
    def where(cls, chosen: Tensor) -> Slots:
        """Slots at the true entries of a bool ``[batch, length]``, left to right."""
        return cls.from_ranked(torch.arange(chosen.shape[1], device=chosen.device).expand_as(chosen), chosen)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> Tensor:
        """Number of slots of each row, shape ``[batch]``."""
        return torch.bincount(self.rows, minlength=self.batch_size)

    def select(self, keep: Tensor) -> Slots:
        """The slots where ``keep`` (bool, ``[num_slots]``) is true, ranked anew."""
        rows = self.rows[keep]
        counts = torch.bincount(rows, minlength=self.batch_size)
        first = counts.cumsum(0) - counts  # index of each row's first slot: slots lie row by row, in rank order
        ranks = torch.arange(len(rows), device=rows.device) - first[rows]
        return Slots(rows, self.positions[keep], ranks, self.batch_size)

    def part(self, index: Tensor) -> Slots:
        """The slots at ``index``, with their ranks unchanged; for work in chunks or rounds."""
        return Slots(self.rows[index], self.positions[index], self.ranks[index], self.batch_size)

    def followed_by(self, others: Slots) -> Slots:
        """These slots and, ranked after them in each row, ``others``."""
        rows = torch.cat([self.rows, others.rows])
        ranks = torch.cat([self.ranks, others.ranks + self.counts[others.rows]])
        positions = torch.cat([self.positions, others.positions])
        by_row = rows.argsort(stable=True)
        return Slots(rows[by_row], positions[by_row], ranks[by_row], self.batch_size)

    def groups(self, group_size: int | None) -> list[Slots]:
        """Consecutive chunks of at most ``group_size`` ranks, ranked anew; everything at once if None."""
        largest = int(self.ranks.max()) + 1 if len(self) else 0
        if group_size is None or group_size >= largest:
            return [self] if largest else []
        ranks = self.ranks % group_size
        return [
            Slots(self.rows[index], self.positions[index], ranks[index], self.batch_size)
            for index in _indices_of(self.ranks // group_size)
        ]

    def group_at(self, group_size: int, index: Tensor) -> tuple[Slots, Slots]:
        """Group ``index[b]`` of each row, as `groups` has it, and the slots of all groups before it."""
        group, index = self.ranks // group_size, index[self.rows]
        return self.select(group == index), self.select(group < index)

    def rounds(self, size: int) -> list[Tensor]:
        """Rounds of at most ``size`` slots of a row whose ranks are far apart: ``r, r + R, r + 2 R, ..``.

        A row of ``n`` slots has ``R = ceil(n / size)`` rounds.

        Returns:
            For each round the indices of its slots, row by row and in rank order; see `part`.
        """
        return _indices_of(self.ranks % num_rounds(self.counts, size)[self.rows])

    def equals(self, others: Slots) -> bool:
        """Whether others are the same positions, in the same order."""
        if self is others:
            return True
        return torch.equal(self.rows, others.rows) and torch.equal(self.positions, others.positions)

    def gather(self, x: Tensor) -> Tensor:
        """Entries of ``x[batch, length, ...]`` at the slots, shape ``[num_slots, ...]``."""
        return x[self.rows, self.positions]

    def write(self, x: Tensor, values: Tensor) -> Tensor:
        """A copy of ``x[batch, length]`` with ``values[num_slots]`` written at the slots."""
        return x.index_put((self.rows, self.positions), values)

    def sum_rows(self, values: Tensor) -> Tensor:
        """Sum of ``values[num_slots, ...]`` over the slots of each row, shape ``[batch, ...]``."""
        total = values.new_zeros(self.batch_size, *values.shape[1:])
        return total.index_add(0, self.rows, values)

    def dense(self, active: Tensor | None = None) -> DenseSlots:
        """The slots of the rows ``active`` (ascending; by default those that have any), as padded tables."""
        if active is None:
            active = self.counts.nonzero()[:, 0]
        place = places_of(active, self.batch_size)
        meant = place[self.rows] >= 0
        rows, ranks = place[self.rows[meant]], self.ranks[meant]
        width = int(ranks.max()) + 1 if len(ranks) else 0
        positions = self.positions.new_zeros(len(active), width)
        valid = torch.zeros(len(active), width, dtype=torch.bool, device=active.device)
        positions[rows, ranks] = self.positions[meant]
        valid[rows, ranks] = True
        return DenseSlots(active, positions, valid)


def _indices_of(part: Tensor) -> list[Tensor]:
    """The indices of each value of ``part[n]`` (0, 1, ...), ascending."""
    return list(part.argsort(stable=True).split(torch.bincount(part).tolist())) if len(part) else []


def num_rounds(counts: Tensor, size: int) -> Tensor:
    """Rounds that rows of ``counts`` slots need, ``size`` at a time; at least 1."""
    return (-(-counts // size)).clamp(min=1)


def places_of(rows: Tensor, batch_size: int) -> Tensor:
    """Index of each row of a batch in ``rows``, shape ``[batch_size]``; -1 where it is absent.

    Example:
        >>> places_of(torch.tensor([1, 3]), 4).tolist()
        [-1, 0, -1, 1]
    """
    places = torch.full((batch_size,), -1, device=rows.device)
    places[rows] = torch.arange(len(rows), device=rows.device)
    return places


@dataclass(frozen=True)
class DenseSlots:
    """Slots of several rows, padded to equal number.

    Attributes:
        active: Rows of the batch that are meant, shape ``[num_active]``.
        positions: Position of the slot of each rank (0 where there is none), ``[num_active, width]``.
        valid: True where there is a slot, ``[num_active, width]``.
    """

    active: Tensor
    positions: Tensor
    valid: Tensor

    @property
    def counts(self) -> Tensor:
        """Number of slots of each row, ``[num_active]``."""
        return self.valid.sum(1)

    def rounds(self, size: int) -> Tensor:
        """Round of each slot, as `Slots.rounds` has them; ``width`` where there is none, ``[num_active, width]``."""
        width = self.positions.shape[1]
        ranks = torch.arange(width, device=self.positions.device)
        return torch.where(self.valid, ranks % num_rounds(self.counts, size)[:, None], width)

    def at_positions(self, values: Tensor, length: int) -> Tensor:
        """``values[num_active, width]`` by position, the largest integer elsewhere, ``[num_active, length]``."""
        laid_out = torch.full((len(self.active), length), torch.iinfo(torch.int64).max, device=self.active.device)
        rows, ranks = self.valid.nonzero(as_tuple=True)
        return laid_out.index_put((rows, self.positions[rows, ranks]), values[rows, ranks])
