"""Tests against chance: each fails a correct program with probability below 1e-9."""

from __future__ import annotations

import torch
from torch import Tensor

FALSE_ALARM = 1e-9
SIGMAS = 6.5  # a normal variable is farther out with probability 8e-11


def assert_law(counts: Tensor, law: Tensor) -> None:
    """Pearson's chi-square; cells of fewer than 20 expected counts are pooled, impossible ones must be empty."""
    counts, law = counts.double().flatten(), law.double().flatten()
    assert abs(law.sum().item() - 1) < 1e-9, f"not a law: it sums to {law.sum().item()}"
    assert not counts[law == 0].any(), f"impossible outcomes were drawn: {counts[law == 0].tolist()}"
    expected = law * counts.sum()
    small = expected < 20
    if small.any():
        counts = torch.cat([counts[~small], counts[small].sum()[None]])
        expected = torch.cat([expected[~small], expected[small].sum()[None]])
        if expected[-1] < 20:  # merge what is left into its neighbour
            counts[-2], expected[-2] = counts[-2] + counts[-1], expected[-2] + expected[-1]
            counts, expected = counts[:-1], expected[:-1]
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    tail = torch.special.gammaincc(freedom, statistic / 2).item() if len(expected) > 1 else 1.0
    assert tail > FALSE_ALARM, f"chi-square {statistic:.1f} at {len(expected) - 1} degrees: p = {tail:.1e}"


def assert_mean(draws: Tensor, expected: Tensor) -> None:
    """Means over the first dimension, each within ``SIGMAS`` standard errors (plus rounding)."""
    draws = draws.double()
    error = draws.std(0) / len(draws) ** 0.5
    away = (draws.mean(0) - expected).abs()
    assert (away <= SIGMAS * error + 1e-9).all(), (
        f"mean {draws.mean(0).tolist()} for {torch.as_tensor(expected).tolist()}: {(away / error).max():.1f} errors off"
    )


class BulkStreams:
    """Replaces ``RowStreams``: one generator for all rows, so that 100,000 rows take no time."""

    def __init__(self, seeds):
        self._generator = torch.Generator().manual_seed(len(seeds))

    def order(self, num_blocks: int = 1) -> BulkStreams:
        return self

    def values(self, step: int | Tensor, block: int | Tensor = 0) -> BulkStreams:
        return self

    def particles(self, number: int) -> BulkStreams:
        return self

    def resampling(self, step: int | Tensor, block: int | Tensor = 0) -> BulkStreams:
        return self

    def uniform(self, counts: Tensor, repeats: int = 1, repeating: Tensor | None = None) -> Tensor:
        return torch.rand(int(counts.sum()), repeats, generator=self._generator, dtype=torch.float64)
