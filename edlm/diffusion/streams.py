"""Per-row randomness: what a row draws depends on its own seed, or index, and not on the rows drawn with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edlm.rules import check

_ORDER, _VALUES, _STEPS, _COMMON, _PLACES, _GROUPS, _PARTICLES, _RESAMPLING = range(8)
_GOLDEN = (math.sqrt(5) - 1) / 2


class RowStreams:
    """One stream for the reveal order and one for values and choices, for each row of a batch and each of its blocks.

    The value stream starts anew at each step, so equal seeds give equal orders and paired draws
    whatever was drawn at the steps before.

    Args:
        seeds: One non-negative integer a row.
        blocks: Block of text, of each row, that counts as block 0; 0 by default.
        particles: Number of each row among those of its seed, which have one order and draw apart; 0 by default.

    Raises:
        ValueError: a seed is negative.
    """

    def __init__(
        self,
        seeds: Sequence[int] | Tensor,
        blocks: Sequence[int] | None = None,
        particles: Sequence[int] | None = None,
    ):
        self.seeds = [int(seed) for seed in seeds]
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"seeds must be >= 0, got {min(self.seeds)}")
        self._blocks = [0] * len(self.seeds) if blocks is None else list(blocks)
        self._particles = [0] * len(self.seeds) if particles is None else list(particles)

    def particles(self, number: int) -> RowStreams:
        """The streams of ``number`` particles of each row, those of a row together; the first has those of the row."""
        seeds, blocks = ([n for n in numbers for _ in range(number)] for numbers in (self.seeds, self._blocks))
        return RowStreams(seeds, blocks, list(range(number)) * len(self))

    def __len__(self) -> int:
        return len(self.seeds)

    def order(self, num_blocks: int = 1) -> RowGenerators:
        """The streams that the reveal orders of the first blocks of each row are drawn from, row by row."""
        rows = zip(self.seeds, self._blocks, strict=True)
        return RowGenerators([_key(seed, (_ORDER,), first + b) for seed, first in rows for b in range(num_blocks)])

    def values(self, step: int | Tensor, block: int | Tensor = 0) -> RowGenerators:
        """The streams that tokens and choices of a step of a block are drawn from; one for all rows, or one a row."""
        steps, blocks = self._of_rows(step), self._of_rows(block)
        rows = zip(self.seeds, self._particles, steps, self._blocks, blocks, strict=True)
        uses = {particle: (_PARTICLES, particle) if particle else (_VALUES,) for particle in self._particles}
        return RowGenerators(
            [_key(seed, uses[particle], first + later, at) for seed, particle, at, first, later in rows]
        )

    def resampling(self, step: int | Tensor, block: int | Tensor = 0) -> RowGenerators:
        """As `values`: the streams that the particles of each row are resampled from after a step."""
        steps, blocks = self._of_rows(step), self._of_rows(block)
        rows = zip(self.seeds, steps, self._blocks, blocks, strict=True)
        return RowGenerators([_key(seed, (_RESAMPLING,), first + later, at) for seed, at, first, later in rows])

    def _of_rows(self, number: int | Tensor) -> list[int]:
        return number.tolist() if isinstance(number, Tensor) else [number] * len(self)

    def steps(self) -> RowGenerators:
        """Streams that choose which steps of a row are measured, where its bound is estimated from some of them."""
        return RowGenerators(
            [_key(seed, (_STEPS,), first) for seed, first in zip(self.seeds, self._blocks, strict=True)]
        )


def _key(seed: int, use: tuple[int, ...], block: int, *step: int) -> tuple[int, ...]:
    """Block 0 has the key of a text without blocks."""
    return (seed, *use, *step, block) if block else (seed, *use, *step)


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


class BatchStreams:
    """Randomness of some rows of a batch of known size; a row draws the same numbers whichever others are drawn.

    Philox counts: a row's numbers are found by its index, without a generator of its own. All are uniforms in [0, 1),
    float64, on the CPU, and the same at each call.

    Args:
        key: Names the batch, as a seed and a step; each part >= 0.
        size: Rows of the whole batch, >= 1.
        length: Tokens of a row.
        rows: Indices of the rows that are drawn, without gaps; all of them if None.
        series: Number of batches, of keys that differ in their last part, ``0 .. series - 1``, whose `common` numbers
            are spread evenly; None for a batch of its own.
    """

    def __init__(
        self, key: Sequence[int], size: int, length: int, rows: range | None = None, series: int | None = None
    ):
        self._key, self.size, self.length, self._series = tuple(key), size, length, series
        self.rows = range(size) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def of_length(self, length: int) -> BatchStreams:
        """Those of the same rows with another number of tokens."""
        return BatchStreams(self._key, self.size, length, self.rows, self._series)

    def common(self, count: int) -> Tensor:
        """Numbers that all rows of the batch share, shape ``[count]``.

        In a series each of them is the middle of one of ``series`` equal parts of [0, 1), in every batch of another one
        (a Latin hypercube): a mixture of at most as many values, chosen from by one number, is seen as a whole.
        """
        if self._series is None:
            return torch.from_numpy(self._generator(_COMMON).random(count))
        *key, number = self._key
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((*key, _COMMON))))
        parts = [generator.permutation(self._series)[number] for _ in range(count)]
        return (torch.tensor(parts, dtype=torch.float64) + 0.5) / self._series

    def places(self) -> Tensor:
        """Places spread evenly over [0, 1), with one random shift for the whole batch: each uniform; shape ``[rows]``.

        ``(i / size + shift) % 1`` for ``i < size``, in a sequence that has neighbouring rows far apart, so that every
        part of a batch has places of all kinds.
        """
        stride = round(_GOLDEN * self.size)
        while math.gcd(stride, self.size) > 1:
            stride += 1
        index = (torch.tensor(self.rows, dtype=torch.long) * stride % self.size).double()
        return (index / self.size + self._generator(_PLACES).random()) % 1

    def order(self, num_blocks: int = 1) -> BatchOrder:
        """What the reveal orders of the first blocks of each row are drawn from, row by row."""
        drawn = [self._uniform(_ORDER, self.length, block=block) for block in range(num_blocks)]
        return BatchOrder(torch.stack(drawn, 1).flatten(0, 1))

    def values(self, *shape: int) -> Tensor:
        """Numbers that tokens are drawn from, shape ``[rows, *shape, length]``."""
        return self._uniform(_VALUES, *shape, self.length)

    def groups(self, count: int) -> Tensor:
        """Numbers that choose a group of tokens for each of ``count`` decisions of a row, shape ``[rows, count]``."""
        return self._uniform(_GROUPS, count)

    def _uniform(self, use: int, *shape: int, block: int = 0) -> Tensor:
        fours = -(-math.prod(shape) // 4)  # Philox makes four numbers at a time
        generator = self._generator(use, self.rows.start * fours, block)
        drawn = torch.from_numpy(generator.random((len(self.rows), 4 * fours)))
        return drawn[:, : math.prod(shape)].unflatten(1, shape)

    def _generator(self, use: int, fours: int = 0, block: int = 0) -> np.random.Generator:
        key = (*self._key, use, *((block,) if block else ()))
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)).advance(fours))


class BatchOrder:
    """Numbers of the rows of a batch, shape ``[rows, length]``, as `RowGenerators` gives them."""

    def __init__(self, uniforms: Tensor):
        self._uniforms = uniforms

    def uniform(self, counts: Tensor) -> Tensor:
        """The first ``counts[row]`` numbers of each row, row by row, shape ``[sum(counts), 1]``."""
        return self._uniforms[torch.arange(self._uniforms.shape[1]) < counts[:, None]][:, None]


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
