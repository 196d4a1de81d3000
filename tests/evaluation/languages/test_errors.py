"""Sequence error rates where the truth is known: by hand, by exact laws, and the shape of arXiv:2502.09622."""

import math
from dataclasses import replace

import pytest
import torch

from edlm.corpus.languages import Dyck, HiddenMarkov, MarkovChain
from edlm.evaluation.estimates.bootstrap import share_of
from edlm.evaluation.estimates.estimate import mean_of
from edlm.evaluation.languages.errors import ErrorRule, errors_of_data, measure_sequence_errors, sequence_error_table
from edlm.evaluation.languages.exact import exact_denoiser, truth_energy
from edlm.evaluation.languages.law import all_sequences, exact_distance, exact_law
from edlm.evaluation.likelihood.bounds import estimate_bound
from edlm.sampler import EnergySampler
from tests.chance import SIGMAS

SMALL = MarkovChain([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7], [0.3, 0.3, 0.4]], [0.5, 0.2, 0.3])
HARD = MarkovChain.random(12, 3, torch.Generator().manual_seed(2), smoothing=0.0)
BRACKETS = Dyck(2, 3)


def base(language, num_steps, order="random", **options) -> EnergySampler:
    energy = truth_energy(language) if options else None
    return EnergySampler(exact_denoiser(language), energy, num_steps=num_steps, order=order, **options)


def test_an_error_is_beyond_the_99th_percentile_of_data_or_ruled_out():
    rule = ErrorRule.of(HARD, 6, num_reference=2000, seed=3)
    x = HARD.sample(2000, 6, torch.Generator().manual_seed(3))
    nats = -HARD.log_prob(x)
    assert rule.threshold == nats.sort().values[1980].item()  # the 99th percentile, rounded up
    assert rule.data_nats_per_token.value == pytest.approx(nats.mean().item() / 6)
    wrong, invalid, judged = rule.judge(x)
    assert torch.equal(wrong, nats > rule.threshold) and not invalid.any() and wrong.sum() <= 20
    assert torch.equal(judged, nats)
    broken = x[:3].clone()
    broken[0, 2] = next(v for v in range(12) if HARD.transition[x[0, 1], v] == 0)
    broken[1, 5] = 12  # a mask that was left
    wrong, invalid, judged = rule.judge(broken)
    assert invalid.tolist() == [True, True, False] and wrong[:2].all()
    assert judged.isinf().tolist() == [True, True, False]


def test_the_threshold_is_rounded_up_and_data_are_fresh():
    language = HiddenMarkov.reference()
    rule = ErrorRule.of(language, 12, num_reference=150, seed=3)
    nats = -language.log_prob(language.sample(150, 12, torch.Generator().manual_seed(3)))
    assert len(nats.unique()) == 150 and rule.threshold == nats.sort().values[148]  # 0.99 * 149 = 147.51
    usual = ErrorRule.of(language, 12, num_reference=150)
    fresh = errors_of_data(usual, 150)["nats_per_token"]
    assert 0 < abs(fresh - usual.data_nats_per_token.value) < 0.3


def test_a_sequence_as_likely_as_the_threshold_is_no_error():
    rule = ErrorRule.of(BRACKETS, 6, num_reference=200)
    x = BRACKETS.sample(50, 6, torch.Generator().manual_seed(9))
    assert not replace(rule, threshold=rule.threshold * (1 - 1e-13)).judge(x)[0].any()
    assert replace(rule, threshold=rule.threshold * (1 - 1e-6)).judge(x)[0].all()


def test_in_a_uniform_language_only_what_is_ruled_out_is_wrong():
    rule = ErrorRule.of(BRACKETS, 6, num_reference=200)
    x = BRACKETS.sample(500, 6, torch.Generator().manual_seed(9))
    assert not rule.judge(x)[0].any()
    assert rule.judge(x.flip(1))[0].all()


def test_data_have_one_percent():
    record = errors_of_data(ErrorRule.of(SMALL, 12, num_reference=50000), 50000)
    assert abs(record["error_rate"] - 0.01) < SIGMAS * math.sqrt(2 * 0.01 * 0.99 / 50000) + 1e-3
    assert record["invalid_rate"] == 0 and record["kl_bound_nats_per_token"] is None


def test_rates_are_those_of_the_exact_law():
    """A fixed order, a small language: error rate, loss per token and divergence from the sum over all sequences."""
    rule = ErrorRule.of(SMALL, 4, num_reference=5000)
    for options in ({}, {"num_candidates": 4}):
        sampler = base(SMALL, 2, order="left_to_right", **options)
        record = measure_sequence_errors(sampler, rule, num_samples=4000, num_bound_rows=3000)
        x, p = all_sequences(3, 4), exact_law(sampler, 4).exp()
        wrong, _, nats = rule.judge(x)
        share = p[wrong].sum().item()
        assert abs(record["error_rate"] - share) < SIGMAS * math.sqrt(share * (1 - share) / 4000)
        assert abs(record["nats_per_token"] - (p * nats).sum().item() / 4) < SIGMAS * record["nats_stderr"]
        kl, error = exact_distance(sampler, SMALL, 4).kl_from_truth / 4, SIGMAS * record["kl_bound_stderr"]
        assert record["kl_bound_nats_per_token"] > kl - error
        if not options:  # exact for the base in a fixed order
            assert abs(record["kl_bound_nats_per_token"] - kl) < error and kl > 0.01
        assert record["denoiser_passes"] == 2 and record["energy_passes"] == (8 if options else 0)


def test_the_loss_per_token_is_flat_in_length_unlike_the_error_rate():
    """arXiv:2502.09622: at a fixed number of steps; and reranking by the truth moves it."""
    language = HiddenMarkov.reference()
    samplers = {("base", 8): base(language, 8), ("truth", 8): base(language, 8, num_candidates=16, group_size=4)}
    rules = [ErrorRule.of(language, length, num_reference=3000) for length in (16, 64)]
    rows = list(sequence_error_table(rules, samplers, num_samples=200))
    short, long = ({row["name"]: row for row in rows if row["length"] == length} for length in (16, 64))
    assert abs(long["base"]["nats_per_token"] - short["base"]["nats_per_token"]) < 0.12
    assert long["base"]["error_low"] > short["base"]["error_high"]
    assert long["truth"]["error_high"] < long["base"]["error_low"]
    assert long["truth"]["nats_per_token"] < long["base"]["nats_per_token"] - 0.1
    for row in rows:
        assert abs(row["data_nats_per_token"] - 2.3) < 0.05
    assert short["data"]["num_steps"] is None and short["data"]["error_high"] < 0.03


def test_sequences_have_their_own_seeds_and_every_number_its_field():
    rule = ErrorRule.of(HARD, 6, num_reference=500)
    rule, sampler = replace(rule, threshold=0.8 * rule.threshold), base(HARD, 2)
    record = measure_sequence_errors(sampler, rule, num_samples=60, num_bound_rows=30, seed=9, batch_size=25)
    wrong, invalid, nats = rule.judge(sampler.sample(60, 6, seeds=range(9, 69)).tokens)
    x_0 = HARD.sample(30, 6, torch.Generator().manual_seed(9))
    bound = estimate_bound(sampler, x_0, seed=9).nats_per_row + HARD.log_prob(x_0)
    expected = {"n": 60, "denoiser_passes": 2, "energy_passes": 0.0, "kl_n": 30}
    for name, flags in (("error", wrong), ("invalid", invalid)):
        share = share_of(flags)
        expected |= {f"{name}_rate": share.value, f"{name}_low": share.low, f"{name}_high": share.high}
    for name, mean in (("nats", mean_of(nats[~invalid] / 6)), ("kl_bound", mean_of(bound / 6))):
        expected |= {f"{name}_nats_per_token".replace("nats_nats", "nats"): mean.value, f"{name}_stderr": mean.stderr}
    assert record == pytest.approx(expected) and 0 < invalid.sum() < wrong.sum() < 60


def test_where_every_sequence_is_ruled_out_there_is_no_loss_per_token():
    rule = ErrorRule.of(HARD, 32, num_reference=500)
    record = measure_sequence_errors(base(HARD, 1), rule, num_samples=50)
    assert record["invalid_rate"] == 1 and math.isnan(record["nats_per_token"])
    assert record["kl_bound_nats_per_token"] is None


def test_mistakes_are_named():
    rule = ErrorRule.of(SMALL, 4, num_reference=100)
    with pytest.raises(ValueError, match="mask token"):
        measure_sequence_errors(base(HARD, 2), rule)
    with pytest.raises(ValueError, match="num_samples"):
        measure_sequence_errors(base(SMALL, 2), rule, num_samples=0)
    with pytest.raises(ValueError, match="num_reference"):
        ErrorRule.of(SMALL, 4, num_reference=99)
    with pytest.raises(ValueError, match="tokens"):
        rule.judge(torch.zeros(2, 5, dtype=torch.long))
