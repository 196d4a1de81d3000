"""Keys and values of positions that are run once, and the positions of a row that remain to be run."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from edlm.denoisers.visibility import no_later_block


@dataclass(frozen=True)
class KeyValues:
    """What `Denoiser.prefill` has computed of some positions of each row.

    Attributes:
        held: These positions, bool, shape ``[batch, width]``.
        tables: By name, each ``[batch, width, ...]``, and undefined where nothing is held: "tokens"; ("keys", i) and
            ("values", i) of layer i; ("hidden", i), the states that enter block i, if they were requested; and
            "states", which the output layer reads, of a denoiser that shifts.
    """

    held: Tensor
    tables: Mapping[Hashable, Tensor] = field(default_factory=dict)

    @classmethod
    def empty(cls, batch_size: int, device: torch.device) -> KeyValues:
        """A cache that holds nothing."""
        return cls(torch.zeros(batch_size, 0, dtype=torch.bool, device=device))

    @property
    def keys_held(self) -> Tensor:
        """Of the columns that attention reads, those that are held; no columns without tables."""
        return self.held if self.tables else self.held[:, :0]

    @property
    def nbytes(self) -> int:
        """Memory of the tables, bytes."""
        return sum(table.nbytes for table in self.tables.values())

    def table(self, name: Hashable) -> Tensor | None:
        """A table; None while there are none at all."""
        return self.tables[name] if self.tables else None

    def select(self, rows: Tensor) -> KeyValues:
        """Rows ``[n]``, ascending, as a cache of their own; it shares the tables if these are all."""
        if len(rows) == len(self.held):
            return self
        return KeyValues(self.held[rows], {name: table[rows] for name, table in self.tables.items()})

    def resized(self, width: int) -> KeyValues:
        """As many columns as ``width``; those that are cut off are not held any more. Without copies if it is cut."""
        more = width - self.held.shape[1]
        if not more:
            return self
        return KeyValues(
            _resized(self.held, more), {name: _resized(table, more) for name, table in self.tables.items()}
        )

    def without(self, positions: Tensor) -> KeyValues:
        """The same, but for ``positions``, bool, ``[batch, width]``, which are not held any more."""
        return replace(self, held=self.held & ~positions)

    def written(self, rows: Tensor, remaining: Remaining, values: Mapping[Hashable, Tensor]) -> KeyValues:
        """With ``values``, each ``[n, q, ...]``, at the remaining positions of ``rows[n]``, which are held from now on.

        Tables that are new are added.
        """
        places = (rows[:, None].expand_as(remaining.real)[remaining.real], remaining.positions[remaining.real])
        tables = dict(self.tables)
        for name, new in values.items():
            table = tables.get(name)
            table = new.new_zeros(*self.held.shape, *new.shape[2:]) if table is None else table
            tables[name] = table.index_put(places, new[remaining.real])
        return KeyValues(self.held.index_put(places, self.held.new_ones(())), tables)


def _resized(table: Tensor, more: int) -> Tensor:
    return F.pad(table, (0, 0) * (table.ndim - 2) + (0, more)) if more > 0 else table[:, :more]


@dataclass(frozen=True)
class Remaining:
    """Some positions of each row, packed to the left.

    Attributes:
        positions: Shape ``[n, q]``, ascending; anything beyond a row's own.
        real: Which are a row's own, bool, shape ``[n, q]``.
    """

    positions: Tensor
    real: Tensor

    @classmethod
    def where(cls, chosen: Tensor) -> Remaining:
        """The true entries of a bool ``[n, length]``."""
        counts = chosen.sum(1)
        most = int(counts.max()) if len(counts) else 0
        positions = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        return cls(positions, torch.arange(most, device=chosen.device) < counts[:, None])

    def gather(self, x: Tensor) -> Tensor:
        """Entries of ``x[n, length]``, shape ``[n, q]``."""
        return x.gather(1, self.positions)

    def spread(self, values: Tensor, length: int, onto: Tensor | None = None) -> Tensor:
        """``values[n, q, width]`` at their positions, ``onto`` a table (else 0), shape ``[n, length, width]``."""
        rows, columns = self.real.nonzero(as_tuple=True)
        table = values.new_zeros(len(values), length, values.shape[-1]) if onto is None else onto
        return table.index_put((rows, self.positions[rows, columns]), values[rows, columns])

    def visible(self, held: Tensor, block_size: int | None) -> Tensor:
        """Which keys each remaining position reads: those that are held, then those that remain.

        As `visible_positions`: blocks up to its own, or all without blocks; no padding; itself.

        Args:
            held: Positions whose keys are held, bool, shape ``[n, width]``.
            block_size: Tokens of a block; None without blocks.

        Returns:
            bool, shape ``[n, 1, q, width + q]``.
        """
        n, width = held.shape
        keys = torch.cat([torch.arange(width, device=held.device).expand(n, -1), self.positions], 1)
        visible = torch.cat([held, self.real], 1)[:, None]
        if block_size is not None:
            visible = visible & no_later_block(self.positions, keys, block_size)
        number = torch.arange(self.positions.shape[1], device=held.device)
        itself = number[:, None] + width == torch.arange(keys.shape[1], device=held.device)
        return (visible | itself)[:, None]


class Past:
    """The cache that attention sees, as transformers' ``Cache``: keys and values that are held, then those of the pass.

    Attributes:
        new: Those of the pass: ("keys", i) and ("values", i) of layer i, each ``[n, q, heads, head_size]``.
    """

    def __init__(self, cache: KeyValues):
        self._tables = cache.tables
        self.new: dict[Hashable, Tensor] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, *unused: object) -> tuple[Tensor, Tensor]:
        """Keys and values ``[n, heads, width + q, head_size]`` from those of the pass, ``[n, heads, q, head_size]``."""
        joined = []
        for name, new in ((("keys", layer), keys), (("values", layer), values)):
            self.new[name] = new.transpose(1, 2)
            old = self._tables.get(name)
            joined.append(new if old is None else torch.cat([old.transpose(1, 2), new], 2))
        return joined[0], joined[1]
