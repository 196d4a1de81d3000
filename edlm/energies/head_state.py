"""A step that a residual head decides token by token: what is there, and what was decided last."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edlm.diffusion.slots import DenseSlots
from edlm.energies.decision import Step
from edlm.energies.head_output import Output
from edlm.energies.two_stream import Memory


@dataclass(frozen=True)
class Round:
    """Tokens that were decided together.

    Attributes:
        content: Their states that enter the first block, ``[rows, n, width]``.
        angles: Of their positions, each ``[rows, n, 1, head_size]``.
        rows: ``[rows, n]``.
        positions: ``[rows, n]``.
        valid: Which are tokens, bool, ``[rows, n]``; None: all.
    """

    content: Tensor
    angles: tuple[Tensor, ...]
    rows: Tensor
    positions: Tensor
    valid: Tensor | None

    @property
    def size(self) -> int:
        """Tokens of a row."""
        return self.positions.shape[1]

    def write(self, memory: Memory, keys: Tensor, values: Tensor) -> None:
        """Replace stale entries by keys and values ``[rows, n, heads, head_size]``."""
        parts = (self.rows, self.positions, keys, values)
        memory.write(*(parts if self.valid is None else (part[self.valid] for part in parts)))


@dataclass
class HeadState:
    """State of a step that is decided token by token.

    Attributes:
        step: The step.
        dense: Its slots, row by row.
        num_rounds: Of each row, ``[rows]``.
        entering: States that enter the first block at the slots, by rank, ``[rows, n, width]``.
        angles: Of the slots' positions, each ``[rows, n, 1, head_size]``.
        memory: One for each block; decided tokens replace stale states in place.
        output: Makes laws of what leaves the last block.
        round: Rounds decided so far.
    """

    step: Step
    dense: DenseSlots
    num_rounds: Tensor
    entering: Tensor
    angles: tuple[Tensor, ...]
    memory: list[Memory]
    output: Output
    round: int = 0

    @cached_property
    def _alike(self) -> int | None:
        """Number of rounds if all rows have equally many slots: their tables are sliced, not gathered."""
        return int(self.num_rounds[0]) if bool(self.dense.valid.all()) else None

    def slots_of(self, round: int) -> tuple[tuple, Tensor | None]:
        """Index of the slots of a round in the tables, and which entries are real (None: all)."""
        if self._alike is not None:
            return (slice(None), slice(round, None, self._alike)), None
        most = int((-(-self.dense.counts // self.num_rounds)).max())
        ranks = round + self.num_rounds[:, None] * torch.arange(most, device=self.num_rounds.device)
        valid = (ranks < self.dense.counts[:, None]) & (round < self.num_rounds[:, None])
        rows = torch.arange(len(ranks), device=ranks.device)[:, None]
        return (rows, ranks.clamp(max=self.entering.shape[1] - 1)), valid
