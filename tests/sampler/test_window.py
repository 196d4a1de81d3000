"""Windows: at which steps energies are used."""

import pytest
import torch

from edlm import CallableEnergy, EnergySampler, FunctionDenoiser

MASK = 3


def asked(window, num_steps, length=60, order="left_to_right"):
    """Steps at which the energy is called, in a run that reveals something at each."""
    steps, denoised = [], []
    uniform = FunctionDenoiser(lambda x_t, t: denoised.append(t) or torch.zeros(*x_t.shape, 3), MASK, 3)
    energy = CallableEnergy(lambda c, x, log_p: steps.append(len(denoised) - 1) or torch.zeros_like(log_p))
    options = {"num_steps": num_steps, "num_candidates": 2, "order": order, "window": window}
    EnergySampler(uniform, energy, **options).sample(1, length, seeds=[0])
    return steps


def test_times_are_open_below_and_closed_above():
    assert asked((0.0, 1.0), 4) == [0, 1, 2, 3]
    assert asked((0.5, 1.0), 4) == [0, 1]  # t = 1, 0.75, 0.5, 0.25
    assert asked((0.25, 0.75), 4) == [1, 2]
    assert asked((0.0, 0.25), 4) == [3]
    assert asked((0.8, 1.0), 10) == [0, 1]  # the paper's w = 0.2
    assert asked((1.0, 1.0), 4) == asked((0.3, 0.3), 4) == []


@pytest.mark.parametrize(
    ("window", "num_steps", "expected"), [((0.3, 1.0), 10, 7), ((2 / 3, 1.0), 3, 1), ((0, 2 / 3), 3, 2)]
)
def test_times_at_the_windows_edge_do_not_round(window, num_steps, expected):
    assert len(asked(window, num_steps)) == expected


def test_outside_the_window_only_what_is_written_is_decoded():
    """The paper's w = 0.2 saves the whole-sequence candidates of the other steps, not their energies alone."""
    decoded = []

    class Counting(FunctionDenoiser):
        def decode(self, features):
            decoded.append(len(features))
            return features

    denoiser = Counting(lambda x_t, t: torch.zeros(*x_t.shape, 3), 3, 3)
    energy = CallableEnergy(lambda c, x, log_p: torch.zeros_like(log_p), complete=True)
    options = {"num_steps": 5, "scope": "sequence", "order": "random", "num_candidates": 2}
    EnergySampler(denoiser, energy, window=(0.8, 1.0), **options).sample(1, 10, seeds=[0])
    assert decoded == [10, 2, 2, 2, 2]
