"""The verdict claims no more than the rows show; the warnings say what else must be known."""

import math

import pytest
import torch

from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.experiment.rows import Row
from edlm.evaluation.report.cautions import cautions
from edlm.evaluation.report.verdict import GainBeyond, gains_beyond, verdict_of
from tests.evaluation.measured import results_of, row_of

N = 200


def row(name, steps=2) -> Row:
    return row_of(name, num_steps=steps)


def table(ours, control=None, base=4.0, steps=2, seed=1):
    g = torch.Generator().manual_seed(seed)
    rows, noise = torch.randn(N, generator=g), torch.randn(3, N, generator=g) * 0.1
    known = {"base": base + rows, "ours": ours + rows + noise[0]}
    if control is not None:
        known["blind"] = control + rows + noise[1]
    return {row(name, steps).key: (row(name, steps), nats) for name, nats in known.items()}


def gains_of(*tables) -> list[GainBeyond]:
    results = results_of([pair for table in tables for pair in table.values()], ["blind"])
    return gains_beyond(results, generator=torch.Generator().manual_seed(0))


def said(*tables) -> str:
    return verdict_of(gains_of(*tables))


def test_a_gain_is_what_goes_beyond_the_control():
    sentence = said(table(3.5, 3.9))
    assert sentence.startswith("With 2 denoiser passes in bisecting order, ours lowers the bound by 0.397 [")
    assert "beyond the control blind (0.499" in sentence and "no gain" not in sentence


def test_what_the_control_gains_too_is_no_gain():
    sentence = said(table(3.5, 3.5))
    assert sentence.startswith("No gain: no method's bound is below base and control by more than chance allows")


def test_a_control_that_harms_is_not_what_is_beaten():
    (gain,) = gains_of(table(4.0, 4.5))
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


def test_an_interval_is_that_of_all_paired_differences_at_once():
    tables = [table(3.5, 3.9, steps=2), table(3.8, 4.5, steps=4, seed=2), table(3.0, steps=8, seed=3)]
    rows = {key: values.double() for table in tables for key, (_, values) in table.items()}
    rivals = {2: "blind", 4: "base", 8: "base"}
    series = [rows[row(r, steps).key] - rows[row("ours", steps).key] for steps, r in rivals.items()]
    expected = simultaneous_intervals(torch.stack(series), generator=torch.Generator().manual_seed(0))
    gains = gains_of(*tables)
    assert [(g.value, g.stderr, g.low, g.high, g.n) for g in gains] == [
        (e.value, e.stderr, e.low, e.high, e.n) for e in expected
    ]
    assert [(g.num_steps, g.beyond) for g in gains] == list(rivals.items())
    assert [g.controlled for g in gains] == [True, True, False]
    for gain, steps in zip(gains, rivals, strict=True):
        over_base = (rows[row("base", steps).key] - rows[row("ours", steps).key]).mean().item()
        assert gain.over_base == over_base


def test_of_many_comparisons_the_intervals_are_wider_unless_they_are_copies():
    (alone,) = gains_of(table(3.5, 3.9))
    copies = gains_of(*[table(3.5, 3.9, steps=steps) for steps in range(2, 22)])
    others = gains_of(*[table(3.5, 3.9, steps=steps, seed=steps - 1) for steps in range(2, 22)])
    assert copies[0].value == others[0].value == alone.value
    assert copies[0].stderr == others[0].stderr == alone.stderr
    c = [(gain.high - gain.value) / gain.stderr for gain in (alone, *copies, *others)]
    means = [sum(some) / len(some) for some in (c[:1], c[1:21], c[21:])]
    assert means == pytest.approx([1.97, 1.97, 3.04], abs=0.1)  # Student's t: 95 %, and 1 - 0.05 / 20


def test_what_cannot_be_bounded_is_no_gain_and_hides_none():
    """Infinite bounds of a method that comes first, or of its base; rows too few."""
    never, fine = table(3.0, steps=2), table(3.5, steps=4)
    never[row("ours", 2).key][1][3] = math.inf
    first, second = gains_of(never, fine)
    assert first.value == -math.inf and math.isnan(first.low)
    assert (second.low, second.high) == (gains_of(fine)[0].low, gains_of(fine)[0].high)
    assert said(never, fine).startswith("With 4 denoiser passes") and "no gain at 2 passes" in said(never, fine)
    base = table(3.0)
    base[row("base").key][1][3] = math.inf
    assert said(base).startswith("No gain")
    few = {key: (r, nats[:3]) for key, (r, nats) in table(3.0).items()}
    assert (gains_of(few)[0].low, gains_of(few)[0].high) == (-math.inf, math.inf)
    assert said(few).startswith("No gain") and "[-inf, inf]" in said(few)
    assert gains_of({key: (r, nats[:1]) for key, (r, nats) in table(3.0).items()}) == []


def test_verdict_of_no_gains_names_the_reason():
    base, ours, blind, cold = row("base"), row("ours"), row("blind"), row_of("cold", energy=None, temperature=0.8)
    assert "nothing can be said" in verdict_of([])
    for rows, reason in (
        ([base], "Nothing was measured beside the base"),
        ([base, cold], "No energy was measured, only other proposals beside the base"),
        ([base, blind], "No energy was measured but controls"),
        ([base, blind, cold], "No energy was measured but controls"),
        ([base, ours], "A single row was measured, which has no spread"),
    ):
        assert verdict_of([], rows=rows, controls=["blind"]).startswith(reason)


def measured(**more) -> Row:
    samples = (
        {"entropy_nats": 4.0, "judge_nats_per_token": 3.0} if "num_samples" in more and "mauve" not in more else {}
    )
    return row_of("ours", **{"bound_nats_per_token": 3.0, "n": 500, **samples, **more})


def look(ess, trustworthy=1.0, normalized=False) -> dict:
    steps = [{"ess": {"value": ess}, "trustworthy": trustworthy, "spread": {"value": 3.0}}]
    return {"name": "ours", "order": "random", "num_candidates": 32, "normalized": normalized, "steps": steps}


def published(name, marginal, joint, untrusted=0.0) -> dict:
    likelihoods = {"marginal": {"nats_per_token": marginal}, "with_lower": {"nats_per_token": joint}}
    return {"name": name, "untrusted": untrusted, **likelihoods}


POINTS = [{"name": "ours", "verdict": "outside"}, {"name": "ours", "verdict": "on"}, {"name": "base", "verdict": "on"}]
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
        ({"published": [published("a", 3.0, 2.9), published("b", 3.0, 2.5)]}, {}, "Here it puts b 0.500 nats"),
        ({"published": [published("a", 3.0, 2.9)]}, {}, "1.469 bits, it gives 1.204; two that are always equal have 1"),
        ({}, {"mauve": 0.5, "num_samples": 400, "mauve_references": 400}, "MAUVE of 400 samples and 400 held-out"),
        ({}, {"mauve": 0.5, "num_samples": 1500, "mauve_references": 1400}, "one size, got 1500 samples and 1400"),
        ({"frontier": POINTS}, {}, "1 of 2 points lie outside"),
        ({"earlier": [{"revision": "a1", "machine": {}}]}, {}, "kept from earlier calls, at another revision"),
        ({}, {"n": 16}, "Only 16 held-out rows"),
        ({}, {"num_samples": 8}, "Only 8 samples"),
        ({}, {"seconds_of_batches": (1.0,)}, "one timed batch"),
        ({}, {"judged_cut": 3, "num_samples": 80}, "The judge read only the beginning of 3 of 80 samples"),
        ({}, {"sampled_steps": 1}, "estimated from some of the steps"),
        ({}, {"scope": "sequence", "num_candidates": 4, "inner_draws": 1}, "very loose, and says little of ours: set"),
    ],
)
def test_each_doubt_is_said(about, more, part):
    (warning,) = cautions([measured(**more)], **{**QUIET, **about})
    assert part in warning


@pytest.mark.parametrize("fine", [{"inner_draws": 16}, {"num_candidates": 1}, {"scope": "step"}])
def test_a_tight_bound_is_not_doubted(fine):
    how = {"scope": "sequence", "num_candidates": 4, "inner_draws": 1} | fine
    assert cautions([measured(**how)], **QUIET) == []


def mauve(number) -> dict:
    return {"mauve": 0.5, "num_samples": number, "mauve_references": number}


def warned(*some, **about) -> list[str]:
    return cautions([measured(**more) for more in some], **{**QUIET, **about})


@pytest.mark.parametrize(
    ("enough", "few", "part"),
    [
        ({"n": 100}, {"n": 99}, "Only 99 held-out rows"),
        ({"num_samples": 50}, {"num_samples": 49}, "Only 49 samples"),
        ({"seconds_of_batches": (1.0,) * 3}, {"seconds_of_batches": (1.0,) * 2}, "two timed batches of each setting"),
        (mauve(1000), mauve(999), "MAUVE of 999 samples and 999 held-out texts"),
    ],
)
def test_a_doubt_begins_where_numbers_are_few(enough, few, part):
    assert warned(enough) == []
    (warning,) = warned(few)
    assert part in warning


def test_the_worst_of_the_settings_is_told_of_wherever_it_stands():
    batches = [{"seconds_of_batches": (1.0,) * count} for count in (3, 1, 2)]
    for some, part in (
        ([{"n": 500}, {"n": 16}, {"n": 99}], "Only 16 held-out rows"),
        ([{"num_samples": 200}, {"num_samples": 8}, {}], "Only 8 samples"),
        (batches, "Seconds are of one timed batch of some settings"),
        ([mauve(2000), mauve(400), {"num_samples": 64}], "of 400 samples and 400"),
        (
            [{"judged_cut": 3, "num_samples": 60}, {}, {"judged_cut": 2, "num_samples": 70}],
            "The judge read only the beginning of 5 of 130 samples",
        ),
        ([{}, {"sampled_steps": 1}, {}], "estimated from some of the steps"),
    ):
        for settings in (some, some[::-1]):
            (warning,) = warned(*settings)
            assert part in warning


def test_an_energy_is_doubted_for_a_tenth_of_its_candidates_or_a_decision_that_cannot_be_trusted():
    assert warned({}, energies=[look(3.3)]) == []
    (warning,) = warned({}, energies=[look(3.1, normalized=True)])  # Z = 1 makes no candidate count
    assert "ours (random): 3.1 of 32" in warning
    (warning,) = warned({}, energies=[look(20.0), look(20.0, 0.99)])
    assert "ours (random): spread 3.0 nats:" in warning
    unseen = {"name": "never", "order": "random", "steps": [], "normalized": False, "num_candidates": 32}
    assert warned({}, energies=[unseen]) == []


def test_all_doubts_are_said_and_what_is_no_number_at_all_first():
    some = {
        "n": 16,
        **mauve(8),
        "entropy_nats": 4.0,
        "judge_nats_per_token": 3.0,
        "judged_cut": 1,
        "seconds_of_batches": (1.0,),
        "sampled_steps": 1,
    }
    about = {"judge": {"name": "j", "is_energy_of": ["ours", "b"]}, "energies": [look(2.0, 0.5)]}
    about |= {"frontier": [{"name": "ours", "verdict": "outside"}], "published": [published("a", 3.0, 2.9, 0.25)]}
    parts = ["The published formula is not a bound", "Its log Z is from too few", "the energy of ours, b: their losses"]
    parts += ["Small effective sample size", "log Z is not to be trusted", "Only 16 held-out rows", "Only 8 samples"]
    parts += ["Seconds are of", "Some gains", "MAUVE of 8", "1 of 1 points lie outside", "The judge read"]
    found = warned(some, **about)
    assert len(found) == len(parts) and all(part in said for part, said in zip(parts, found, strict=True))


def test_each_energy_whose_log_z_is_not_known_is_named():
    records = [published("a", 3.0, 2.9, 0.25), published("b", 3.0, 2.5), published("c", 3.0, 2.5, 1.0)]
    _, warning = cautions([measured()], **{**QUIET, "published": records})
    assert "a (25% of the noisy rows), c (100% of the noisy rows)" in warning


def test_a_normalised_energy_has_no_partition_to_doubt():
    assert cautions([measured()], **{**QUIET, "energies": [look(20.0, 0.0, normalized=True)]}) == []
