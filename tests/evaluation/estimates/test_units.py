"""A likelihood in other units, each with its error."""

import math

import pytest
import torch

from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.estimates.units import Likelihood, TextUnits

NATS = torch.tensor([4.0, 9.0, 2.0], dtype=torch.float64)
TOKENS = torch.tensor([2, 3, 1])
HOW = {"estimator": "by hand", "direction": "exact"}


def test_rows_of_different_length_count_by_their_tokens():
    found = Likelihood.of(NATS, TOKENS, **HOW)
    assert (found.value, found.n, found.estimator, found.direction) == (2.5, 3, "by hand", "exact")
    spread = ((NATS - 2.5 * TOKENS) ** 2).sum().item()
    assert found.stderr == pytest.approx(math.sqrt(spread * 3 / 2) / 6)
    assert found.nats_per_token == Estimate(found.value, found.stderr, 3)


def test_equal_rows_have_the_mean_and_its_error():
    found = Likelihood.of(NATS, 2, **HOW)
    assert found.value == pytest.approx(2.5)
    assert found.stderr == pytest.approx((NATS / 2).std().item() / 3**0.5)
    assert found.nats_per_token[:3] == pytest.approx(mean_of(NATS / 2)[:3])


def test_units():
    found = Likelihood.of(NATS, 2, **HOW)
    assert found.perplexity.value == pytest.approx(math.exp(2.5))
    assert found.perplexity.stderr == pytest.approx(math.exp(2.5) * found.stderr)
    assert found.bits_per_character(4.0).value == pytest.approx(2.5 / 4 / math.log(2))
    assert found.bits_per_character(4.0).stderr == pytest.approx(found.stderr / 4 / math.log(2))
    assert found.perplexity_per_word(1.5).value == pytest.approx(math.exp(3.75))
    assert found.perplexity_per_word(1.5).stderr == pytest.approx(math.exp(3.75) * 1.5 * found.stderr)
    assert Likelihood.of(torch.tensor([1e4, 1e4]), 1, **HOW).perplexity.value == math.inf


def test_the_record_says_where_a_number_comes_from():
    record = Likelihood.of(NATS, 2, **HOW).as_record()
    assert record["nats_per_token"] == 2.5 and record["direction"] == "exact" and record["estimator"] == "by hand"
    error = (NATS / 2).std().item() / 3**0.5
    assert record["n"] == 3 and record["stderr"] == pytest.approx(error)
    assert record["perplexity"] == pytest.approx(math.exp(2.5))
    assert record["perplexity_stderr"] == pytest.approx(math.exp(2.5) * error)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="direction must be one of .*, got 'lower'"):
        Likelihood(1.0, 0.1, 3, "x", "lower")
    with pytest.raises(ValueError, match="units of a text"):
        TextUnits(tokens_per_word=0.0)


def test_a_text_has_units_of_its_own():
    found = Likelihood.of(NATS, 2, **HOW)
    units = TextUnits(characters_per_token=4.0, tokens_per_word=1.5).of(found)
    expected = {
        "perplexity": found.perplexity,
        "bits_per_char": found.bits_per_character(4.0),
        "perplexity_per_word": found.perplexity_per_word(1.5),
    }
    assert units == expected and TextUnits().of(found) == {"perplexity": found.perplexity}
    record = TextUnits().as_record(found)
    assert record == {"perplexity": found.perplexity.value, "perplexity_stderr": found.perplexity.stderr}
