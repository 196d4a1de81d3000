"""Bounds of a data set: seeds pair rows, batches change nothing, units follow from nats."""

import math

import pytest
import torch

from edlm.energies import CallableEnergy
from edlm.evaluation import BoundEstimate, estimate_bound, likelihood_bound, paired_gain
from edlm.evaluation.estimates.estimate import mean_of
from edlm.evaluation.likelihood.bounds import estimate_bounds
from edlm.sampler import EnergySampler
from tests.enumerable import SEQUENCES, random_denoiser

ROWS = SEQUENCES[[0, 5, 26, 13, 7, 2, 21]]
ENERGY = CallableEnergy(lambda candidates, x, log_p: (candidates * torch.tensor([0.9, -0.7, 0.4])).sum(-1))
OPTIONS = {"num_steps": 2, "order": "random", "num_candidates": 3}


def sampler(energy=ENERGY, **options) -> EnergySampler:
    return EnergySampler(random_denoiser(), energy, **{**OPTIONS, **options})


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_row_i_has_the_seed_plus_i_whatever_the_batch_size(batch_size):
    rows = [sampler().likelihood_bound(ROWS[i : i + 1], seeds=[40 + i]) for i in range(7)]
    estimate = estimate_bound(sampler(), ROWS, seed=40, batch_size=batch_size)
    torch.testing.assert_close(estimate.nats_per_row, torch.cat(rows))
    assert estimate.nats_per_row.dtype == torch.float64 and estimate.length == 3
    assert (estimate_bound(sampler(), ROWS, seed=41).nats_per_row != estimate.nats_per_row).any()


def test_equal_seeds_pair_the_orders_of_different_samplers():
    """An energy of zero gains nothing on any row, since base and energy meet the same orders."""
    nothing = CallableEnergy(lambda candidates, x, log_p: torch.zeros_like(log_p))
    base = estimate_bound(sampler(None, num_candidates=1), ROWS, seed=3)
    for options in ({}, {"num_candidates": 8}, {"group_size": 1}):
        torch.testing.assert_close(
            estimate_bound(sampler(nothing, **options), ROWS, seed=3).nats_per_row, base.nats_per_row
        )


def test_the_function_is_the_samplers_method():
    given = torch.zeros(7, 3, dtype=torch.bool)
    given[:, 1] = True
    for more in ({}, {"given": given}):
        expected = sampler(group_size=1).likelihood_bound(ROWS, seeds=range(7), **more)
        bound = likelihood_bound(random_denoiser(), ENERGY, ROWS, seeds=range(7), group_size=1, **OPTIONS, **more)
        assert torch.equal(bound, expected)
    drawn = [
        likelihood_bound(random_denoiser(), ENERGY, ROWS, generator=torch.Generator().manual_seed(2), **OPTIONS),
        sampler().likelihood_bound(ROWS, generator=torch.Generator().manual_seed(2)),
    ]
    assert torch.equal(*drawn) and not torch.equal(drawn[0], expected)
    base = likelihood_bound(random_denoiser(), None, ROWS, num_steps=1, seeds=range(7))
    torch.testing.assert_close(
        base, -random_denoiser().log_probs(torch.full((1, 3), 3))[0, range(3), ROWS].double().sum(1)
    )


def test_the_units_of_a_bound():
    estimate = BoundEstimate(torch.tensor([6.0, 9.0, 12.0, 21.0], dtype=torch.float64), 3)
    value, stderr, n = estimate.nats_per_token
    assert (value, n) == (4.0, 4)  # rows: 2, 3, 4, 7 nats per token
    assert stderr == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3) / 2)
    found = estimate.likelihood
    assert found.nats_per_token == pytest.approx(estimate.nats_per_token)
    assert found.direction == "upper bound of -log p" and "bound" in found.estimator
    assert BoundEstimate(estimate.nats_per_row, 3, "exact").likelihood.direction == "exact"


EXACT = [("left_to_right", 1, True), ("dilated", 1, True), ("random", 1, False), ("ancestral", 1, False)]
EXACT += [("left_to_right", 3, False)]


@pytest.mark.parametrize(("order", "k", "exact"), EXACT)
def test_a_bound_is_called_exact_where_every_seed_gives_minus_log_p(order, k, exact):
    energy = CallableEnergy(lambda candidates, x, log_p: 0.7 * candidates.double().sum(-1))
    sampler = EnergySampler(random_denoiser(), energy, num_steps=2, num_candidates=k, order=order)
    assert sampler.bound_is_exact == exact
    bound = estimate_bound(sampler, ROWS)
    assert bound.direction == ("exact" if exact else "upper bound of -log p")
    draws = torch.stack([sampler.likelihood_bound(ROWS, seeds=[seed] * len(ROWS)) for seed in range(8)])
    assert (draws.std(0) < 1e-9).all() == exact
    if exact:  # of some steps alone it is so in expectation only
        assert estimate_bounds([sampler], ROWS, sampled_steps=1)[0].direction == "upper bound of -log p"


def test_a_gain_is_base_minus_other_with_the_error_of_the_differences():
    base = BoundEstimate(torch.tensor([10.0, 40.0, 90.0]).double(), 2)
    other = BoundEstimate(torch.tensor([8.0, 39.0, 84.0]).double(), 2)
    gain = paired_gain(base, other).nats_per_token
    assert gain.value == 1.5 and gain.n == 3  # 1, 0.5 and 3 nats per token
    assert gain.stderr == pytest.approx(math.sqrt((0.25 + 1 + 2.25) / 2) / math.sqrt(3))
    assert gain.stderr < base.nats_per_token.stderr / 5
    assert paired_gain(other, base).nats_per_token.value == -1.5


def test_a_gain_over_other_rows_is_refused():
    base = BoundEstimate(torch.zeros(3), 2)
    for other in (BoundEstimate(torch.zeros(4), 2), BoundEstimate(torch.zeros(3), 3)):
        with pytest.raises(ValueError, match="needs the same rows, got 3 of 2 and "):
            paired_gain(base, other)


def test_a_mean_of_one_has_no_error_and_float32_is_summed_in_float64():
    assert mean_of(torch.tensor([2.5]))[0] == 2.5 and math.isnan(mean_of(torch.tensor([2.5])).stderr)
    values = torch.full((1000,), 1e4) + torch.linspace(0, 1, 1000)
    exact = values.double()
    assert mean_of(values) == (exact.mean().item(), exact.std().item() / math.sqrt(1000), 1000)
