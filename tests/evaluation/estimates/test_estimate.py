"""A likelihood in other units, each with its error."""

import math

import pytest
import torch

from edlm.evaluation.estimates.estimate import Estimate, Likelihood, TextUnits, mean_of

NATS = torch.tensor([4.0, 9.0, 2.0], dtype=torch.float64)
TOKENS = torch.tensor([2, 3, 1])
OF = {"estimator": "by hand", "direction": "exact"}


def test_likelihood_weighs_rows_by_their_tokens():
    likelihood = Likelihood.of(NATS, TOKENS, **OF)
    assert (likelihood.value, likelihood.n, likelihood.estimator, likelihood.direction) == (2.5, 3, "by hand", "exact")
    spread = ((NATS - 2.5 * TOKENS) ** 2).sum().item()
    assert likelihood.stderr == pytest.approx(math.sqrt(spread * 3 / 2) / 6)
    assert likelihood.nats_per_token == Estimate(likelihood.value, likelihood.stderr, 3)
    assert Likelihood.of(NATS, 2, **OF).nats_per_token[:3] == pytest.approx(mean_of(NATS / 2)[:3])


def test_text_units_are_estimates_by_metric_with_their_errors():
    likelihood = Likelihood.of(NATS, 2, **OF)
    stderr, perplexity = likelihood.stderr, (math.exp(2.5), math.exp(2.5) * likelihood.stderr, 3)
    expected = {
        "perplexity": pytest.approx(perplexity),
        "bits_per_char": pytest.approx((2.5 / 4 / math.log(2), stderr / 4 / math.log(2), 3)),
        "perplexity_per_word": pytest.approx((math.exp(3.75), math.exp(3.75) * 1.5 * stderr, 3)),
    }
    units = TextUnits(characters_per_token=4.0, tokens_per_word=1.5).of(likelihood)
    assert {name: estimate[:3] for name, estimate in units.items()} == expected
    assert TextUnits().of(likelihood) == {"perplexity": likelihood.perplexity}
    assert Likelihood.of(torch.tensor([1e4, 1e4]), 1, **OF).perplexity.value == math.inf
    with pytest.raises(ValueError, match="units of a text"):
        TextUnits(tokens_per_word=0.0)


def test_likelihood_record_has_estimator_direction_and_all_units():
    likelihood = Likelihood.of(NATS, 2, **OF)
    record = TextUnits(4.0).record_of(likelihood)
    assert record.items() >= {"nats_per_token": 2.5, "stderr": likelihood.stderr, "n": 3, **OF}.items()
    for name, estimate in TextUnits(4.0).of(likelihood).items():
        assert (record[name], record[f"{name}_stderr"]) == estimate[:2]
