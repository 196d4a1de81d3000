"""Rows of a data set in batches, each row with a seed of its own."""

from collections.abc import Iterator
from dataclasses import dataclass

from tqdm.auto import tqdm


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How rows are batched and seeded.

    Attributes:
        seed: Row ``i`` has the seed ``seed + i``, whatever the batch size: equal seeds pair rows of two runs.
        batch_size: Rows at a time; changes memory and speed only.
        progress: Title of a progress bar; none without.
    """

    seed: int = 0
    batch_size: int = 32
    progress: str | None = None

    def of(self, num_rows: int, start: int = 0) -> Iterator[tuple[slice, range]]:
        """Rows and seeds of each batch of ``num_rows`` rows, from row ``start`` on.

        Example:
            >>> list(Batches(seed=7, batch_size=2).of(3))
            [(slice(0, 2, None), range(7, 9)), (slice(2, 3, None), range(9, 10))]
        """
        starts = range(start, num_rows, self.batch_size)
        for first in tqdm(starts, desc=self.progress, disable=None if self.progress else True, leave=False):
            end = min(first + self.batch_size, num_rows)
            yield slice(first, end), range(self.seed + first, self.seed + end)
