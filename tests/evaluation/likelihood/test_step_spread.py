"""Spread of energies and effective sample size, step by step."""

import math

import pytest
import torch

from edlm.energies import CallableEnergy
from edlm.evaluation import estimate_partition, step_spreads
from edlm.sampler import EnergySampler
from tests.enumerable import random_denoiser

SCORES = 0.8 * torch.randn(64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
ENERGY = CallableEnergy(lambda candidates, x, log_p: SCORES[(candidates * torch.tensor([16, 4, 1])).sum(-1)])


def sample(energy=ENERGY, n=200, **options):
    options = {"num_steps": 2, "num_candidates": 8, "order": "random", **options}
    return EnergySampler(random_denoiser(), energy, **options).sample(n, 3, seeds=range(n))


def test_a_step_has_the_means_of_its_decisions():
    output = sample()
    found = step_spreads(output)
    assert [(step.step, step.t, step.num_candidates, step.num_decisions) for step in found] == [
        (0, 1.0, 8, 200),
        (1, 0.5, 8, 200),
    ]
    for step, info in zip(found, output.steps, strict=True):
        assert step.spread.value == pytest.approx(info.energies.std(1).mean().item())
        assert step.ess.value == pytest.approx(info.ess.mean().item())
        assert step.ess.stderr == pytest.approx(info.ess.std().item() / 200**0.5)
        expected = estimate_partition(-info.energies)
        assert step.log_z_lower.value == pytest.approx(expected.lower.mean().item())
        assert step.log_z_upper.value == pytest.approx(expected.upper.mean().item())
        assert step.log_z_lower.value < step.log_z_upper.value
        assert (
            step.trustworthy == pytest.approx(expected.is_trustworthy.double().mean().item()) and step.impossible == 0
        )
    assert 1 < found[0].ess.value < 8 and found[0].spread.value > 0.3


def test_groups_that_do_not_exist_in_a_row_are_left_out():
    """Ancestral steps reveal 0 to 3 tokens: so many decisions, in groups of one."""
    output = sample(order="ancestral", group_size=1)
    for step in step_spreads(output):
        info = output.steps[step.step]
        judged = (info.energies != 0).any(-1)  # no energy of the table is 0
        assert step.num_decisions == info.num_revealed.sum().item() == judged.sum().item()
        assert step.ess.value == pytest.approx(info.ess[judged].mean().item())


def test_groups_of_a_row_that_drew_anew_are_no_more_for_that():
    """Each redraw is k candidates more, of the same decision: groups that do not exist must not be counted for it."""

    def energy(candidates, x, log_p):
        zero = ((candidates == 0) & (x[:, None] == 3)).any(-1)
        return torch.where(zero, math.inf, 1.0 + candidates.double().sum(-1))

    how = {"order": "ancestral", "group_size": 1, "num_candidates": 2, "on_impossible": "redraw"}
    output = sample(CallableEnergy(energy), **how)
    assert sum(info.redraws.sum() for info in output.steps) > 10
    for step in step_spreads(output):
        assert step.num_decisions == output.steps[step.step].num_revealed.sum().item() < 600


def test_effective_candidates_are_those_of_the_weights_that_choose():
    output = sample(weight_temperature=3.0)
    for step, info in zip(step_spreads(output), output.steps, strict=True):
        weights = (-info.energies / 3).softmax(1)
        assert step.ess.value == pytest.approx((1 / weights.square().sum(1)).mean().item())
        assert step.ess.value > 1.1 * estimate_partition(-info.energies).ess.mean().item()


def test_steps_outside_of_the_window_and_samplers_without_weights_have_none():
    assert [step.step for step in step_spreads(sample(window=(0.5, 1.0)))] == [0]
    assert step_spreads(sample(num_candidates=1)) == []
    assert step_spreads(sample(energy=None)) == []


def test_impossible_candidates_are_counted_and_redraws_do_not_add_decisions():
    hard = CallableEnergy(lambda candidates, x, log_p: torch.where((candidates == 0).any(-1), math.inf, 0.0 * log_p))
    output = sample(hard, num_steps=1, num_candidates=2, on_impossible="redraw")
    (step,) = step_spreads(output)
    assert output.steps[0].redraws.sum() > 0 and step.num_decisions == 200
    share = output.steps[0].energies.isinf().double().mean().item()
    assert step.impossible == pytest.approx(share) and 0 < share < 0.5
    assert step.spread.value == 0 and step.trustworthy == 0  # two draws say nothing of log Z
