"""Forward process: ``alpha(t)``, the probability that a token is still clean at time ``t``, and draws from it."""

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


def antithetic_times(places: Tensor, *, smallest: float = 1e-3) -> Tensor:
    """Evenly spread times with one common random shift: each uniform, together of low variance.

    Args:
        places: Places of the times in [0, 1), as `BatchStreams.places` draws them, shape ``[num_times]``.
        smallest: Times lie in ``[smallest, 1)``: the weight of the loss is infinite at 0.

    Returns:
        Shape ``[num_times]``, float32.

    References:
        Kingma et al. 2021 (VDM), arXiv:2107.00630, App. I.1; Sahoo et al. 2024, arXiv:2406.07524.
    """
    return (smallest + (1 - smallest) * places).float()


def bell_times(places: Tensor, *, mean: float = 0.5, stddev: float = 0.2, smallest: float = 1e-3) -> Tensor:
    """Times of a normal density cut to ``[smallest, 1]``, evenly spread over its quantiles as in `antithetic_times`.

    Middle times are drawn most: near 0 almost nothing is masked, near 1 almost nothing is known.

    Args:
        places: As in `antithetic_times`.
        mean: Of the normal density before the cut.
        stddev: Its standard deviation, > 0.
        smallest: Least time.

    Returns:
        Shape ``[num_times]``, float32.

    References:
        Hong et al. 2026, arXiv:2605.13026, for the idea; mean and standard deviation are choices of this project.
    """
    low, high = (0.5 * (1 + math.erf((end - mean) / stddev / math.sqrt(2))) for end in (smallest, 1.0))
    quantiles = torch.special.ndtri(low + (high - low) * places.double())
    return (mean + stddev * quantiles).clamp(smallest, 1.0).float()


TIMES = {"uniform": antithetic_times, "bell": bell_times}


def mask_tokens(x_0: Tensor, t: Tensor, schedule: Schedule, mask_token_id: int, uniforms: Tensor) -> Tensor:
    """Draw ``x_t ~ q(x_t | x_0)``: each token is masked, alone, with probability ``1 - alpha(t)``.

    Args:
        x_0: Clean tokens, shape ``[batch, length]``.
        t: Times in [0, 1], shape ``[batch]``.
        schedule: Gives ``alpha``.
        mask_token_id: Token that represents "unknown".
        uniforms: In [0, 1), on any device, shape ``[batch, length]``.

    Returns:
        ``x_t``, shape ``[batch, length]``.
    """
    clean = uniforms < schedule.alpha(t.to(uniforms.device))[:, None]
    return torch.where(clean.to(x_0.device), x_0, mask_token_id)
