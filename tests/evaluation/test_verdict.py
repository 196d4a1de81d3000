"""The verdict claims no more than the rows show; the warnings say what else must be known."""

from types import SimpleNamespace

import pytest
import torch

from edlm.config import SamplerConfig
from edlm.evaluation.cautions import cautions
from edlm.evaluation.measurement import Measurement, Setting
from edlm.evaluation.verdict import gains_beyond, verdict_of

N = 200


class Known:
    """Results in memory: rows by setting."""

    def __init__(self, rows):
        self.rows = rows

    def rows_of(self, setting):
        return self.rows[setting.key]

    def of(self, setting):
        return SimpleNamespace(n=len(self.rows[setting.key]))


def setting(name, steps=2, blind=False) -> Setting:
    energy = None if name == "base" else SimpleNamespace(shape=SimpleNamespace(blind=blind))
    return Setting(name, energy, SamplerConfig(num_steps=steps, order="bisecting"))


def table(ours, control=None, base=4.0, steps=2):
    g = torch.Generator().manual_seed(1)
    rows, noise = torch.randn(N, generator=g), torch.randn(3, N, generator=g) * 0.1
    settings = [setting("base", steps), setting("ours", steps)]
    known = {settings[0].key: base + rows, settings[1].key: ours + rows + noise[0]}
    if control is not None:
        settings.append(setting("blind", steps, blind=True))
        known[settings[2].key] = control + rows + noise[1]
    return settings, known


def said(*tables) -> str:
    settings = [s for found, _ in tables for s in found]
    known = Known({key: rows for _, found in tables for key, rows in found.items()})
    return verdict_of(gains_beyond(known, settings))


def test_a_gain_is_what_goes_beyond_the_control():
    sentence = said(table(3.5, 3.9))
    assert sentence.startswith("With 2 denoiser passes in bisecting order, ours lowers the bound by 0.397 [")
    assert "beyond the control blind (0.499" in sentence and "no gain" not in sentence


def test_what_the_control_gains_too_is_no_gain():
    sentence = said(table(3.5, 3.5))
    assert sentence.startswith("No gain: no method's bound is below base and control by more than chance allows")


def test_a_control_that_harms_is_not_what_is_beaten():
    settings, known = table(4.0, 4.5)
    (gain,) = gains_beyond(Known(known), settings)
    assert gain.beyond == "base" and not gain.low > 0


def test_without_a_control_the_verdict_says_so():
    assert said(table(3.5)).endswith("part of it may be a correction of the marginals.")
    assert said(table(4.2)).startswith("No gain: no method's bound is below the base")


def test_where_there_is_no_gain_is_said_too():
    sentence = said(table(3.5, 3.9, steps=2), table(3.9, 3.9, steps=16), table(3.9, 3.9, steps=32))
    assert "and shows no gain at 16 and 32 passes" in sentence


def test_a_gain_without_control_does_not_stand_for_one_beyond_it():
    """The greater gain is where no control was measured."""
    sentence = said(table(3.0, steps=2), table(3.5, 3.9, steps=4))
    assert sentence.startswith("With 4 denoiser passes") and "beyond the control blind" in sentence


def test_of_many_comparisons_the_intervals_are_wider():
    one, many = table(3.5, 3.9), [table(3.5, 3.9, steps=steps) for steps in range(2, 22)]
    (alone,) = gains_beyond(Known(one[1]), one[0])
    rows = {key: values for _, known in many for key, values in known.items()}
    together = gains_beyond(Known(rows), [s for found, _ in many for s in found])[0]
    assert together.value == alone.value and together.stderr == alone.stderr
    z = [(gain.high - gain.value) / gain.stderr for gain in (alone, together)]
    assert z == pytest.approx([1.96, 3.02], abs=0.01)  # 95 %, and 1 - 0.05 / 20


def test_nothing_beside_the_base_says_nothing():
    assert "nothing can be said" in verdict_of([])


def measured(**more) -> Measurement:
    numbers = dict.fromkeys(Measurement.__dataclass_fields__, None)
    return Measurement(**{**numbers, "n": 500, "temperature": 1.0, "top_p": 1.0, "judged_cut": 0, **more})


def look(ess, trustworthy=1.0, normalized=False):
    means = {"ess": ess, "trustworthy": trustworthy, "spread": 3.0}
    return SimpleNamespace(
        name="ours", order="random", num_candidates=32, normalized=normalized, steps=[1], mean=means.__getitem__
    )


QUIET = {"judge": None, "frontier": [], "energies": [], "published": []}


def test_good_numbers_need_no_warning():
    usual = {**QUIET, "judge": {"name": "j", "is_energy_of": []}, "energies": [look(20.0)]}
    assert cautions([measured(num_samples=200, seconds_of_batches=(1.0, 1.0, 1.0))], **usual) == []


@pytest.mark.parametrize(
    ("about", "more", "part"),
    [
        ({"judge": {"name": "j", "is_energy_of": ["ours"]}}, {}, "The judge (j) is the energy of ours"),
        ({"energies": [look(2.0)]}, {}, "sample size of whole-step candidates: ours (random): 2.0 of 32"),
        ({"energies": [look(20.0, 0.5)]}, {}, "log Z is not to be trusted for ours (random): spread 3.0"),
        ({"published": [{"warning": "1.204 and 0.5"}]}, {}, "1.204 and 0.5"),
        ({"frontier": [{"verdict": "outside"}, {"verdict": "on"}]}, {}, "1 of 2 points lie outside"),
        ({}, {"n": 16}, "Only 16 held-out rows"),
        ({}, {"num_samples": 8}, "Only 8 samples"),
        ({}, {"seconds_of_batches": (1.0,)}, "one timed batch"),
        ({}, {"judged_cut": 3}, "Of 3 samples the judge read only the beginning"),
        ({}, {"sampled_steps": 1}, "estimated from some of the steps"),
    ],
)
def test_each_doubt_is_said(about, more, part):
    (warning,) = cautions([measured(**more)], **{**QUIET, **about})
    assert part in warning


def test_a_normalised_energy_has_no_partition_to_doubt():
    assert cautions([measured()], **{**QUIET, "energies": [look(20.0, 0.0, normalized=True)]}) == []
