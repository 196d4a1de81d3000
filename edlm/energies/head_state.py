"""What a residual head keeps while it decides a step, and which of its tokens see which."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edlm.diffusion.slots import DenseSlots
from edlm.energies.base import Step
from edlm.energies.two_stream import Memory


@dataclass
class HeadState:
    """A step of exact decisions under way.

    Attributes:
        step: The step.
        own: Its slots.
        num_rounds: Of each row, ``[rows]``.
        entering: States that enter the first block at the slots, by rank, ``[rows, n, width]``.
        queries: The first block's queries there, ``[rows, n, heads, head_size]``.
        angles: Of the slots' positions, each ``[rows, n, 1, head_size]``.
        memory: One a block; decided tokens replace stale states in place.
        round: How many rounds were asked for so far.
    """

    step: Step
    own: DenseSlots
    num_rounds: Tensor
    entering: Tensor
    queries: Tensor
    angles: tuple[Tensor, ...]
    memory: list[Memory]
    round: int = 0

    @cached_property
    def _alike(self) -> int | None:
        """Number of rounds, where all rows have equally many slots: their tables are sliced, not gathered."""
        return int(self.num_rounds[0]) if bool(self.own.valid.all()) else None

    def slots_of(self, round: int) -> tuple[tuple, Tensor | None]:
        """Index of the slots of a round in the tables, and which of them there are (None: all)."""
        if self._alike is not None:
            return (slice(None), slice(round, None, self._alike)), None
        most = int((-(-self.own.counts // self.num_rounds)).max())
        ranks = round + self.num_rounds[:, None] * torch.arange(most, device=self.num_rounds.device)
        valid = (ranks < self.own.counts[:, None]) & (round < self.num_rounds[:, None])
        rows = torch.arange(len(ranks), device=ranks.device)[:, None]
        return (rows, ranks.clamp(max=self.entering.shape[1] - 1)), valid


def take(states: Tensor, positions: Tensor) -> Tensor:
    """States ``[rows, n, width]`` at ``positions[rows, n]``."""
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))


def seen_positions(step: Step, rows: Tensor) -> Tensor | None:
    """Positions of the rows that are no padding, bool ``[rows, 1, length]``; None if all are not."""
    return step.attention_mask[rows][:, None] if step.attention_mask is not None else None


def causal_masks(
    dense: DenseSlots, rounds: Tensor, length: int, step: Step, strictly: bool = False
) -> tuple[Tensor, Tensor]:
    """What a token sees: memory not decided up to its round, and tokens up to its round (``strictly``: before it)."""
    limit = rounds[:, :, None] + (not strictly)
    memory_visible = dense.at_positions(rounds, length)[:, None] >= limit
    own_visible = rounds[:, None] < limit
    seen = seen_positions(step, dense.active)
    return (memory_visible if seen is None else memory_visible & seen), own_visible
