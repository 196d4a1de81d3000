"""A look at energies: which settings are looked at, and that the numbers are those of whole-step candidates."""

import pytest
import torch

from edlm.config import SamplerConfig
from edlm.corpus.languages import MarkovChain
from edlm.energies import CallableEnergy, OracleEnergy
from edlm.evaluation.experiment.energies import look_at_energies
from edlm.evaluation.experiment.measurement import Setting
from edlm.evaluation.likelihood.partition import step_spreads
from edlm.sampler import EnergySampler
from tests.enumerable import random_denoiser
from tests.evaluation.likelihood.test_partition import ENERGY

OTHER = CallableEnergy(lambda candidates, x, log_p: 0.5 * candidates.double().sum(-1))
OTHER.shape = type("Shape", (), {"blind": True})()


def setting(name, energy, steps, order="random", scope="step") -> Setting:
    return Setting(name, energy, SamplerConfig(num_steps=steps, num_candidates=2, order=order, scope=scope))


def test_one_setting_of_each_energy_order_and_scope_is_looked_at_where_steps_are_nearest():
    settings = [setting("a", ENERGY, steps) for steps in (1, 3, 2)] + [setting("base", None, 2)]
    settings += [setting("a", ENERGY, 2, "left_to_right"), setting("whole", ENERGY, 3, scope="sequence")]
    settings += [setting("blind", OTHER, 1), setting("again", ENERGY, 2)]
    found = look_at_energies(random_denoiser(), settings, 3, num_rows=3, num_candidates=4, num_steps=2)
    assert {(look.name, look.order, look.num_steps, look.scope, look.num_candidates) for look in found} == {
        ("a", "random", 2, "step", 4),
        ("a", "left_to_right", 2, "step", 4),
        ("whole", "random", 3, "sequence", 4),
        ("blind", "random", 1, "step", 4),
    }
    assert len(found) == 4


@pytest.mark.parametrize("scope", ["step", "sequence"])
def test_numbers_are_those_of_samples_with_so_many_candidates(scope):
    exact = Setting("a", ENERGY, SamplerConfig(num_steps=2, num_candidates=3, order="ancestral", scope=scope))
    (found,) = look_at_energies(random_denoiser(), [exact], 3, num_rows=20, num_candidates=8, seed=7)
    how = {"num_steps": 2, "num_candidates": 8, "order": "ancestral", "scope": scope, "on_impossible": "redraw"}
    output = EnergySampler(random_denoiser(), ENERGY, **how).sample(20, 3, seeds=range(7, 27))
    assert found.steps == tuple(step_spreads(output)) and len(found.steps) == 2
    judged = [info.energies[info.judged > 0] for info in output.steps]
    assert sum(map(len, judged)) < 40  # in some rows a step decides nothing
    expected = torch.cat([energies - energies.mean(1, keepdim=True) for energies in judged]).flatten()
    torch.testing.assert_close(torch.tensor(found.centred), expected.float(), atol=1e-5, rtol=1e-5)
    assert found.mean("ess") == pytest.approx(sum(step.ess.value for step in found.steps) / 2)
    assert found.mean("trustworthy") == pytest.approx(sum(step.trustworthy for step in found.steps) / 2)
    record = found.as_record()
    assert "centred" not in record and record["steps"][1]["ess"]["value"] == found.steps[1].ess.value


def test_an_energy_is_normalized_where_it_says_so():
    language = MarkovChain([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7], [0.3, 0.3, 0.4]], [0.5, 0.2, 0.3])
    yes, no = OracleEnergy(language), OracleEnergy(language)
    no.is_normalized = False
    settings = [setting(name, energy, 2) for name, energy in (("yes", yes), ("no", no), ("other", ENERGY))]
    found = look_at_energies(random_denoiser(), settings, 3, num_rows=2, num_candidates=4)
    assert {look.name: look.normalized for look in found} == {"yes": True, "no": False, "other": False}
