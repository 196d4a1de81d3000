"""Means of a batch that is divided over processes and forward passes: sums and counts are added, then divided."""

from __future__ import annotations

from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from edlm.numerics import precise, widest_float


class Mean(NamedTuple):
    """A mean as a sum and a number of terms, so that those of parts of a batch can be added.

    Attributes:
        total: Sum of the terms, a scalar.
        count: How many terms there are.
    """

    total: Tensor | float
    count: Tensor | float

    @property
    def value(self) -> Tensor | float:
        """The mean; 0 without terms."""
        return self.total / max(self.count, 1)


def add(sums: dict[str, Mean], means: dict[str, Mean]) -> None:
    """Add the means of a part of a batch to the sums of those before it, without their gradients."""
    for name, (total, count) in means.items():
        before = sums.get(name, (0.0, 0))
        sums[name] = Mean(before[0] + precise(total.detach()), before[1] + count)


def sum_over_processes(accelerator: Accelerator, sums: dict[str, Mean]) -> dict[str, Mean]:
    """The same of all processes together, as Python numbers; what is not finite in any process stays so.

    One reduction and one transfer for all of them.
    """
    dtype, device = widest_float(accelerator.device), accelerator.device
    scalars = [torch.as_tensor(x, dtype=dtype, device=device) for mean in sums.values() for x in mean]
    reduced = accelerator.reduce(torch.stack(scalars), "sum").view(-1, 2).tolist()
    return dict(zip(sums, map(Mean._make, reduced), strict=True))
