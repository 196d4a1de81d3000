"""A number with its error: what evaluation passes around."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Estimate(NamedTuple):
    """A number with its error.

    Attributes:
        value: In the unit of its metric.
        stderr: Standard error; NaN from a single value, None where the number is counted.
        n: Independent values behind it; None where the number is counted.
        low: Lower end of an interval; None without one.
        high: Upper end.
    """

    value: float
    stderr: float | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None

    def scaled(self, factor: float) -> Estimate:
        """The same number in another unit, ``factor > 0`` of which make one of this unit."""
        return Estimate(*(x if x is None or i == 2 else x * factor for i, x in enumerate(self)))


def mean_of(values: Tensor) -> Estimate:
    """Mean and standard error of ``values[n]``.

    Example:
        >>> import torch
        >>> mean_of(torch.tensor([1.0, 3.0]))[:3]
        (2.0, 1.0, 2)
    """
    n = len(values)
    values = values.double()
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(n) if n > 1 else math.nan, n)


def ratio_of(numerators: Tensor, denominators: Tensor) -> Estimate:
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
        >>> ratio_of(torch.tensor([2.0, 6.0]), torch.tensor([1.0, 1.0]))[:3]
        (4.0, 2.0, 2)
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
    return Estimate(ratio, math.sqrt(spread * n / (n - 1)) / total if n > 1 else math.nan, n)
