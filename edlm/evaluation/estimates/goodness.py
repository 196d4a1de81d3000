"""Whether draws follow a law: p-values, and distances with their errors beyond what chance alone gives."""

import math
from collections.abc import Callable

import torch
from scipy.stats import chi2, norm
from torch import Tensor

from edlm.evaluation.estimates.estimate import Estimate

LEAST_EXPECTED = 10  # counts of a cell; rarer cells are pooled
RESAMPLES = 300


def chi_square(counts: Tensor, law: Tensor) -> float:
    """P-value of Pearson's test that ``counts[m]`` are draws from ``law[m]``; impossible cells are left out.

    Example:
        >>> law = torch.tensor([0.5, 0.3, 0.2])
        >>> chi_square(torch.tensor([52, 29, 19]), law) > 0.5, chi_square(torch.tensor([80, 10, 10]), law) < 1e-6
        (True, True)
    """
    counts, law = counts.double()[law > 0], law.double()[law > 0]
    expected = law * counts.sum()
    expected, order = expected.sort()
    counts = counts[order]
    pooled = int((expected.cumsum(0) < LEAST_EXPECTED).sum()) + 1  # the rarest, together, are a cell
    pooled = max(pooled, int((expected < LEAST_EXPECTED).sum()))
    expected, counts = (torch.cat([x[:pooled].sum()[None], x[pooled:]]) for x in (expected, counts))
    if len(expected) < 2:
        return 1.0
    return float(chi2.sf(((counts - expected).square() / expected).sum().item(), len(expected) - 1))


def normal_tail(z: float, *, both: bool = True) -> float:
    """Chance of a normal variable at least so far out; on both sides, or above."""
    return float(2 * norm.sf(abs(z)) if both else norm.sf(z))


def excess(
    distance: Callable[[Tensor], Tensor], counts: Tensor, law: Tensor, generator: torch.Generator
) -> tuple[Estimate, float]:
    """A distance of draws from a law, less what draws of the law itself have on average; and its p-value.

    Args:
        distance: Of frequencies ``[..., m]``, shape ``[...]``.
        counts: Of each cell, ``[m]``.
        law: Of the cells, ``[m]``.
        generator: Draws counts from the law, and from the frequencies for the standard error.

    Returns:
        The difference, with the ends of a 95 % interval; the p-value of a normal variable, high = as by chance.

    Note:
        Where the law is wrong the difference is too small, by less than the average that was subtracted.
    """
    n = int(counts.sum())
    frequencies = counts.double() / n
    null = distance(_redrawn(law.double(), n, generator))
    value, stderr = distance(frequencies), distance(_redrawn(frequencies, n, generator)).std().item()
    difference = (value - null.mean()).item()
    spread = null.std().item()
    z = difference / spread if spread else math.inf * (difference > 0) if difference else 0.0
    estimate = Estimate(difference, stderr, n, difference - 1.96 * stderr, difference + 1.96 * stderr)
    return estimate, normal_tail(z, both=False)


def _redrawn(law: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Frequencies of n draws, again and again, ``[RESAMPLES, m]``."""
    drawn = law.expand(RESAMPLES, -1).multinomial(n, replacement=True, generator=generator)
    ones = torch.ones((), dtype=torch.float64).expand_as(drawn)
    return torch.zeros(RESAMPLES, len(law), dtype=torch.float64).scatter_add_(1, drawn, ones) / n
