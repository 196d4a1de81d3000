"""A likelihood in other units, each with its error."""

import math

import pytest
import torch

from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.estimates.units import Likelihood, TextUnits

NATS = torch.tensor([4.0, 9.0, 2.0], dtype=torch.float64)
TOKENS = torch.tensor([2, 3, 1])
OF = {"estimator": "by hand", "direction": "exact"}


def test_likelihood_weighs_rows_by_their_tokens():
    likelihood = Likelihood.of(NATS, TOKENS, **OF)
    assert (likelihood.value, likelihood.n, likelihood.estimator, likelihood.direction) == (2.5, 3, "by hand", "exact")
    spread = ((NATS - 2.5 * TOKENS) ** 2).sum().item()
    assert likelihood.stderr == pytest.approx(math.sqrt(spread * 3 / 2) / 6)
    assert likelihood.nats_per_token == Estimate(likelihood.value, likelihood.stderr, 3)


def test_likelihood_of_equal_rows_is_their_mean():
    likelihood = Likelihood.of(NATS, 2, **OF)
    assert likelihood.value == pytest.approx(2.5)
    assert likelihood.stderr == pytest.approx((NATS / 2).std().item() / 3**0.5)
    assert likelihood.nats_per_token[:3] == pytest.approx(mean_of(NATS / 2)[:3])


def test_likelihood_in_other_units():
    likelihood = Likelihood.of(NATS, 2, **OF)
    assert likelihood.perplexity.value == pytest.approx(math.exp(2.5))
    assert likelihood.perplexity.stderr == pytest.approx(math.exp(2.5) * likelihood.stderr)
    assert likelihood.bits_per_character(4.0).value == pytest.approx(2.5 / 4 / math.log(2))
    assert likelihood.bits_per_character(4.0).stderr == pytest.approx(likelihood.stderr / 4 / math.log(2))
    assert likelihood.perplexity_per_word(1.5).value == pytest.approx(math.exp(3.75))
    assert likelihood.perplexity_per_word(1.5).stderr == pytest.approx(math.exp(3.75) * 1.5 * likelihood.stderr)
    assert Likelihood.of(torch.tensor([1e4, 1e4]), 1, **OF).perplexity.value == math.inf


def test_likelihood_record_has_estimator_and_direction():
    record = Likelihood.of(NATS, 2, **OF).as_record()
    assert record["nats_per_token"] == 2.5 and record["direction"] == "exact" and record["estimator"] == "by hand"
    error = (NATS / 2).std().item() / 3**0.5
    assert record["n"] == 3 and record["stderr"] == pytest.approx(error)
    assert record["perplexity"] == pytest.approx(math.exp(2.5))
    assert record["perplexity_stderr"] == pytest.approx(math.exp(2.5) * error)


def test_units_and_directions_are_checked():
    with pytest.raises(ValueError, match="direction"):
        Likelihood(1.0, 0.1, 3, "x", "lower")
    with pytest.raises(ValueError, match="units of a text"):
        TextUnits(tokens_per_word=0.0)


def test_text_units_are_estimates_by_metric():
    likelihood = Likelihood.of(NATS, 2, **OF)
    units = TextUnits(characters_per_token=4.0, tokens_per_word=1.5).of(likelihood)
    expected = {
        "perplexity": likelihood.perplexity,
        "bits_per_char": likelihood.bits_per_character(4.0),
        "perplexity_per_word": likelihood.perplexity_per_word(1.5),
    }
    assert units == expected and TextUnits().of(likelihood) == {"perplexity": likelihood.perplexity}
    record = TextUnits().as_record(likelihood)
    assert record == {"perplexity": likelihood.perplexity.value, "perplexity_stderr": likelihood.perplexity.stderr}
