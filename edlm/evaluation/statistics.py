"""Means with their standard errors."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


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
