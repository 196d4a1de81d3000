"""Noising: mask rates, and times that are spread evenly and each uniform."""

import pytest
import torch

from edlm.diffusion.schedule import Cosine, LogLinear, Polynomial, antithetic_times, mask_tokens
from tests.chance import SIGMAS, assert_law

MASK = 9


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("schedule", [LogLinear(), Cosine(), Polynomial()])
def test_each_row_is_masked_at_its_own_rate(schedule):
    t = torch.tensor([0.1, 0.35, 0.9])
    x_0 = torch.arange(9).repeat(3, 5000)
    x_t = mask_tokens(x_0, t, schedule, MASK, generator())
    masked = x_t == MASK
    rate = 1 - schedule.alpha(t)
    error = (rate * (1 - rate) / x_0.shape[1]).sqrt()
    assert ((masked.float().mean(1) - rate).abs() < SIGMAS * error).all()
    assert torch.equal(x_t[~masked], x_0[~masked])


def test_positions_and_rows_are_masked_independently():
    x_t = mask_tokens(
        torch.zeros(40000, 2, dtype=torch.long), torch.full((40000,), 0.3), LogLinear(), MASK, generator()
    )
    masked = (x_t == MASK).long()
    both = masked[:-1, 0] * 4 + masked[:-1, 1] * 2 + masked[1:, 0]  # two positions, and the row below
    rate = torch.tensor([0.7, 0.3], dtype=torch.float64)
    law = torch.einsum("a,b,c->abc", rate, rate, rate).flatten()
    for half in (both[::2], both[1::2]):
        assert_law(torch.bincount(half, minlength=8), law)


def test_ends_of_time_are_clean_and_all_masked():
    x_0 = torch.arange(6).view(2, 3)
    x_t = mask_tokens(x_0, torch.tensor([0.0, 1.0]), LogLinear(), MASK, generator())
    assert x_t.tolist() == [[0, 1, 2], [MASK] * 3]


def test_noising_draws_from_its_generator_only():
    x_0, t = torch.zeros(4, 50, dtype=torch.long), torch.full((4,), 0.5)
    torch.manual_seed(0)
    first = mask_tokens(x_0, t, LogLinear(), MASK, generator(3))
    state = torch.get_rng_state()
    assert torch.equal(first, mask_tokens(x_0, t, LogLinear(), MASK, generator(3)))
    assert not torch.equal(first, mask_tokens(x_0, t, LogLinear(), MASK, generator(4)))
    assert torch.equal(state, torch.get_rng_state())
    assert (x_0 == 0).all()


@pytest.mark.parametrize("smallest", [1e-3, 0.25])
def test_antithetic_times_have_low_discrepancy(smallest):
    n = 64
    for seed in range(50):
        t = antithetic_times(n, generator(seed), smallest=smallest)
        assert t.shape == (n,) and t.min() >= smallest and t.max() <= 1
        rescaled = ((t - smallest) / (1 - smallest)).double().sort().values
        # One time in each n-th of the interval, all at the same place within it (float32 rounding).
        place = rescaled * n - torch.arange(n)
        assert place.min() > -1e-3 and place.max() < 1 + 1e-3
        assert place.max() - place.min() < 1e-3


def test_each_antithetic_time_is_uniform():
    g = generator(1)
    times = torch.stack([antithetic_times(5, g, smallest=0.2) for _ in range(5000)])
    cells = ((times - 0.2) / 0.8 * 20).long().clamp(max=19)
    for cell in cells.T:
        assert_law(torch.bincount(cell, minlength=20), torch.full((20,), 1 / 20, dtype=torch.float64))
