"""Schedules against their closed forms, autograd and finite differences."""

import math

import pytest
import torch

from edlm.diffusion.schedule import Cosine, LogLinear, Polynomial, Schedule, get_schedule

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
