"""Means with their standard errors; intervals of many means at once, by bootstrap; intervals of shares."""

import math

import torch
from scipy.stats import binomtest
from torch import Tensor

from edlm.evaluation.estimates.estimate import Estimate, mean_of

RESAMPLES_AT_ONCE = 2**22  # entries of the table of drawn rows
_NO_SPREAD = 1e-12  # a resample's variance, in squares of the largest deviation, that is rounding or as good as none


def simultaneous_intervals(
    values: Tensor, *, resamples: int = 10_000, level: float = 0.95, generator: torch.Generator
) -> list[Estimate]:
    """Intervals of the means of many series over the same rows, which hold for all of them at once.

    The balanced studentised bootstrap. A resample draws n rows anew, the same for all series; with * of the resample
    and F_j the share of resamples in which ``|t_j|`` is less,

    t_j = (mean*_j - mean_j) / stderr*_j
    q = quantile(max_j F_j(|t_j|), level)
    c_j = quantile(|t_j|, q)
    low_j, high_j = mean_j -+ c_j stderr_j

    Each interval has the same chance q by itself; of one series, or of copies of it, q = level. Where series move
    together q is less than Bonferroni's ``1 - (1 - level) / m``. Of series with t alike all c_j are about the quantile
    of ``max_j |t_j|``. One c for all would be set by whichever series has the longest tails: gains that are capped
    but in a few rows hardly vary in resamples without these, and t is in the hundreds there.

    Args:
        values: One series a row, paired differences for instance, in the unit of the result, shape ``[m, n]``; m = 0
            is allowed. The n rows are independent of each other.
        resamples: Number of resamples; several times ``m / (1 - level)``.
        level: Chance that all m intervals hold, between 0 and 1.
        generator: Draws the rows, on the CPU.

    Returns:
        An interval of each series, in their order; value and standard error are those of `mean_of`. All equal values
        have the interval ``[mean, mean]``; one value alone (n = 1), or a series with an entry that is not finite,
        has NaN ends. None of these affect the others.

    Raises:
        ValueError: other shapes, no rows, or an option out of range.

    Note:
        A resample may draw equal values only: it has no spread, and t is infinite. It counts as infinite, since to
        draw again would leave out the very resamples that lie far off. Where more than a share ``1 - q`` of resamples
        are so, the rows cannot bound the mean, and the ends are infinite: with two or three rows at 95 %, or with all
        values but one or two equal (of many series, but five or so). An interval that always holds affects no other.

        Quantiles of resamples are rounded up, so that one more resample would lie within with a chance of at least
        ``level``, as long as there are enough. For rows the level is approximate: the error is O(1/n^2) for one series
        of smooth values, and long tails need more rows. All t are kept at once, ``[resamples, m]`` in float64.

    References:
        Beran 1988, Balanced simultaneous confidence sets; Westfall and Young 1993, Resampling-Based Multiple Testing
        (min-p); Romano and Wolf 2005, Exact and approximate stepdown methods for multiple hypothesis testing (max-t);
        Hall 1988, On symmetric bootstrap confidence intervals.

    Example:
        >>> import torch
        >>> gains = torch.tensor([[2.0, 4.0, 3.0, 5.0, 1.0, 3.0], [7.0, 7.0, 7.0, 7.0, 7.0, 7.0]])
        >>> first, second = simultaneous_intervals(gains, generator=torch.Generator().manual_seed(0))
        >>> first.value, 0 < first.low < 2, first.high - first.value == first.value - first.low
        (3.0, True, True)
        >>> second
        Estimate(value=7.0, stderr=0.0, n=6, low=7.0, high=7.0)
    """
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"values must be [m, n] with n >= 1, got shape {[*values.shape]}")
    if resamples < 1:
        raise ValueError(f"resamples must be >= 1, got {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    values, n = values.double().cpu(), values.shape[1]
    is_constant = (values == values[:, :1]).all(1)  # so is a single value
    varies = values.isfinite().all(1) & ~is_constant
    critical = torch.full((len(values),), math.nan, dtype=torch.float64)
    if varies.any():
        critical[varies] = _critical_values(values[varies], resamples, level, generator)
    intervals = []
    for series, constant, c in zip(values, is_constant.tolist(), critical.tolist(), strict=True):
        mean = mean_of(series)
        # The mean of equal values may be off by rounding, and then so is their standard error.
        stderr, half = (0.0, 0.0) if constant and n > 1 and series[0].isfinite() else (mean.stderr, c * mean.stderr)
        intervals.append(Estimate(mean.value, stderr, n, mean.value - half, mean.value + half))
    return intervals


def share_of(flags: Tensor, level: float = 0.95) -> Estimate:
    """Share of true flags with Wilson's score interval, which has a width even where all flags are equal.

    Args:
        flags: Bool, shape ``[n]``.
        level: Between 0 and 1.

    Raises:
        ValueError: no flags, another dtype, or a level out of range.

    References:
        Wilson 1927; Brown, Cai and DasGupta 2001.

    Example:
        >>> share = share_of(torch.tensor([False] * 100))
        >>> share.value, round(share.high, 4)
        (0.0, 0.037)
    """
    if flags.dtype != torch.bool or flags.ndim != 1 or not len(flags):
        raise ValueError(f"flags must be bool [n] with n >= 1, got {flags.dtype} {[*flags.shape]}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    n, share = len(flags), flags.double().mean().item()
    interval = binomtest(int(flags.sum()), n).proportion_ci(level, "wilson")
    return Estimate(share, math.sqrt(share * (1 - share) / n), n, float(interval.low), float(interval.high))


def row_weights(resamples: int, n: int, generator: torch.Generator) -> Tensor:
    """Share of each of ``n`` rows in a resample; means are ``weights @ values``.

    Returns:
        Shape ``[resamples, n]``, float64; later calls continue the draws of the generator.
    """
    draws = torch.randint(n, (resamples, n), generator=generator)
    one = torch.ones((), dtype=torch.float64).expand_as(draws)
    return torch.zeros(resamples, n, dtype=torch.float64).scatter_add_(1, draws, one) / n


def _critical_values(values: Tensor, resamples: int, level: float, generator: torch.Generator) -> Tensor:
    """``c_j`` of series ``values[m, n]`` that all vary, ``[m]``; inf where the rows cannot bound the mean."""
    t = _resampled_t(values, resamples, generator).T.contiguous()
    ascending = t.sort(1).values
    ranks = torch.searchsorted(ascending, t)  # number of smaller values
    within = min(resamples, math.ceil(level * (resamples + 1)))
    # One more resample would be of rank r or r + 1 where it is of rank r among those drawn.
    rank = min(resamples - 1, ranks.amax(0).kthvalue(within).values.item() + 1)
    return ascending[:, rank]


def _resampled_t(values: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """``|mean* - mean| / stderr*`` of each resample and series, ``[resamples, m]``; inf where none of them vary."""
    m, n = values.shape
    deviations = values - values.mean(1, keepdim=True)  # else the variance would be a difference of large numbers
    deviations = (deviations / deviations.abs().amax(1, keepdim=True)).T.contiguous()
    squares, parts = deviations.square(), []
    at_once = max(1, RESAMPLES_AT_ONCE // max(n, m))
    for start in range(0, resamples, at_once):
        weights = row_weights(min(at_once, resamples - start), n, generator)
        mean = weights @ deviations
        variance = (weights @ squares - mean.square()) * n / (n - 1)
        parts.append((mean.abs() / (variance / n).sqrt()).where(variance > _NO_SPREAD, math.inf))
    return torch.cat(parts)
