"""Continuous time beside the samplers: which energies, under which names."""

from dataclasses import replace

import pytest
import torch

from edlm.config import SamplerConfig
from edlm.corpus.languages import MarkovChain
from edlm.energies import CallableEnergy, OracleEnergy
from edlm.evaluation import continuous_nelbo, published_perplexity
from edlm.evaluation.estimates.units import TextUnits
from edlm.evaluation.experiment.continuous import energies_by_name, in_continuous_time
from edlm.evaluation.experiment.measurement import Setting
from edlm.evaluation.experiment.plan import ContinuousConfig
from edlm.evaluation.languages.exact import exact_denoiser
from tests.enumerable import SEQUENCES, random_denoiser

A, B = (CallableEnergy(lambda candidates, x, log_p, c=c: c * candidates.double().sum(-1)) for c in (0.5, -0.3))


def setting(name, energy, order="random", steps=2) -> Setting:
    return Setting(name, energy, SamplerConfig(num_steps=steps, num_candidates=2, order=order))


def test_an_energy_counts_once_under_all_its_names():
    settings = [setting("base", None), setting("a", A), setting("b", B), setting("a", A, steps=4), setting("c", A)]
    assert energies_by_name(settings) == {"a, c": A, "b": B}


def test_a_name_with_two_energies_says_in_which_orders():
    settings = [setting("a", A), setting("a", B, "dilated"), setting("a", B, "bisecting"), setting("b", B, "dilated")]
    assert energies_by_name(settings) == {"a (random)": A, "a, b (dilated, bisecting)": B}


def test_numbers_are_those_of_the_estimators():
    config, units = ContinuousConfig(num_draws=3, published="all", num_candidates=5), TextUnits(2.0, 1.5)
    x_0, denoiser = SEQUENCES[[0, 5, 26]], random_denoiser()
    found = in_continuous_time(denoiser, [setting("a", A)], x_0, config, units=units, seed=4, batch_size=2)
    for record, estimator in zip(found["nelbo"], ("times", "counts"), strict=True):
        value = continuous_nelbo(denoiser, x_0, estimator=estimator, num_draws=3, seed=4)
        assert record == pytest.approx({"name": "base", **value.as_record(), **units.of(value)})
    (record,) = found["published"]
    value = published_perplexity(denoiser, A, x_0, num_draws=3, num_candidates=5, seed=4)
    assert record["with_upper"] == pytest.approx({**value.with_upper.as_record(), **units.of(value.with_upper)})
    assert record["warning"] == value.warning and record["name"] == "a" and record["num_candidates"] == 5
    for published in ("normalized", "none"):
        some = in_continuous_time(
            denoiser, [setting("a", A)], x_0, replace(config, published=published), units=units, seed=4
        )
        assert some["published"] == [] and len(some["nelbo"]) == 2


def test_formulas_of_energies_that_say_that_they_are_normalized_need_no_draws():
    """A head has two forms: one of them needs draws for log Z."""
    language = MarkovChain([[0.9, 0.1], [0.2, 0.8]], [0.5, 0.5])
    energies = [OracleEnergy(language), OracleEnergy(language), A]
    energies[1].is_normalized = False
    x_0 = torch.tensor([[0, 1, 1], [1, 0, 0]])
    settings = [setting(name, energy) for name, energy in zip("abc", energies, strict=True)]
    how = {"units": TextUnits()}
    found = in_continuous_time(exact_denoiser(language), settings, x_0, ContinuousConfig(num_draws=2), **how)
    assert [(record["name"], record["num_candidates"]) for record in found["published"]] == [("a", 0)]


@pytest.mark.parametrize("wrong", [{"num_rows": -1}, {"num_draws": 0}, {"num_candidates": 1}])
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match="num_rows must be >= 0, num_draws >= 1 and num_candidates >= 2, got"):
        ContinuousConfig(**wrong)
