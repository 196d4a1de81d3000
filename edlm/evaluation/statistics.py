"""Means with their standard errors; bootstrap intervals of differences and ratios."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

RESAMPLES_AT_ONCE = 2**22  # entries of the table of drawn rows


class Mean(NamedTuple):
    """A mean over ``n`` independent values, or a ratio of two means.

    Attributes:
        value: The mean, in the unit of the values.
        stderr: Its standard error; NaN for a single value.
        n: How many values.
    """

    value: float
    stderr: float
    n: int


def mean_of(values: Tensor) -> Mean:
    """Mean and standard error of ``values[n]``.

    Example:
        >>> import torch
        >>> mean_of(torch.tensor([1.0, 3.0]))
        Mean(value=2.0, stderr=1.0, n=2)
    """
    n = len(values)
    values = values.double()
    return Mean(values.mean().item(), values.std().item() / math.sqrt(n) if n > 1 else math.nan, n)


def ratio_of(numerators: Tensor, denominators: Tensor) -> Mean:
    """Ratio of the sums of paired values, with its standard error over pairs.

    ratio = sum_i a_i / sum_i b_i
    stderr^2 = n / (n - 1) sum_i (a_i - ratio b_i)^2 / (sum_i b_i)^2

    Args:
        numerators: ``a``, shape ``[n]``.
        denominators: ``b >= 0``, shape ``[n]``.

    Returns:
        In the unit of ``a`` per unit of ``b``; with all ``b`` equal to 1, `mean_of` the numerators.

    Raises:
        ValueError: the shapes differ, or the denominators do not have a positive sum.

    Note:
        The delta method: its standard error holds for many pairs, and the ratio is biased by O(1/n).

    References:
        Cochran 1977, Sampling Techniques, 3rd ed., chapter 6.

    Example:
        >>> import torch
        >>> ratio_of(torch.tensor([2.0, 6.0]), torch.tensor([1.0, 1.0]))
        Mean(value=4.0, stderr=2.0, n=2)
    """
    if numerators.shape != denominators.shape:
        raise ValueError(
            f"numerators and denominators must be pairs, got shapes {[*numerators.shape]} and {[*denominators.shape]}"
        )
    n, a, b = len(numerators), numerators.double(), denominators.double()
    total = b.sum().item()
    if not total > 0:
        raise ValueError(f"the denominators of a ratio must have a positive sum, got {total:g} over {n} of them")
    ratio = a.sum().item() / total
    spread = (a - ratio * b).square().sum().item()
    return Mean(ratio, math.sqrt(spread * n / (n - 1)) / total if n > 1 else math.nan, n)


class Interval(NamedTuple):
    """A value and an interval around it.

    Attributes:
        value: From all rows.
        stderr: Standard error; of a bootstrap the standard deviation over resamples.
        low: Lower end.
        high: Upper end.
        level: Confidence level.
        n: Rows.
    """

    value: float
    stderr: float
    low: float
    high: float
    level: float
    n: int


def bootstrap_difference(
    a: Tensor,
    b: Tensor,
    weights: Tensor | None = None,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    generator: torch.Generator,
) -> Interval:
    """Percentile interval of ``(sum a - sum b) / sum weights``, rows drawn anew in pairs.

    Args:
        a: Shape ``[n]``, in the unit of the result times that of the weights (nats, for instance).
        b: The same of the same rows.
        weights: Tokens of each row, ``>= 0``, shape ``[n]``; 1 each if None: the difference of the means.
        resamples: How often the rows are drawn.
        level: Between 0 and 1.
        generator: Draws the rows.

    Raises:
        ValueError: other shapes, no rows, or an option out of range.

    References:
        Efron 1979, Bootstrap methods: another look at the jackknife.

    Example:
        >>> a, b = torch.tensor([5.0, 7.0, 6.0]), torch.tensor([4.0, 6.0, 5.0])
        >>> bootstrap_difference(a, b, generator=torch.Generator().manual_seed(0))
        Interval(value=1.0, stderr=0.0, low=1.0, high=1.0, level=0.95, n=3)
    """
    weights = torch.ones_like(a) if weights is None else weights
    sums = _resampled_sums(torch.stack(_pairs(a, b, weights)), resamples, level, generator)
    return _interval((sums[0] - sums[1]) / sums[2], level, len(a))


def bootstrap_ratio(
    a: Tensor, b: Tensor, *, resamples: int = 2000, level: float = 0.95, generator: torch.Generator
) -> Interval:
    """Percentile interval of ``sum a / sum b``, rows drawn anew in pairs; for the rest see `bootstrap_difference`.

    Example:
        >>> a, b = torch.tensor([2.0, 4.0, 6.0]), torch.tensor([1.0, 2.0, 3.0])
        >>> bootstrap_ratio(a, b, generator=torch.Generator().manual_seed(0)).value
        2.0
    """
    sums = _resampled_sums(torch.stack(_pairs(a, b)), resamples, level, generator)
    return _interval(sums[0] / sums[1], level, len(a))


def share_of(flags: Tensor, level: float = 0.95) -> Interval:
    """Share of true flags with Wilson's score interval, which has a width even where all flags are equal.

    Args:
        flags: Bool, shape ``[n]``.
        level: Between 0 and 1.

    Raises:
        ValueError: no flags, another dtype, or a level out of range.

    References:
        Wilson 1927; Brown, Cai and DasGupta 2001.

    Example:
        >>> found = share_of(torch.tensor([False] * 100))
        >>> found.value, round(found.high, 4)
        (0.0, 0.037)
    """
    if flags.dtype != torch.bool or flags.ndim != 1 or not len(flags):
        raise ValueError(f"flags must be bool [n] with n >= 1, got {flags.dtype} {[*flags.shape]}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    n, share = len(flags), flags.double().mean().item()
    z2 = torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)).item() ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = max(0.0, middle - half) if share > 0 else 0.0
    high = min(1.0, middle + half) if share < 1 else 1.0
    return Interval(share, math.sqrt(share * (1 - share) / n), low, high, level, n)


def _pairs(*values: Tensor) -> list[Tensor]:
    shapes = [[*value.shape] for value in values]
    if shapes[0] != [len(values[0])] or any(shape != shapes[0] for shape in shapes) or not len(values[0]):
        raise ValueError(f"what is paired must be [n] with n >= 1 each, got shapes {shapes}")
    return [value.double().cpu() for value in values]


def _resampled_sums(values: Tensor, resamples: int, level: float, generator: torch.Generator) -> Tensor:
    """Sums of ``values[m, n]`` over all rows, then over each resample of them: ``[m, 1 + resamples]``."""
    if resamples < 1:
        raise ValueError(f"resamples must be >= 1, got {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    n, parts = values.shape[1], [values.sum(1, keepdim=True)]
    at_once = max(1, RESAMPLES_AT_ONCE // n)
    for start in range(0, resamples, at_once):
        rows = torch.randint(n, (min(at_once, resamples - start), n), generator=generator)
        parts.append(torch.stack([row[rows].sum(1) for row in values]))
    return torch.cat(parts, 1)


def _interval(values: Tensor, level: float, n: int) -> Interval:
    value, resampled = values[0].item(), values[1:]
    # Neighbours are not interpolated, since one may be infinite: each end is rounded outwards.
    low = resampled.quantile((1 - level) / 2, interpolation="lower").item()
    high = resampled.quantile((1 + level) / 2, interpolation="higher").item()
    return Interval(value, resampled.std().item() if len(resampled) > 1 else math.nan, low, high, level, n)
