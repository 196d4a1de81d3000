"""Means with their standard errors."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Mean(NamedTuple):
    """A mean over ``n`` independent values.

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
