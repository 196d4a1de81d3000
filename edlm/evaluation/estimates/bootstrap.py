"""Means with their standard errors; intervals of many means at once, by bootstrap; intervals of shares."""

import math

import torch
from scipy.stats import binomtest
from scipy.stats import t as student
from torch import Tensor

from edlm.evaluation.estimates.estimate import Estimate, mean_of

MORE_ROWS = 8  # as Agresti and Coull's z^2, for several series at once
_NO_SPREAD = 1e-12  # a resample's variance, in squares of the largest deviation, that is rounding or as good as none
RESAMPLES_AT_ONCE = 2**22  # entries of the table of drawn rows


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

    Rows that are equal hide what others would be: a gain of k candidates, say, is capped at log k, and seldom less. So
    each stderr of a series in which a share s of rows is equal (s = 0 where all differ) is that of 8 s rows more, at
    the distance d_j of the row that is farthest from the mean, and c_j is no less than Student's quantile:

    stderr_j^2 = (sum_i (x_ij - mean_j)^2 + 8 s_j d_j^2) / (n (n - 1)), stderr*_j likewise, with the same s_j and d_j

    If all are equal they say nothing of a distance, and take the mean distance of the series that vary, or else their
    own from 0. So 0 in all rows, no difference in any, is certain; other series are not.

    Each interval has the same chance q by itself; of one series, or of copies of it, q = level. Where series move
    together q is less than Bonferroni's ``1 - (1 - level) / m``. Of series with t alike all c_j are about the quantile
    of ``max_j |t_j|``. One c for all would be set by whichever series has the longest tails.

    Args:
        values: One series a row, paired differences for instance, in the unit of the result, shape ``[m, n]``; m = 0
            is allowed. The n rows are independent of each other.
        resamples: Number of resamples; several times ``m / (1 - level)``.
        level: Chance that all m intervals hold, between 0 and 1.
        generator: Draws the rows, on the CPU.

    Returns:
        An interval of each series, in their order; value and standard error are those of `mean_of`. One value alone
        (n = 1), or a series with an entry that is not finite, has NaN ends and does not affect the others.

    Raises:
        ValueError: other shapes, no rows, or an option out of range.

    Note:
        A resample of one row throughout has no spread, and t is infinite. Where more than a share ``1 - q`` of
        resamples are so, as with two or three rows at 95 %, the rows cannot bound the mean, and the ends are infinite.

        Quantiles of resamples are rounded up, so that one more resample would lie within with a chance of at least
        ``level``, as long as there are enough. For rows the level is approximate: the error is O(1/n^2) for one series
        of smooth values, and long tails need more rows. All t are kept at once, ``[resamples, m]`` in float64.

    References:
        Beran 1988, Balanced simultaneous confidence sets; Westfall and Young 1993, Resampling-Based Multiple Testing
        (min-p); Romano and Wolf 2005, Exact and approximate stepdown methods for multiple hypothesis testing (max-t);
        Hall 1988, On symmetric bootstrap confidence intervals; Agresti and Coull 1998, Approximate is better than
        "exact" for interval estimation of binomial proportions (rows that are added).

    Example:
        >>> import torch
        >>> gains = torch.tensor([[2.0, 4.0, 3.0, 5.0, 1.0, 3.0], [7.0, 7.0, 7.0, 7.0, 7.0, 7.0]])
        >>> first, second = simultaneous_intervals(gains, generator=torch.Generator().manual_seed(0))
        >>> first.value, 0 < first.low < 2, first.high - first.value == first.value - first.low
        (3.0, True, True)
        >>> second.value, second.stderr, 4 < second.low < 7 < second.high < 10
        (7.0, 0.0, True)
    """
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"values must be [m, n] with n >= 1, got shape {[*values.shape]}")
    if resamples < 1:
        raise ValueError(f"resamples must be >= 1, got {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    values, n = values.double().cpu(), values.shape[1]
    known = values.isfinite().all(1) & (n > 1)
    half = torch.full((len(values),), math.nan, dtype=torch.float64)
    if known.any():
        half[known] = _half_widths(values[known], resamples, level, generator)
    estimates = [mean_of(series) for series in values]
    return [
        Estimate(e.value, e.stderr, n, e.value - h, e.value + h) for e, h in zip(estimates, half.tolist(), strict=True)
    ]


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


def _half_widths(values: Tensor, resamples: int, level: float, generator: torch.Generator) -> Tensor:
    """``c_j stderr_j`` of finite series ``values[m, n]``, n >= 2; ``[m]``."""
    n, mean = values.shape[1], values.mean(1, keepdim=True)
    deviations = (values - mean).where((values != values[:, :1]).any(1, keepdim=True), 0.0)
    distances = deviations.abs().amax(1)
    varies = distances > 0
    distances = distances.where(varies, distances[varies].mean() if varies.any() else mean[:, 0].abs())
    half, kept = torch.zeros_like(distances), (distances > 0) & (values != 0).any(1)
    if kept.any():
        scaled = deviations[kept] / distances[kept, None]  # at most 1, so that squares stay exact
        like = (scaled.round(decimals=9) == scaled.round(decimals=9).mode(1, keepdim=True).values).sum(1)
        more = MORE_ROWS * like.where(like > 1, 0) / n
        t = _resampled_t(scaled.T.contiguous(), more, resamples, generator)
        critical, least = _quantiles(t, level), student.ppf((1 + level) / 2, n - 1)
        critical = critical.where(more == 0, critical.clamp(min=least))
        half[kept] = distances[kept] * critical * (_variance(scaled.square().mean(1), more, n) / n).sqrt()
    return half


def _variance(mean_square: Tensor, more: Tensor, n: int) -> Tensor:
    """Of n rows, from their mean squared deviation, and of so many more at distance 1."""
    return (n * mean_square + more) / (n - 1)


def _quantiles(t: Tensor, level: float) -> Tensor:
    """``c_j`` of ``|t_j|``, ``[resamples, m]``; inf where the rows cannot bound the mean."""
    resamples = len(t)
    ascending = t.T.contiguous().sort(1).values
    ranks = torch.searchsorted(ascending, t.T.contiguous())  # number of smaller values
    within = min(resamples, math.ceil(level * (resamples + 1)))
    # One more resample would be of rank r or r + 1 where it is of rank r among those drawn.
    rank = min(resamples - 1, ranks.amax(0).kthvalue(within).values.item() + 1)
    return ascending[:, rank]


def _resampled_t(scaled: Tensor, more: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """``|mean*| / stderr*`` of each resample and series, ``[resamples, m]``, from deviations ``[n, m]``."""
    n, m = scaled.shape
    squares, parts = scaled.square(), []
    at_once = max(1, RESAMPLES_AT_ONCE // max(n, m))
    for start in range(0, resamples, at_once):
        weights = row_weights(min(at_once, resamples - start), n, generator)
        mean = weights @ scaled
        variance = _variance(weights @ squares - mean.square(), more, n)
        parts.append((mean.abs() / (variance / n).sqrt()).where(variance > _NO_SPREAD, math.inf))
    return torch.cat(parts)
