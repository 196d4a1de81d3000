"""Time to a bound: closed forms for the reading of a curve, known truths for its interval."""

import math
from dataclasses import replace

import pytest
import torch

from edlm.evaluation.likelihood.speedup import Curve, TimeRatio, seconds_to_reach, time_ratio, worth
from tests.chance import SIGMAS


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def curve(bounds, seconds, rows=None) -> Curve:
    """Of these mean bounds (the same for all rows, plus ``rows``) and these times, one list of repeats a setting."""
    rows = torch.zeros(3, dtype=torch.float64) if rows is None else rows
    num_steps = tuple(4 * 2**i for i in range(len(bounds)))
    return Curve("ours", "random", num_steps, tensor(bounds)[:, None] + rows, tensor(seconds))


def reach(bounds, seconds, target) -> float:
    return seconds_to_reach(bounds, seconds, tensor(target)).item()


# --- reading a curve


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (4.0, 1.0),  # a setting's own bound: its own time
        (3.0, 3.0),
        (2.6, 24.0),
        (3.5, math.sqrt(3.0)),  # half of the way in nats = half of the way in log seconds
        (3.75, 3.0**0.25),
        (2.7, 3.0 * 8.0**0.75),
        (4.1, 1.0),  # the first setting does: never less than its time
        (9.0, 1.0),
        (2.599, math.inf),
    ],
)
def test_between_settings_the_bound_is_linear_in_log_seconds(target, expected):
    for places in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        bounds, seconds = tensor([4.0, 3.0, 2.6])[places], tensor([1.0, 3.0, 24.0])[places]
        assert reach(bounds, seconds, target) == pytest.approx(expected, rel=1e-12)


def test_a_setting_gives_its_own_time_exactly():
    seconds = torch.rand(9, dtype=torch.float64, generator=generator()).sort().values + 0.01
    bounds = torch.rand(9, dtype=torch.float64, generator=generator(1)).sort(descending=True).values
    assert [reach(bounds, seconds, bound) for bound in bounds.tolist()] == seconds.tolist()


@pytest.mark.parametrize(
    ("bounds", "seconds", "target", "expected"),
    [
        ([4.0, 4.5, 2.0], [1.0, 2.0, 16.0], 3.0, 4.0),  # the point at 2 s is worse than the one before
        ([4.0, 4.5, 2.0], [1.0, 2.0, 16.0], 4.2, 1.0),
        ([4.0, 4.0, 2.0], [1.0, 2.0, 16.0], 3.0, 4.0),  # no better is skipped too
        ([4.0, 2.0, 2.5], [1.0, 2.0, 16.0], 3.0, math.sqrt(2.0)),
        ([4.0, 2.0, 2.0], [1.0, 2.0, 16.0], 2.0, 2.0),
        ([3.0, 4.0, 2.0], [1.0, 2.0, 16.0], 3.5, 1.0),
        ([3.0, 2.0, 1.0], [2.0, 2.0, 8.0], 2.5, 2.0),  # of two settings of equal time the better counts
        ([2.0, 3.0, 1.0], [2.0, 2.0, 8.0], 1.5, 4.0),
        ([2.0], [0.3], 2.0, 0.3),
        ([2.0], [0.3], 1.9, math.inf),
    ],
)
def test_slower_points_that_are_no_better_are_skipped(bounds, seconds, target, expected):
    assert reach(tensor(bounds), tensor(seconds), target) == pytest.approx(expected, rel=1e-12)


# --- the ratio


def test_the_value_is_the_ratio_at_the_references_setting():
    reference = curve([5.0, 3.5, 3.0], [[2.0], [5.0], [7.0]])
    ours = curve([4.0, 3.0], [[1.0], [4.0]])
    assert time_ratio(ours, reference, 8, resamples=5, generator=generator()).value == pytest.approx(2.0 / 5)
    assert time_ratio(ours, reference, 16, resamples=5, generator=generator()).value == pytest.approx(4.0 / 7)
    assert time_ratio(reference, ours, 4, resamples=5, generator=generator()).value == pytest.approx(
        2 * 2.5 ** (2 / 3) / 1.0
    )


@pytest.mark.parametrize(
    ("repeats", "median"), [([1.0, 2.0, 90.0], 2.0), ([3.0, 1.0, 60.0, 5.0], 4.0), ([6.0, 2.0], 4.0)]
)
def test_times_are_medians(repeats, median):
    timed = curve([2.0], [repeats])
    assert timed.times.tolist() == [median]
    assert time_ratio(timed, curve([2.0], [[1.0]]), 4, resamples=1, generator=generator()).value == median


@pytest.mark.parametrize(
    ("repeats", "level", "ends"),
    [
        ([1.0, 1.0, 100.0], 0.4, (1.0, 1.0)),  # the slow one is the median if drawn twice: in 7 of 27 resamples
        ([1.0, 1.0, 100.0], 0.6, (1.0, 100.0)),
        ([1.0, 3.0], 0.4, (2.0, 2.0)),  # 1, 2 and 3 in 1, 2 and 1 of 4 resamples
        ([1.0, 3.0], 0.6, (1.0, 3.0)),
    ],
)
def test_resampled_times_are_medians_of_the_drawn_repeats(repeats, level, ends):
    ours, base = curve([2.0], [repeats]), curve([2.0], [[1.0]])
    ratio = time_ratio(ours, base, 4, level=level, resamples=4000, generator=generator())
    assert (ratio.low, ratio.high) == ends


def test_repeats_are_drawn_independently_in_each_curve_and_setting():
    """Equal draws in both curves would give a ratio of 1 in all resamples."""
    repeats = [[1.0, 2.0, 3.0, 4.0]]
    ratio = time_ratio(curve([2.0], repeats), curve([2.0], repeats), 4, generator=generator())
    assert ratio.value == 1 and ratio.low < 0.6 and ratio.high > 1.6
    # Half-way between two settings whose times are least in 1 of 4 resamples: both are in 1 of 16, not in 1 of 4.
    ours, base = curve([3.0, 1.0], [[1.0, 4.0], [100.0, 400.0]]), curve([2.0], [[1.0]])
    ratio = time_ratio(ours, base, 4, level=0.8, resamples=4000, generator=generator())
    assert (ratio.low, ratio.high) == pytest.approx((math.sqrt(1.0 * 250.0), math.sqrt(2.5 * 400.0)))


def test_a_curve_takes_as_long_as_itself():
    rows = torch.randn(40, dtype=torch.float64, generator=generator())
    seconds = [[1.0, 1.2, 1.7], [2.0, 2.3, 1.9], [4.1, 4.0, 5.0]]
    itself = curve([4.0, 3.1, 2.7], seconds, rows)
    for steps in itself.num_steps:
        ratio = time_ratio(itself, itself, steps, resamples=300, generator=generator())
        assert ratio == TimeRatio(1.0, 1.0, 1.0, 0.95, 0)
    bumpy = curve([3.0, 3.1, 2.7], [[1.0], [2.0], [4.0]], rows)
    assert time_ratio(bumpy, bumpy, 8, resamples=300, generator=generator()).value == 0.5


def test_a_bound_that_is_never_reached_takes_infinite_time():
    ours, better = curve([4.0, 3.0], [[1.0], [2.0]]), curve([2.0], [[1.0]])
    ratio = time_ratio(ours, better, 4, resamples=50, generator=generator())
    assert ratio == TimeRatio(math.inf, math.inf, math.inf, 0.95, 50)


def test_resamples_that_never_reach_the_bound_are_counted():
    """The last bound is better in the mean by half a standard error: about 0.31 of the resamples miss it."""
    n = 200
    rows = torch.randn(n, dtype=torch.float64, generator=generator())
    rows = (rows - rows.mean()) / rows.std() * math.sqrt(n)  # a standard error of 1
    ours = Curve("ours", "random", (4, 8), torch.stack([rows + 9, rows * 2 - 0.5]), tensor([[1.0], [2.0]]))
    reference = Curve("base", "random", (4,), rows[None], tensor([[4.0]]))
    ratio = time_ratio(ours, reference, 4, resamples=4000, generator=generator())
    assert 0.4 < ratio.value < 0.5
    assert ratio.high == math.inf and 0.25 < ratio.low < ratio.value
    assert abs(ratio.num_unreached / 4000 - 0.3085) < SIGMAS * math.sqrt(0.31 * 0.69 / 4000) + 0.02


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_setting_with_an_infinite_row_is_as_good_as_none(place):
    """Also in the third of all resamples that lack the row."""
    ours, base = pair(60, 3)
    never = ours.nats.mean(0, keepdim=True) - 9  # but for one row the best
    never[0, 5] = math.inf
    nats = torch.cat([ours.nats[:place], never, ours.nats[place:]])
    seconds = torch.cat([ours.seconds[:place], tensor([[1.5]]), ours.seconds[place:]])
    with_it = Curve("ours", "random", (4, 8, 16), nats, seconds)
    expected = time_ratio(ours, base, 8, generator=generator())
    ratio = time_ratio(with_it, base, 8, generator=generator())
    assert [*vars(ratio).values()] == pytest.approx([*vars(expected).values()])
    alone = Curve("ours", "random", (4,), never, tensor([[1.0]]))
    assert time_ratio(alone, base, 8, resamples=50, generator=generator()) == TimeRatio(*3 * [math.inf], 0.95, 50)


def test_infinite_bounds_and_single_rows_have_no_interval():
    ours, base = pair(20, 4)
    base = replace(base, nats=base.nats.masked_fill(torch.arange(20) == 7, math.inf))
    for judged in (ours, base):
        ratio = time_ratio(judged, base, 8, generator=generator())
        assert all(map(math.isnan, (ratio.value, ratio.low, ratio.high))) and ratio.num_unreached == 0
    ratio = time_ratio(*pair(1, 0), 8, resamples=50, generator=generator())
    assert ratio.value > 0 and math.isnan(ratio.low) and math.isnan(ratio.high)


# --- the interval


TRUTH = math.sqrt(1.0 * 3.0) / 2.0  # half-way between the settings of 1 s and 3 s, against 2 s


def pair(n: int, seed: int, own_noise: float = 0.1) -> tuple[Curve, Curve]:
    """Two curves with a ratio of ``TRUTH`` whose rows share noise ten times as wide as their own."""
    draws = generator(seed)

    def noise(*shape, scale):
        return torch.randn(*shape, dtype=torch.float64, generator=draws) * scale

    shared = noise(n, scale=1.0)
    ours = tensor([4.0, 3.0])[:, None] + shared + noise(2, n, scale=own_noise)
    base = tensor([3.5])[:, None] + shared + noise(1, n, scale=own_noise)
    return (
        Curve("ours", "random", (4, 8), ours, tensor([[1.0], [3.0]])),
        Curve("base", "random", (8,), base, tensor([[2.0]])),
    )


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Of 200 data sets; the percentile bootstrap of 100 rows is close to its level."""
    results = [
        time_ratio(*pair(100, seed), 8, resamples=400, level=0.8, generator=generator(seed)) for seed in range(200)
    ]
    covered = sum(ratio.low <= TRUTH <= ratio.high for ratio in results) / 200
    assert abs(covered - 0.8) < SIGMAS * math.sqrt(0.8 * 0.2 / 200)
    assert all(ratio.low <= ratio.value <= ratio.high and not ratio.num_unreached for ratio in results)
    missed_low = sum(ratio.low > TRUTH for ratio in results)
    assert 1 <= missed_low <= 60 and 1 <= sum(ratio.high < TRUTH for ratio in results) <= 60


# --- errors


def test_a_ratio_needs_a_setting_of_the_reference_and_the_same_rows():
    itself, other = curve([4.0], [[1.0]]), curve([4.0], [[1.0]], torch.zeros(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="reference_steps"):
        time_ratio(itself, itself, 5, generator=generator())
    with pytest.raises(ValueError, match="same rows"):
        time_ratio(itself, other, 4, generator=generator())


# --- what a sampler is worth


def test_worth_is_the_reference_in_passes_and_the_inverse_of_its_time():
    rows = 0.3 * torch.randn(20, dtype=torch.float64, generator=generator())
    reference = curve([4.0, 3.0], [[1.0, 1.1], [9.0, 8.0]], rows - rows.mean())
    ours = curve([3.5, 2.9], [[1.5, 1.7], [2.0, 2.5]], 0.5 * rows.flip(0) - 0.5 * rows.mean())
    passes, share = worth(ours, 4, reference, generator=generator(1))
    ratio = time_ratio(reference, ours, 4, generator=generator(1))
    assert passes == pytest.approx(math.sqrt(4 * 8)) and share.value == pytest.approx(1.6 / math.sqrt(1.05 * 8.5))
    assert (share.low, share.high) == (1 / ratio.high, 1 / ratio.low) and share.low < share.value < share.high
    assert worth(ours, 8, reference, generator=generator())[0] == math.inf
    assert worth(ours, 8, reference, generator=generator()).share.value == 0.0
