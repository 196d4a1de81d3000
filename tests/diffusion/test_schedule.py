"""Schedules against their closed forms, autograd and finite differences; mask rates; times that are spread evenly."""

import math

import pytest
import torch

from edlm.diffusion.schedule import (
    Cosine,
    LogLinear,
    Polynomial,
    Schedule,
    antithetic_times,
    bell_times,
    get_schedule,
    mask_tokens,
)
from edlm.diffusion.streams import BatchStreams
from tests.chance import SIGMAS, assert_law, assert_mean

MASK = 9
SCHEDULES = [LogLinear(), Cosine(), Polynomial(), Polynomial(0.5), Polynomial(3.0)]
each = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{type(s).__name__}{getattr(s, 'power', '')}")
INSIDE = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)


def closed_form(schedule: Schedule, t: float) -> float:
    if isinstance(schedule, Cosine):
        return 1 - math.cos(math.pi * (1 - t) / 2)
    return 1 - t ** getattr(schedule, "power", 1)


@each
def test_alpha_is_the_closed_form(schedule):
    expected = [closed_form(schedule, t) for t in INSIDE.tolist()]
    assert schedule.alpha(INSIDE).tolist() == pytest.approx(expected, rel=1e-12)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_is_one_at_0_and_zero_at_1(schedule, dtype):
    clean, noise = schedule.alpha(torch.tensor([0.0, 1.0], dtype=dtype)).tolist()
    assert noise == 0.0 and 1 - 2e-16 < clean <= 1  # cos(pi / 2) is 6e-17 in float64


@each
def test_derivative_is_that_of_alpha_by_autograd_and_by_differences(schedule):
    t = INSIDE.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    h = 1e-6
    difference = (schedule.alpha(INSIDE + h) - schedule.alpha(INSIDE - h)) / (2 * h)
    torch.testing.assert_close(schedule.alpha_derivative(INSIDE), slope, rtol=1e-10, atol=0)
    torch.testing.assert_close(schedule.alpha_derivative(INSIDE), difference, rtol=1e-6, atol=0)
    assert (slope < 0).all()


@each
def test_nelbo_weight_is_minus_log_derivative_of_masked_probability(schedule):
    t = INSIDE.clone().requires_grad_()
    # -alpha' / (1 - alpha) = d log(1 - alpha) / dt
    (expected,) = torch.autograd.grad((1 - schedule.alpha(t)).log().sum(), t)
    torch.testing.assert_close(schedule.nelbo_weight(INSIDE), expected, rtol=1e-9, atol=0)


@each
def test_nelbo_weight_is_infinite_at_0(schedule):
    assert schedule.nelbo_weight(torch.zeros(1)).item() == math.inf


@each
def test_reveal_probability_composes(schedule):
    t, s, r = (torch.tensor(x, dtype=torch.float64) for x in (0.9, 0.6, 0.2))
    p = schedule.reveal_probability
    assert p(t, s) == pytest.approx(((schedule.alpha(s) - schedule.alpha(t)) / (1 - schedule.alpha(t))).item())
    # Still masked at r = still masked at s, then at r.
    assert 1 - p(t, r) == pytest.approx(((1 - p(t, s)) * (1 - p(s, r))).item(), rel=1e-12)
    assert p(t, torch.zeros_like(t)).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("power", [0.0, -1.0, math.nan])
def test_power_must_be_positive(power):
    with pytest.raises(ValueError, match="power must be > 0, got"):
        Polynomial(power)


def test_schedules_by_name():
    named = [type(get_schedule(name)) for name in ("log_linear", "cosine", "polynomial")]
    assert named == [LogLinear, Cosine, Polynomial]
    mine = Polynomial(7.0)
    assert get_schedule(mine) is mine
    with pytest.raises(
        ValueError, match=r"schedule must be one of \['cosine', 'log_linear', 'polynomial'\], got 'lin'"
    ):
        get_schedule("lin")


# Noising


def uniforms(x_0: torch.Tensor) -> torch.Tensor:
    return BatchStreams((0,), *x_0.shape).values()


def places(count: int, *seed: int) -> torch.Tensor:
    return BatchStreams(seed, count, 1).places()


@pytest.mark.parametrize("schedule", [LogLinear(), Cosine(), Polynomial()])
def test_each_row_is_masked_at_its_own_rate(schedule):
    t = torch.tensor([0.1, 0.35, 0.9])
    x_0 = torch.arange(9).repeat(3, 5000)
    x_t = mask_tokens(x_0, t, schedule, MASK, uniforms(x_0))
    masked = x_t == MASK
    rate = 1 - schedule.alpha(t)
    error = (rate * (1 - rate) / x_0.shape[1]).sqrt()
    assert ((masked.float().mean(1) - rate).abs() < SIGMAS * error).all()
    assert torch.equal(x_t[~masked], x_0[~masked])


def test_positions_and_rows_are_masked_independently():
    x_0 = torch.zeros(40000, 2, dtype=torch.long)
    x_t = mask_tokens(x_0, torch.full((40000,), 0.3), LogLinear(), MASK, uniforms(x_0))
    masked = (x_t == MASK).long()
    both = masked[:-1, 0] * 4 + masked[:-1, 1] * 2 + masked[1:, 0]  # two positions, and the row below
    rate = torch.tensor([0.7, 0.3], dtype=torch.float64)
    law = torch.einsum("a,b,c->abc", rate, rate, rate).flatten()
    for half in (both[::2], both[1::2]):
        assert_law(torch.bincount(half, minlength=8), law)


def test_ends_of_time_are_clean_and_all_masked():
    x_0 = torch.arange(6).view(2, 3)
    x_t = mask_tokens(x_0, torch.tensor([0.0, 1.0]), LogLinear(), MASK, uniforms(x_0))
    assert x_t.tolist() == [[0, 1, 2], [MASK] * 3]


@pytest.mark.parametrize("smallest", [1e-3, 0.25])
def test_antithetic_times_have_low_discrepancy(smallest):
    n = 64
    for seed in range(50):
        t = antithetic_times(places(n, seed), smallest=smallest)
        assert t.shape == (n,) and t.min() >= smallest and t.max() <= 1
        rescaled = ((t - smallest) / (1 - smallest)).double().sort().values
        # One time in each n-th of the interval, all at the same place within it (float32 rounding).
        place = rescaled * n - torch.arange(n)
        assert place.min() > -1e-3 and place.max() < 1 + 1e-3
        assert place.max() - place.min() < 1e-3


def test_each_antithetic_time_is_uniform():
    times = torch.stack([antithetic_times(places(5, 1, i), smallest=0.2) for i in range(5000)])
    cells = ((times - 0.2) / 0.8 * 20).long().clamp(max=19)
    for cell in cells.T:
        assert_law(torch.bincount(cell, minlength=20), torch.full((20,), 1 / 20, dtype=torch.float64))


def normal_cdf(x: torch.Tensor) -> torch.Tensor:
    return torch.special.erfc(-x / math.sqrt(2)) / 2


def cut_normal_cdf(t: torch.Tensor, mean: float, stddev: float, smallest: float) -> torch.Tensor:
    low, high, at = (normal_cdf((torch.as_tensor(x, dtype=torch.float64) - mean) / stddev) for x in (smallest, 1.0, t))
    return (at - low) / (high - low)


@pytest.mark.parametrize(("mean", "stddev", "smallest"), [(0.5, 0.2, 1e-3), (0.7, 0.4, 0.1)])
def test_bell_times_are_spread_over_the_quantiles_of_a_cut_normal(mean, stddev, smallest):
    n = 64
    for seed in range(50):
        t = bell_times(places(n, seed), mean=mean, stddev=stddev, smallest=smallest)
        assert t.shape == (n,) and t.dtype == torch.float32 and t.min() >= smallest and t.max() <= 1
        place = cut_normal_cdf(t.double(), mean, stddev, smallest).sort().values * n - torch.arange(n)
        assert place.min() > -1e-3 and place.max() < 1 + 1e-3
        assert place.max() - place.min() < 1e-3


def test_each_bell_time_has_the_law_and_the_moments_of_a_cut_normal():
    mean, stddev, smallest = 0.7, 0.3, 0.1
    settings = {"mean": mean, "stddev": stddev, "smallest": smallest}
    times = torch.stack([bell_times(places(5, 1, i), **settings) for i in range(5000)])
    edges = torch.linspace(smallest, 1, 21, dtype=torch.float64)
    for column in times.double().T:
        cells = torch.bucketize(column.contiguous(), edges[1:-1])
        assert_law(torch.bincount(cells, minlength=20), cut_normal_cdf(edges, mean, stddev, smallest).diff())
        a, b = (smallest - mean) / stddev, (1 - mean) / stddev
        density = [math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in (a, b)]
        mass = (normal_cdf(torch.tensor(b)) - normal_cdf(torch.tensor(a))).item()
        shift = (density[0] - density[1]) / mass
        variance = stddev**2 * (1 + (a * density[0] - b * density[1]) / mass - shift**2)
        assert_mean(column, mean + stddev * shift)
        assert_mean((column - mean - stddev * shift) ** 2, variance)
