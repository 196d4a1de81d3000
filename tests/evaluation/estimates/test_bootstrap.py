"""Intervals: coverage, plain loops, enumeration, and rows that say too little."""

import itertools
import math
import statistics

import pytest
import torch

from edlm.evaluation.estimates.bootstrap import row_weights, share_of, simultaneous_intervals
from edlm.evaluation.estimates.estimate import mean_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlated(m: int, n: int, common: float = 0.5, seed: int = 3) -> torch.Tensor:
    """Series ``[m, n]`` of mean 0 and variance 1, of any two the correlation ``common``."""
    g = generator(seed)
    shared, own = (torch.randn(k, n, generator=g, dtype=torch.float64) for k in (1, m))
    return common**0.5 * shared + (1 - common) ** 0.5 * own


def critical(interval) -> float:
    return (interval.high - interval.value) / interval.stderr


def plain_t(drawn: list[float], mean: float) -> float:
    if len(set(drawn)) == 1:
        return math.inf
    return abs(statistics.mean(drawn) - mean) / (statistics.stdev(drawn) / len(drawn) ** 0.5)


def test_intervals_hold_at_once_at_their_level():
    repetitions, m, n = 1000, 6, 40
    together, each = 0, 0
    for i in range(repetitions):
        found = simultaneous_intervals(correlated(m, n, seed=i), resamples=1000, generator=generator(i))
        hold = [interval.low <= 0 <= interval.high for interval in found]
        together += all(hold)
        each += sum(hold)
    error = (0.95 * 0.05 / repetitions) ** 0.5
    assert together / repetitions == pytest.approx(0.95, abs=3 * error)  # neither too short nor wasteful
    assert each / (m * repetitions) > 0.98  # so each by itself is longer than its 95 % interval


def plain_critical(t: list[list[float]], level: float) -> list[float]:
    """Of ``t[resamples][m]``: the least common rank at which enough resamples lie within, and one more."""
    ascending = [sorted(one) for one in zip(*t, strict=True)]
    needed = min(len(t), math.ceil(level * (len(t) + 1)))

    def within(rank: int) -> int:
        return sum(all(one <= of[rank] for one, of in zip(row, ascending, strict=True)) for row in t)

    rank = next(rank for rank in range(len(t)) if within(rank) >= needed)
    return [of[min(len(t) - 1, rank + 1)] for of in ascending]


@pytest.mark.parametrize("at_once", [2**22, 70])
def test_intervals_equal_a_plain_loop_over_the_same_resamples(monkeypatch, at_once):
    """Drawn whole or in parts; with an offset that a variance from raw squares would not survive."""
    monkeypatch.setattr("edlm.evaluation.estimates.bootstrap.RESAMPLES_AT_ONCE", at_once)
    values = correlated(3, 8) * torch.tensor([[1.0], [0.01], [30.0]]) + torch.tensor([[2.0], [1e5], [-7.0]])
    values[2, 4] = 300.0  # a long tail
    rows = torch.randint(8, (302, 8), generator=generator(5)).tolist()
    for some in (values[:1], values):
        series = [(one, statistics.mean(one)) for one in some.tolist()]
        t = [[plain_t([one[row] for row in drawn], mean) for one, mean in series] for drawn in rows]
        found = simultaneous_intervals(some, resamples=302, level=0.9, generator=generator(5))
        for interval, one, c in zip(found, some, plain_critical(t, 0.9), strict=True):
            assert interval[:3] == mean_of(one)[:3]
            halves = (interval.high - interval.value, interval.value - interval.low)
            assert halves == pytest.approx([c * interval.stderr] * 2, rel=1e-6)
    one_series = sorted(row[0] for row in t)
    assert plain_critical([row[:1] for row in t], 0.9) == [one_series[math.ceil(0.9 * 303)]]


def test_intervals_count_a_resample_of_equal_values_as_infinite():
    """All 256 resamples of four rows, summed exactly: without those four that draw one row only, c is another."""
    values, level = [0.0, 1.0, 3.0, 9.0], 0.935
    t = sorted(plain_t([values[row] for row in rows], 3.25) for rows in itertools.product(range(4), repeat=4))
    assert t[-5] < t[-4] == math.inf
    at, without = t[math.ceil(level * 256) - 1], t[math.ceil(level * 252) - 1]
    # The quantile lies amid equal t, so that a sample has it exactly.
    assert t[math.ceil((level - 0.004) * 256) - 1] == pytest.approx(at) == t[math.ceil((level + 0.004) * 256) - 1]
    assert at > 1.1 * without
    series = torch.tensor([values])
    (found,) = simultaneous_intervals(series, resamples=100_000, level=level, generator=generator())
    assert critical(found) == pytest.approx(at)


@pytest.mark.parametrize(
    ("n", "level", "bounded"), [(2, 0.95, False), (3, 0.95, False), (3, 0.8, True), (4, 0.95, True)]
)
def test_intervals_of_two_or_three_rows_are_infinite_at_95_percent(n, level, bounded):
    """One row is drawn throughout in a share n^(1 - n) of resamples: 1/2, 1/9, 1/64."""
    values = torch.tensor([[1.0, 2.0, 4.0, 9.0], [5.0, 4.0, 2.0, 0.0]])[:, :n]
    for found, one in zip(simultaneous_intervals(values, level=level, generator=generator()), values, strict=True):
        assert (found.value, found.stderr) == mean_of(one)[:2]
        assert math.isfinite(found.low) == math.isfinite(found.high) == bounded
        assert found.low < found.value < found.high


def test_intervals_are_finite_where_the_quantile_is():
    values, resamples = torch.tensor([[0.0, 1.0, 5.0]]), 100
    infinite = int((row_weights(resamples, 3, generator()).amax(1) == 1).sum())  # one row throughout
    assert infinite > 5
    for level, bounded in ((0.5, True), ((resamples - infinite) / (resamples + 1) + 1e-6, False)):
        (found,) = simultaneous_intervals(values, resamples=resamples, level=level, generator=generator())
        assert math.isfinite(found.low) == bounded


def test_intervals_do_not_depend_on_series_that_are_not_finite():
    values = correlated(2, 40)
    others = {
        "infinite": values[0].clone().index_fill_(0, torch.tensor([3]), math.inf),
        "minus infinite": torch.full((40,), -math.inf, dtype=torch.float64),
        "nan": values[1].clone().index_fill_(0, torch.tensor([0]), math.nan),
    }
    mixed = torch.stack([*others.values(), *values])
    *found, first, second = simultaneous_intervals(mixed, generator=generator())
    assert [first, second] == simultaneous_intervals(values, generator=generator())
    found = dict(zip(others, found, strict=True))
    assert [found[name].value for name in ("infinite", "minus infinite")] == [math.inf, -math.inf]
    assert all(map(math.isnan, [number for interval in found.values() for number in (interval.stderr, *interval[3:])]))
    assert math.isnan(found["nan"].value)


def test_intervals_of_capped_series_hold_and_have_a_finite_width():
    """Rows at their cap with chance 0.9: of 20 series of 30 rows, half of the tables have one that is constant."""
    tables, hold, g = 60, 0, generator(1)
    for _ in range(tables):
        capped, below = (
            torch.rand(20, 30, generator=g) < 0.9,
            torch.rand(20, 30, generator=g, dtype=torch.float64).log(),
        )
        found = simultaneous_intervals(torch.where(capped, 1.0, below), resamples=500, generator=g)
        hold += all(interval.low <= 0.9 - 0.1 <= interval.high for interval in found)
        assert all(0 < interval.high - interval.low < 10 for interval in found)
    assert hold / tables > 0.9


@pytest.mark.parametrize("n", [2, 30, 300])
def test_intervals_of_equal_values_narrow_with_rows_and_are_points_at_zero(n):
    equal, nothing = torch.full((1, n), 0.5), torch.zeros(1, n)
    (found,) = simultaneous_intervals(equal, generator=generator())
    t = {2: 12.7062, 30: 2.0452, 300: 1.9679}[n]  # Student's quantile, times the error of 8 rows at distance 0.5
    assert (found.value, found.stderr) == (0.5, 0.0)
    assert found.high - found.value == pytest.approx(t * 0.5 * math.sqrt(8 / (n * (n - 1))), rel=1e-4)
    (none,) = simultaneous_intervals(nothing, generator=generator())
    assert (none.low, none.value, none.high) == (0, 0, 0)
    varied = torch.stack([nothing[0], correlated(1, n)[0].float(), equal[0]])
    none, _, found = simultaneous_intervals(varied, generator=generator())
    assert (none.low, none.high) == (0, 0) and found.low < 0.5 < found.high


def test_intervals_of_copies_are_those_of_one_series():
    one = correlated(1, 50)
    (alone,) = simultaneous_intervals(one, generator=generator())
    assert critical(alone) == pytest.approx(2.01, abs=0.1)  # Student's t of 49 degrees of freedom
    signs = torch.ones(30, 1, dtype=torch.float64).index_fill_(0, torch.tensor([4, 9]), -1)
    for found, sign in zip(simultaneous_intervals(one * signs, generator=generator()), signs, strict=True):
        ends = (alone.low, alone.high) if sign > 0 else (-alone.high, -alone.low)
        assert (found.low, found.high) == pytest.approx(ends)
    apart = simultaneous_intervals(correlated(30, 50, common=0.0), generator=generator())
    alike = simultaneous_intervals(correlated(30, 50, common=0.9), generator=generator())
    alike, apart = (statistics.mean(map(critical, found)) for found in (alike, apart))
    assert critical(alone) + 0.2 < alike < apart - 0.5


def test_intervals_follow_order_unit_and_sign_of_series():
    values, order = correlated(5, 30), torch.tensor([3, 0, 4, 2, 1])
    found = simultaneous_intervals(values, generator=generator())
    turned = simultaneous_intervals(values[order], generator=generator())
    for i, other in zip(order.tolist(), turned, strict=True):
        assert other == pytest.approx(found[i], rel=1e-12)
    moved = simultaneous_intervals(-1e-100 * values, generator=generator())
    for one, other in zip(found, moved, strict=True):
        ends = (-other.value, -other.high, -other.low)
        assert ends == pytest.approx((1e-100 * one.value, 1e-100 * one.low, 1e-100 * one.high), rel=1e-12, abs=0)


def test_intervals_of_too_few_resamples_take_the_furthest():
    values = correlated(4, 9)
    rows = torch.randint(9, (2, 9), generator=generator()).tolist()
    for count in (1, 2):
        found = simultaneous_intervals(values, resamples=count, generator=generator())
        for interval, one in zip(found, values.tolist(), strict=True):
            mean = statistics.mean(one)
            furthest = max(plain_t([one[row] for row in drawn], mean) for drawn in rows[:count])
            assert critical(interval) == pytest.approx(furthest)


def test_intervals_of_one_row_are_nan_and_of_no_series_none():
    (found,) = simultaneous_intervals(torch.tensor([[2.0]]), generator=generator())
    assert (found.value, found.n) == (2.0, 1) and all(map(math.isnan, (found.stderr, *found[3:])))
    assert simultaneous_intervals(torch.ones(0, 4), generator=generator()) == []
    whole = simultaneous_intervals(torch.tensor([[1, 5, 2, 8, 3]]), generator=generator())
    assert whole == simultaneous_intervals(torch.tensor([[1.0, 5.0, 2.0, 8.0, 3.0]]), generator=generator())


def test_share_of_has_the_interval_of_wilson():
    found = share_of(torch.tensor([True, True, False, False, False]))
    z = 1.959964
    middle, half = (0.4 + z * z / 10) / (1 + z * z / 5), z * math.sqrt(0.24 / 5 + z * z / 100) / (1 + z * z / 5)
    assert (found.value, found.low, found.high) == pytest.approx((0.4, middle - half, middle + half))
    assert found.stderr == pytest.approx(math.sqrt(0.24 / 5))
    none, every = share_of(torch.zeros(30, dtype=torch.bool)), share_of(torch.ones(30, dtype=torch.bool))
    assert (none.low, every.high) == (0, 1) and none.high == pytest.approx(1 - every.low) and 0.05 < none.high < 0.2


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: simultaneous_intervals(torch.ones(3), generator=generator()), "values"),
        (lambda: simultaneous_intervals(torch.ones(2, 0), generator=generator()), "values"),
        (lambda: simultaneous_intervals(torch.ones(1, 2), level=1.0, generator=generator()), "level"),
        (lambda: simultaneous_intervals(torch.ones(1, 2), resamples=0, generator=generator()), "resamples"),
        (lambda: share_of(torch.ones(3)), "flags"),
    ],
)
def test_intervals_refuse_bad_options(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()
