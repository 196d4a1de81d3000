"""The window: at which steps energies are used."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Window(ABC):
    """Says, for each row, whether a step uses the energy."""

    @abstractmethod
    def covers(self, step: Tensor, t: Tensor, masked: Tensor, real: Tensor | None = None) -> Tensor:
        """Bool, shape ``[batch]``.

        Args:
            step: Index of each row's step, from 0, shape ``[batch]``.
            t: Its time, shape ``[batch]``; the first step has ``t = 1``.
            masked: Masked positions when it begins, bool, shape ``[batch, length]``.
            real: False at padding, bool, shape ``[batch, length]``; None without padding.
        """


@dataclass(frozen=True)
class _Interval(Window):
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"window must have 0 <= low <= high <= 1, got ({self.low}, {self.high})")


@dataclass(frozen=True)
class Times(_Interval):
    """Steps with ``low < t <= high``; (0.8, 1.0) is the paper's window w = 0.2."""

    def covers(self, step: Tensor, t: Tensor, masked: Tensor, real: Tensor | None = None) -> Tensor:
        return (self.low < t) & (t <= self.high)


@dataclass(frozen=True)
class FractionMasked(_Interval):
    """Rows with ``low < fraction of masked positions <= high``; padding does not count."""

    def covers(self, step: Tensor, t: Tensor, masked: Tensor, real: Tensor | None = None) -> Tensor:
        count = masked.shape[1] if real is None else real.sum(1).clamp(min=1)
        fraction = masked.float().sum(1) / count
        return (self.low < fraction) & (fraction <= self.high)


@dataclass(frozen=True)
class Steps(Window):
    """The steps listed."""

    steps: tuple[int, ...]

    def covers(self, step: Tensor, t: Tensor, masked: Tensor, real: Tensor | None = None) -> Tensor:
        return torch.isin(step, torch.tensor(self.steps, dtype=step.dtype, device=step.device))


def get_window(window: Window | Sequence[float]) -> Window:
    """A pair of times becomes `Times`.

    Raises:
        ValueError: not a pair of times with ``0 <= low <= high <= 1``.
    """
    if isinstance(window, Window):
        return window
    if len(window) != 2:
        raise ValueError(f"window must be a pair (low, high) or a Window, got {window!r}")
    return Times(*window)
