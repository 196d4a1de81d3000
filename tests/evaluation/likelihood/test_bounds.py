"""Bounds of a data set: seeds pair rows, batches change nothing, directions are true."""

import math

import pytest
import torch

from edlm.energies import CallableEnergy
from edlm.evaluation import Likelihood, estimate_bound, estimate_bounds, likelihood_bound, paired_gain
from edlm.sampler import EnergySampler
from tests.enumerable import SEQUENCES, random_denoiser

ROWS = SEQUENCES[[0, 5, 26, 13, 7, 2, 21]]
ENERGY = CallableEnergy(lambda candidates, x, log_p: (candidates * torch.tensor([0.9, -0.7, 0.4])).sum(-1))
OPTIONS = {"num_steps": 2, "order": "random", "num_candidates": 3}
DENOISER = random_denoiser()


def sampler(energy=ENERGY, **options) -> EnergySampler:
    return EnergySampler(DENOISER, energy, **{**OPTIONS, **options})


def likelihood(nats, length=2) -> Likelihood:
    return Likelihood.of(torch.tensor(nats), length, estimator="by hand", direction="exact")


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_row_i_has_the_seed_plus_i_whatever_the_batch_size(batch_size):
    rows = [sampler().likelihood_bound(ROWS[i : i + 1], seeds=[40 + i]) for i in range(7)]
    bound = estimate_bound(sampler(), ROWS, seed=40, batch_size=batch_size)
    torch.testing.assert_close(bound.nats_per_row, torch.cat(rows))
    assert bound.nats_per_row.dtype == torch.float64 and bound.tokens_per_row.tolist() == [3] * 7
    assert bound.value == pytest.approx(torch.cat(rows).mean().item() / 3)
    assert (estimate_bound(sampler(), ROWS, seed=41).nats_per_row != bound.nats_per_row).any()


def test_an_interrupted_call_resumes_with_the_same_numbers():
    samplers, kept = [sampler(None, num_candidates=1), sampler()], []
    whole = estimate_bounds(samplers, ROWS, seed=3, batch_size=2, keep=kept.append)
    assert [part.shape for part in kept] == [(2, 2, rows) for rows in (2, 4, 6, 7)]
    resumed = estimate_bounds(samplers, ROWS, seed=3, batch_size=2, done=kept[1], keep=kept.append)
    assert len(kept) == 6
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one.nats_per_row, other.nats_per_row)
        assert one.passes_per_row.tolist() == other.passes_per_row.tolist() == [OPTIONS["num_steps"]] * 7


def test_equal_seeds_pair_the_orders_of_different_samplers():
    """An energy of zero gains nothing on any row, since base and energy meet the same orders."""
    nothing = CallableEnergy(lambda candidates, x, log_p: torch.zeros_like(log_p))
    base = estimate_bound(sampler(None, num_candidates=1), ROWS, seed=3)
    for options in ({}, {"num_candidates": 8}, {"group_size": 1}):
        bound = estimate_bound(sampler(nothing, **options), ROWS, seed=3)
        torch.testing.assert_close(bound.nats_per_row, base.nats_per_row)


def test_the_function_is_the_samplers_method():
    given = torch.zeros(7, 3, dtype=torch.bool)
    given[:, 1] = True
    for options in ({"seeds": range(7)}, {"seeds": range(7), "given": given}):
        bound = likelihood_bound(random_denoiser(), ENERGY, ROWS, group_size=1, **options, **OPTIONS)
        assert torch.equal(bound, sampler(group_size=1).likelihood_bound(ROWS, **options))
    drawn = [
        likelihood_bound(random_denoiser(), ENERGY, ROWS, generator=torch.Generator().manual_seed(2), **OPTIONS),
        sampler().likelihood_bound(ROWS, generator=torch.Generator().manual_seed(2)),
    ]
    assert torch.equal(*drawn) and not torch.equal(drawn[0], bound)


def test_given_tokens_are_not_counted():
    given = torch.tensor([[True, False, False]] * 7)
    bound = estimate_bound(sampler(), ROWS, given=given, batch_size=3)
    assert torch.equal(bound.nats_per_row, sampler().likelihood_bound(ROWS, given=given, seeds=range(7)))
    assert bound.tokens_per_row.tolist() == [2] * 7
    given[0, 1] = True
    with pytest.raises(ValueError, match=r"given must leave .*got \[1, 2\]"):
        estimate_bound(sampler(), ROWS, given=given)


EXACT = [("left_to_right", 1, True), ("dilated", 1, True), ("random", 1, False), ("ancestral", 1, False)]
EXACT += [("left_to_right", 3, False)]


@pytest.mark.parametrize(("order", "k", "exact"), EXACT)
def test_a_bound_is_called_exact_where_every_seed_gives_minus_log_p(order, k, exact):
    judged = sampler(num_candidates=k, order=order)
    assert judged.bound_is_exact == exact
    bound = estimate_bound(judged, ROWS)
    assert bound.direction == ("exact" if exact else "upper bound of -log p") and "bound" in bound.estimator
    draws = torch.stack([judged.likelihood_bound(ROWS, seeds=[seed] * len(ROWS)) for seed in range(8)])
    assert (draws.std(0) < 1e-9).all() == exact
    if exact:  # estimated from some steps it is so in expectation only
        assert estimate_bound(judged, ROWS, sampled_steps=1).direction == "upper bound of -log p"


def test_a_gain_is_base_minus_other_with_the_error_of_the_differences():
    base, other = likelihood([10.0, 40.0, 90.0]), likelihood([8.0, 39.0, 84.0])
    gain = paired_gain(base, other)
    assert gain.value == 1.5 and gain.n == 3  # 1, 0.5 and 3 nats per token
    assert gain.stderr == pytest.approx(math.sqrt((0.25 + 1 + 2.25) / 2) / math.sqrt(3))
    assert gain.stderr < base.stderr / 5
    assert paired_gain(other, base).value == -1.5


def test_a_gain_over_other_rows_is_refused():
    for other in (likelihood([0.0] * 4), likelihood([0.0] * 3, 3)):
        with pytest.raises(ValueError, match="needs the same rows"):
            paired_gain(likelihood([0.0] * 3), other)
