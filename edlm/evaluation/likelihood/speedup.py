"""How much of one sampler's time another needs for the same likelihood bound."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from edlm.evaluation.estimates.bootstrap import row_weights
from edlm.evaluation.estimates.estimate import Estimate


@dataclass(frozen=True)
class Curve:
    """Bound and time of one sampler at several numbers of denoiser passes.

    Attributes:
        name: Of the method.
        order: Reveal order.
        num_steps: Denoiser passes of each setting, ascending.
        nats: Bound of each row, nats per token, low = good, ``[settings, n]``, float64; inf is allowed. All settings,
            and all curves that are compared, have the same rows.
        seconds: Seconds per sequence of each timed batch, ``[settings, repeats]``, float64.
    """

    name: str
    order: str
    num_steps: tuple[int, ...]
    nats: Tensor
    seconds: Tensor

    @property
    def bounds(self) -> Tensor:
        """Mean bound over rows, nats per token, ``[settings]``."""
        return self.nats.mean(1)

    @property
    def times(self) -> Tensor:
        """Median seconds per sequence over repeats, ``[settings]``."""
        return _median(self.seconds)


@dataclass(frozen=True)
class TimeRatio:
    """Time that a curve needs for a bound, as a share of the reference's time; below 1 = faster.

    Attributes:
        value: From all rows and repeats; inf where the curve never reaches the bound, NaN where the bound is infinite.
        low: Lower end of the interval; NaN for a single row, and where ``value`` is.
        high: Upper end; inf where too many resamples never reach the bound, NaN as ``low``.
        level: Confidence level of the interval.
        num_unreached: Resamples in which the curve never reaches the bound.
    """

    value: float
    low: float
    high: float
    level: float
    num_unreached: int


def time_ratio(
    curve: Curve,
    reference: Curve,
    reference_steps: int,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    generator: torch.Generator,
) -> TimeRatio:
    """Seconds of ``curve`` for the bound of ``reference`` at ``reference_steps``, divided by the reference's seconds.

    The interval is a percentile bootstrap. A resample draws rows with replacement, the same rows for both curves
    and all settings, and the timed batches of each setting; its ratio is infinite where the curve never reaches the
    bound. A setting with an infinite row never reaches any, also where a resample lacks that row. A setting that was
    timed once has the same time in all resamples: the interval does not cover how times vary.

    Args:
        curve: The curve that is compared.
        reference: The curve it is compared with, on the same rows.
        reference_steps: The reference's setting that gives bound and time; one of its ``num_steps``.
        resamples: Of the bootstrap, >= 1.
        level: Of the interval, between 0 and 1.
        generator: Draws rows and batches.

    Raises:
        ValueError: the curves have different numbers of rows, or the reference has no such setting.

    Note:
        Times are of one machine at one batch size, and with few repeats the median's spread is understated. No
        interval covers the interpolation of `seconds_to_reach`. The envelope takes the least of several noisy bounds,
        which favours curves with more settings where those bounds differ by less than their paired error.

    References:
        Efron 1979, Bootstrap methods: another look at the jackknife.
    """
    n = curve.nats.shape[1]
    if n != reference.nats.shape[1]:
        raise ValueError(f"a paired ratio needs the same rows, got {n} and {reference.nats.shape[1]} rows")
    if reference_steps not in reference.num_steps:
        raise ValueError(f"reference_steps must be one of {reference.num_steps}, got {reference_steps}")
    at = reference.num_steps.index(reference_steps)
    if reference.bounds[at].isinf():
        return TimeRatio(math.nan, math.nan, math.nan, level, 0)
    value = (seconds_to_reach(curve.bounds, curve.times, reference.bounds[at]) / reference.times[at]).item()

    weights = row_weights(resamples, n, generator)
    times = _resampled_times(curve.seconds, resamples, generator)
    # Of a curve relative to itself, a batch that was timed once must be drawn once.
    reference_times = times if curve is reference else _resampled_times(reference.seconds, resamples, generator)
    targets = _resampled_bounds(reference.nats, weights)[:, at]
    ratios = seconds_to_reach(_resampled_bounds(curve.nats, weights), times, targets) / reference_times[:, at]
    unreached = int(ratios.isinf().sum())
    if n == 1:
        return TimeRatio(value, math.nan, math.nan, level, unreached)
    # Neighbours are not interpolated, since one may be infinite: each end is rounded outwards.
    low = ratios.quantile((1 - level) / 2, interpolation="lower").item()
    high = ratios.quantile((1 + level) / 2, interpolation="higher").item()
    return TimeRatio(value, low, high, level, unreached)


class Worth(NamedTuple):
    """What a sampler at one number of passes is worth.

    Attributes:
        passes: Denoiser passes of the reference for the same bound; inf where it never reaches it.
        share: Seconds as a share of the reference's for the same bound, below 1 = faster, with its 95 % interval; 0
            where the reference never reaches the bound, NaN ends for a single row.
    """

    passes: float
    share: Estimate


def worth(curve: Curve, num_steps: int, reference: Curve, *, generator: torch.Generator) -> Worth:
    """Passes and time that a reference needs for the bound of ``curve`` at ``num_steps``; errors of `time_ratio`.

    Between the reference's settings its bound is taken to be linear in log passes and in log seconds.
    """
    ratio = time_ratio(reference, curve, num_steps, generator=generator)
    target = curve.bounds[curve.num_steps.index(num_steps)]
    passes = seconds_to_reach(reference.bounds, torch.tensor(reference.num_steps, dtype=torch.float64), target).item()
    value, low, high = (1 / x if x else math.inf for x in (ratio.value, ratio.high, ratio.low))
    return Worth(passes, Estimate(value, low=low, high=high))


def seconds_to_reach(bounds: Tensor, seconds: Tensor, target: Tensor) -> Tensor:
    """Least seconds at which each curve reaches a bound of at most ``target``.

    Between neighbouring points of the lower envelope (a point that is slower and no better than another is not
    on it) the bound is linear in log seconds.

    Args:
        bounds: Nats per token, low = good, not NaN, shape ``[..., settings]``, in any order.
        seconds: Of the same settings, positive.
        target: Nats per token, shape ``[...]``.

    Returns:
        Seconds, ``[...]``; the least of ``seconds`` if that setting reaches the target already, inf if none does.

    Note:
        With few settings the interpolation is a convention: no sampler was run in between. A number of passes in
        between exists, but its bound may lie on either side of the line.

    Example:
        >>> seconds_to_reach(torch.tensor([4.0, 3.0, 2.0]), torch.tensor([1.0, 4.0, 16.0]), torch.tensor(3.5))
        tensor(2.)
    """
    seconds, order = seconds.sort(dim=-1)
    bounds = bounds.gather(-1, order)
    reached = bounds <= target[..., None]
    after = reached.int().argmax(-1, keepdim=True)  # the first that reaches the target
    is_earlier = torch.arange(bounds.shape[-1]) < after
    before = bounds.where(is_earlier, torch.inf).argmin(-1, keepdim=True)  # the envelope's point before it
    slower, faster = (seconds.gather(-1, at)[..., 0] for at in (after, before))
    better, worse = (bounds.gather(-1, at)[..., 0] for at in (after, before))
    # From the slower point back, so that a target equal to a point's bound gives that point's time exactly.
    share = ((target - better) / (worse - better)).where(after[..., 0] > 0, 0.0)
    return (slower * (faster / slower) ** share).where(reached.any(-1), torch.inf)


def _resampled_bounds(nats: Tensor, weights: Tensor) -> Tensor:
    """Means ``[resamples, settings]`` of ``nats[settings, n]``; inf of a setting with an infinite row, drawn or not."""
    infinite = nats.isinf().any(1)
    return (weights @ nats.masked_fill(infinite[:, None], 0).T).masked_fill(infinite, torch.inf)


def _resampled_times(seconds: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Medians ``[resamples, settings]`` of repeats drawn anew in each setting of ``seconds[settings, repeats]``."""
    draws = torch.randint(seconds.shape[1], (resamples, *seconds.shape), generator=generator)
    return _median(seconds.expand(resamples, -1, -1).gather(-1, draws))


def _median(values: Tensor) -> Tensor:
    """Over the last dimension; of an even number the mean of the middle two, which `torch.median` is not."""
    return values.quantile(0.5, dim=-1)
