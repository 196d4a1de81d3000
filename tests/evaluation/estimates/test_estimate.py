"""A likelihood in other units, each with its error."""

import math

import pytest
import torch

from edlm.evaluation.estimates.estimate import Estimate, Likelihood, TextUnits, document_values, mean_of, ratio_of

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


def cluster_robust(a, b, documents) -> float:
    """Standard error of ``sum a / sum b``, written as a sum over documents."""
    ratio, residuals = sum(a) / sum(b), {}
    for x, y, document in zip(a, b, documents, strict=True):
        residuals[document] = residuals.get(document, 0.0) + x - ratio * y
    count = len(residuals)
    return math.sqrt(count / (count - 1) * sum(r * r for r in residuals.values())) / sum(b)


def test_errors_are_clustered_by_document():
    values, weights = torch.tensor([1.0, 5.0, 2.0, 8.0, 4.0]), torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0])
    documents = torch.tensor([7, 2, 7, 9, 2])
    lists = values.tolist(), weights.tolist(), documents.tolist()
    assert mean_of(values, documents)[:3] == pytest.approx((4.0, cluster_robust(lists[0], [1] * 5, lists[2]), 3))
    assert ratio_of(values, weights, documents)[:3] == pytest.approx((2.5, cluster_robust(*lists), 3))
    likelihood = Likelihood.of(values, weights, **OF).by_document(documents)
    assert (likelihood.value, likelihood.stderr, likelihood.n) == pytest.approx((2.5, cluster_robust(*lists), 3))


def test_repeated_rows_of_a_document_add_no_certainty():
    values, documents = torch.tensor([1.0, 3.0, 8.0]), torch.arange(3)
    twice = mean_of(values.repeat_interleave(2), documents.repeat_interleave(2))
    assert twice[:3] == pytest.approx(mean_of(values)[:3])
    assert mean_of(values.repeat_interleave(2)).stderr < 0.8 * twice.stderr


def test_document_values_are_linear_and_keep_infinities_apart():
    series, documents = torch.tensor([[1.0, 4.0, 2.0, 9.0], [0.0, 1.0, 5.0, 5.0]]), torch.tensor([0, 1, 1, 3])
    difference = document_values(series[0] - series[1], documents)
    torch.testing.assert_close(
        difference, document_values(series[0], documents) - document_values(series[1], documents)
    )
    series[0, 3] = math.inf
    infinite = document_values(series, documents)
    assert infinite.isinf().tolist() == [[False, False, True], [False] * 3]
    with pytest.raises(ValueError, match=r"one for each row, got \[3\] for \[2, 4\]"):
        document_values(series, documents[:3])


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
