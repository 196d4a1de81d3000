"""Importance weights in log space, against plain arithmetic."""

import math

import pytest
import torch

from edlm.sampler.reweighting import effective_sample_size, log_share_of_data, log_weights

INF = math.inf


def table(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_low_energy_is_plausible():
    assert log_weights(torch.tensor([1.0, -2.0, INF])).tolist() == [-1.0, 2.0, -INF]
    assert log_weights(torch.tensor([1.0, -2.0, INF]), 0.5).tolist() == [-2.0, 4.0, -INF]
    assert log_weights(torch.tensor([1.0], dtype=torch.float16)).dtype == torch.float64


@pytest.mark.parametrize("bad", [math.nan, -INF])
def test_energies_must_be_finite_or_plus_infinity(bad):
    with pytest.raises(ValueError, match=rf"an energy must be finite or \+inf, got {bad}"):
        log_weights(table([0.0, bad]))


def test_effective_sample_size_is_that_of_the_definition():
    w = table([1.0, 1, 1, 1], [1, 0, 0, 0], [3, 1, 0, 0], [0.2, 0.4, 0.1, 0.9])
    expected = [4.0, 1.0, 16 / 10, 1.6**2 / (0.04 + 0.16 + 0.01 + 0.81)]
    assert effective_sample_size(w.log()).tolist() == pytest.approx(expected)
    assert effective_sample_size(w.log() + table([900.0], [-900.0], [0], [1e4])).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("row", [[-INF, -INF], [0.0, math.nan], [INF, 0.0]])
def test_effective_sample_size_needs_a_finite_entry(row):
    with pytest.raises(ValueError, match="every row of log_weights needs a finite entry and no NaN"):
        effective_sample_size(table([0.0, 0.0], row))


def test_share_of_several_draws_is_the_log_mean_over_circular_windows():
    w = table([1.0, 0.2, 0.5, 0.3, 0.1, 0.7], [0.0, 0.4, 0.0, 0.0, 0.9, 0.1], [0.0, 0.0, 0.5, 0.3, 0.1, 0.7])
    for k, num_data in ((3, 2), (4, 2), (2, 1), (5, 2), (6, 1)):
        expected = []
        for row in w.tolist():
            data, others = row[:num_data], row[num_data:]
            windows = [[others[(o + j) % len(others)] for j in range(k - 1)] for o in range(len(others))]
            shares = [k * d / (d + sum(rest)) if d else 0.0 for d in data for rest in windows]
            mean = sum(shares) / len(shares)
            expected.append(math.log(mean) if mean else -INF)
        assert log_share_of_data(w.log(), k, num_data).tolist() == pytest.approx(expected, abs=1e-12)


def test_share_of_data_is_log_k_plus_log_softmax():
    w = table([1.0, 1, 1], [0.7, 0.2, 0.05], [0, 1, 2], [5, 0, 0], [0, 0, 0])
    expected = [0.0, math.log(3 * 0.7 / 0.95), -INF, math.log(3), -INF]
    assert log_share_of_data(w.log()).tolist() == pytest.approx(expected, abs=1e-12)
    assert log_share_of_data(w.log()[:4] - 1e5).tolist() == pytest.approx(expected[:4], abs=1e-9)
