"""Per-row randomness: what a row draws depends on its own seed and on nothing else in the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edlm.rules import check

_ORDER, _VALUES, _STEPS = 0, 1, 2


class RowStreams:
    """One stream for the reveal order and one for values and choices, for each row of a batch.

    The value stream starts anew at each step, so equal seeds give equal orders and paired draws
    whatever was drawn at the steps before.

    Args:
        seeds: One non-negative integer a row.
        block: Index of a block of text; each block has its own streams.

    Raises:
        ValueError: a seed is negative.
    """

    def __init__(self, seeds: Sequence[int] | Tensor, block: int = 0):
        self.seeds = [int(seed) for seed in seeds]
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"seeds must be >= 0, got {min(self.seeds)}")
        self._block = (block,) if block else ()

    def __len__(self) -> int:
        return len(self.seeds)

    def order(self) -> RowGenerators:
        """The streams that the reveal order is drawn from."""
        return RowGenerators([(seed, _ORDER, *self._block) for seed in self.seeds])

    def values(self, step: int | Tensor) -> RowGenerators:
        """The streams that tokens and choices of a step (one for all rows, or ``step[row]``) are drawn from."""
        steps = step.tolist() if isinstance(step, Tensor) else [step] * len(self)
        return RowGenerators([(seed, _VALUES, at, *self._block) for seed, at in zip(self.seeds, steps, strict=True)])

    def steps(self) -> RowGenerators:
        """Streams that choose which steps of a row are measured, where its bound is estimated from some of them."""
        return RowGenerators([(seed, _STEPS) for seed in self.seeds])


class RowGenerators:
    """A generator for each row's key, on the CPU, so that all devices draw the same numbers."""

    def __init__(self, keys: Sequence[tuple[int, ...]]):
        self._generators = [generator_of(*key) for key in keys]

    def uniform(self, counts: Tensor, repeats: int = 1, repeating: Tensor | None = None) -> Tensor:
        """Uniforms in [0, 1): ``repeats`` for each of ``counts[row]`` items, row by row.

        A row draws all items of the first repeat, then all of the second, and so on: its first
        repeat does not depend on how many follow.

        Args:
            counts: Number of items of each row, shape ``[batch]``.
            repeats: Numbers per item.
            repeating: Rows that draw more than one; the others repeat their first number in all columns. All if None.

        Returns:
            Shape ``[sum(counts), repeats]``, float64, on the CPU.
        """
        several = [True] * len(counts) if repeating is None else repeating.tolist()
        drawn = [
            torch.rand(repeats if repeated else 1, count, generator=generator, dtype=torch.float64).T.expand(
                -1, repeats
            )
            for count, repeated, generator in zip(counts.tolist(), several, self._generators, strict=True)
            if count
        ]
        return torch.cat(drawn) if drawn else torch.empty(0, repeats, dtype=torch.float64)


def row_seeds(
    count: int, seeds: int | Sequence[int] | Tensor | None = None, generator: torch.Generator | None = None
) -> list[int]:
    """One seed for each of ``count`` rows: as given; ``seeds + row`` of an integer; or drawn from ``generator``.

    Raises:
        ValueError: the number of seeds is not that of rows, or a seed is no integer.
    """
    seeds = check("seeds", seeds, int | Sequence[int] | None)
    if seeds is None:
        device = generator.device if generator is not None else None  # None: torch's global one
        return torch.randint(2**62, (count,), generator=generator, device=device).tolist()
    if isinstance(seeds, int):
        return [seeds + row for row in range(count)]
    if len(seeds) != count:
        raise ValueError(f"there must be one seed a row ({count}), got {len(seeds)}")
    return seeds


def seed_of(*key: int) -> int:
    """A 64-bit seed that mixes all parts of ``key``, each >= 0: near keys give unrelated streams.

    Example:
        >>> seed_of(0, 1) == seed_of(1, 0)
        False
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def generator_of(*key: int) -> torch.Generator:
    """A fresh CPU generator seeded by ``key``."""
    return torch.Generator().manual_seed(seed_of(*key))
