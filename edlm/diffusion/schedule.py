"""Masking schedules: ``alpha(t)``, the probability that a token is still clean at time ``t``."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Schedule(ABC):
    """A decreasing ``alpha(t)`` with ``alpha(0) = 1`` (clean) and ``alpha(1) = 0`` (all masked)."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Probability that a token is still clean at ``t`` in [0, 1]; same shape as ``t``."""

    @abstractmethod
    def alpha_derivative(self, t: Tensor) -> Tensor:
        """``d alpha / d t``, never positive; same shape as ``t``."""

    def nelbo_weight(self, t: Tensor) -> Tensor:
        """Weight ``-alpha'(t) / (1 - alpha(t))`` of the continuous-time bound; infinite at ``t = 0``.

        References:
            Sahoo et al. 2024, arXiv:2406.07524, Eq. 10.
        """
        return -self.alpha_derivative(t) / (1 - self.alpha(t))

    def reveal_probability(self, t: Tensor, s: Tensor) -> Tensor:
        """Probability that a token masked at ``t`` is clean at ``s < t``, from ``q(x_s | x_t, x_0)``.

        ``(alpha(s) - alpha(t)) / (1 - alpha(t))``
        """
        return (self.alpha(s) - self.alpha(t)) / (1 - self.alpha(t))


@dataclass(frozen=True)
class LogLinear(Schedule):
    """``alpha(t) = 1 - t``, so that ``t`` is the expected fraction of masked tokens.

    Example:
        >>> LogLinear().nelbo_weight(torch.tensor(0.25)).item()
        4.0
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)


@dataclass(frozen=True)
class Cosine(Schedule):
    """``alpha(t) = 1 - cos(pi (1 - t) / 2)``: few tokens are revealed by the first steps.

    References:
        Shi et al. 2024 (MD4), arXiv:2406.04329, Table 4.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - torch.cos(math.pi / 2 * (1 - t))

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))


@dataclass(frozen=True)
class Polynomial(Schedule):
    """``alpha(t) = 1 - t ** power``.

    Raises:
        ValueError: ``power`` is not positive.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"power must be > 0, got {self.power}")

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**self.power

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -self.power * t ** (self.power - 1)

    def nelbo_weight(self, t: Tensor) -> Tensor:
        return self.power / t  # also at t = 0, where the general form is 0 / 0


_SCHEDULES = {"log_linear": LogLinear, "cosine": Cosine, "polynomial": Polynomial}


def get_schedule(schedule: str | Schedule) -> Schedule:
    """The schedule of that name (``log_linear``, ``cosine``, ``polynomial``), or the object itself.

    Raises:
        ValueError: the name is unknown.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if schedule not in _SCHEDULES:
        raise ValueError(f"schedule must be one of {sorted(_SCHEDULES)}, got {schedule!r}")
    return _SCHEDULES[schedule]()
