"""Findings: each rule by the values in its sentence, and what is quiet."""

import math

import pytest

from edlm.evaluation.experiment.results import Results
from edlm.evaluation.report.findings import cautions, fastest, headline, judged_at_equal_entropy
from tests.evaluation.measured import row_of

inf, nan = math.inf, math.nan


def gain(name="ours", steps=2, low=0.1, beyond="blind", controlled=True, value=0.5) -> dict:
    cell = {"name": name, "order": "left_to_right", "num_steps": steps, "beyond": beyond, "controlled": controlled}
    return {**cell, "value": value, "stderr": 0.1, "n": 50, "low": low, "high": 0.9, "over_base": 0.7}


def headline_of(*gains, rows=(), controls=()) -> str:
    return headline(Results({"controls": controls}, rows), gains)


def test_headline_names_the_greatest_lower_end():
    noisy = gain("noisy", low=-0.5, value=2.0)
    best = headline_of(noisy, gain(steps=4, low=0.1), gain(steps=8, low=0.3), gain(steps=16, low=-0.1))
    assert "With 8 denoiser passes in left to right order, ours lowers the bound by 0.500 [0.300, 0.900]" in best
    assert "beyond the control blind (0.700 over the base), and shows no gain at 16 passes." in best


def test_headline_is_no_gain_unless_a_whole_interval_is_above_zero():
    for low in (0.0, -0.1, -inf, nan):
        assert headline_of(gain(low=low)).startswith("No gain: ")
    assert "With 4 denoiser passes" in headline_of(gain(low=nan), gain(steps=4, low=0.01))


def test_headline_prefers_controlled_gains():
    uncontrolled = gain("other", low=0.8, beyond="base", controlled=False)
    assert ", ours lowers" in headline_of(uncontrolled, gain(low=0.1))
    assert headline_of(uncontrolled, gain(low=-0.1)).startswith("No gain: ")
    assert "beyond the base; no control was measured" in headline_of(uncontrolled)
    assert headline_of(gain(low=0.1, beyond="base")).endswith("beyond the base.")  # which is lower than the control


def test_headline_without_gains_names_the_reason():
    base, ours, blind, cold = row_of("base"), row_of("ours"), row_of("blind"), row_of("cold", energy=None, top_k=2)
    for rows, reason in (
        ([base], "Nothing was measured in addition to the base"),
        ([base, cold], "only proposals"),
        ([base, blind, cold], "but controls"),
        ([base, ours, blind], "A single row"),
    ):
        assert reason in headline_of(rows=rows, controls=["blind"])


def ratio(name, than_order, value, order="dilated", low=None) -> dict:
    lines = {"name": name, "order": order, "than": "base", "than_order": than_order, "than_steps": 16}
    return {**lines, "value": value, "low": value - 0.1 if low is None else low, "high": value + 0.2}


def test_fastest_method_is_compared_in_both_orders():
    ratios = [ratio("base", "random", 0.1), ratio("slow", "dilated", 0.8), ratio("fast", "dilated", 0.5)]
    ratios += [ratio("never", "dilated", inf), ratio("fast", "random", 0.2, order="random")]
    ratios += [ratio("slow", "random", 0.3), ratio("fast", "random", 0.4), ratio("cold", "random", 0.05)]  # no gain
    results = Results({}, [row_of("base", order) for order in ("random", "dilated")])
    gains = [gain(name) for name in ("slow", "fast", "never")]
    same, other = fastest(results, gains, ratios)
    assert same.startswith("fast ") and same.endswith(
        "base (dilated order, 16 passes) in 0.50 [0.40, 0.70] of its time."
    )
    assert other.startswith("slow (dilated order) reaches the bound of base (random order")
    assert other.endswith("in 0.30 [0.20, 0.50] of its time; the base in that order alone in 0.10 [0.00, 0.30].")
    assert not list(fastest(results, gains, [ratio("never", "dilated", inf)]))
    (one_row,) = fastest(results, gains, [ratio("fast", "dilated", 0.5, low=nan)])
    assert one_row.endswith("in 0.50 of its time.")


def placed(name, temperature, verdict, difference, steps=2) -> dict:
    cell = {"name": name, "order": "random", "num_steps": steps, "temperature": temperature, "verdict": verdict}
    return {**cell, "said": f"{verdict} it", "difference": difference, "difference_stderr": 0.01}


def test_frontier_finding_is_at_the_temperature_nearest_to_one():
    points = [placed("base", 1.0, "on", 0.0), placed("ours", 0.7, "on", 0.1), placed("ours", 1.0, "on", -0.02)]
    points += [placed("ours", 1.1, "gain", -0.3), placed("ours", 0.8, "gain", -0.3, steps=4)]
    first, second, far = judged_at_equal_entropy([*points, placed("far", 1.0, "outside", None)])
    assert "2 passes) is on it (-0.020 ± 0.010 nats per token); at temperature 1.1 it is below." in first
    assert "4 passes, temperature 0.8) is gain it (-0.300 ± 0.010 nats per token)." in second
    assert far.endswith("is outside it.")


def measured(**values):
    sampled = {"entropy_nats": 4.0, "judge_nats_per_token": 3.0} if "num_samples" in values else {}
    return row_of("ours", **{"bound_nats_per_token": 3.0, "n": 500, **sampled, **values})


def spread(ess, trustworthy=1.0, normalized=False, steps=1) -> dict:
    step = {"ess": {"value": ess}, "trustworthy": trustworthy, "spread": {"value": 3.0}}
    about = {"name": "ours", "order": "random", "num_candidates": 32, "normalized": normalized}
    return {**about, "steps": [step] * steps}


def published(name, joint, untrusted=0.0) -> dict:
    bounds = {"marginal": {"nats_per_token": 3.0}, "with_lower": {"nats_per_token": joint}}
    return {"name": name, "untrusted": untrusted, **bounds}


def mauve(texts, references) -> dict:
    return {"mauve": 0.5, "num_samples": texts, "mauve_references": references}


def batches(count) -> dict:
    return {"seconds_of_batches": [1.0] * count}


WHOLE = {"scope": "sequence", "num_candidates": 4}
OUTSIDE = [{"name": "ours", "verdict": "outside"}, {"name": "ours", "verdict": "on"}, {"name": "base", "verdict": "on"}]


@pytest.mark.parametrize(
    ("rows", "about", "values"),
    [
        ([{"n": 99}, {}], {}, "Only 99 independent held-out rows"),
        ([{}, {"num_samples": 49}, {"num_samples": 60}], {}, "Only 49 samples"),
        ([batches(2)], {}, "two timed batches of each setting"),
        ([batches(3), batches(1)], {}, "one timed batch of some settings"),
        ([{}, WHOLE], {}, "very loose, and says little of ours"),
        ([{}, {"sampled_steps": 1}], {}, "some of the steps"),
        ([mauve(2000, 2000), mauve(999, 999)], {}, "999 samples and 999 held-out texts (fewer than 1000) is biased"),
        ([mauve(1500, 1400), mauve(1450, 1450)], {}, "one size, got 1500 samples and 1400"),
        ([{"judged_cut": 3, "num_samples": 60}, {}], {}, "3 of 60 samples"),
        ([{}], {"judge": {"name": "j", "is_energy_of": ["ours"]}}, "judge (j) is the energy of ours"),
        ([{}], {"earlier": [{"revision": None}]}, "(unknown)"),
        ([{}], {"energy_spreads": [spread(3.1, normalized=True)]}, "candidates: ours (random): 3.1 of 32"),
        ([{}], {"energy_spreads": [spread(9.0, 0.9)]}, "trusted for ours (random): spread 3.0 nats"),
        ([{}], {"published": [published("a", 2.9), published("b", 2.5)]}, "b 0.500 nats per token below"),
        ([{}], {"frontier": OUTSIDE}, "1 of 2 points"),
    ],
)
def test_caution_of_each_kind(rows, about, values):
    """Alone, in whatever order the rows come."""
    about = dict(about)
    frontier, record = about.pop("frontier", []), {**about, "continuous": {"published": about.pop("published", [])}}
    for order in (1, -1):
        (text,) = cautions(Results(record, [measured(**values) for values in rows][::order]), frontier)
        assert values in text and text.endswith(".")


def test_good_numbers_need_no_caution():
    fine = [{"n": 100}, {"num_samples": 50}, batches(3), mauve(1000, 1000), {**WHOLE, "inner_draws": 16}]
    fine += [{**WHOLE, "num_candidates": 1}]
    record = {"judge": {"name": "j", "is_energy_of": []}, "earlier": [], "continuous": {"published": []}}
    record["energy_spreads"] = [spread(3.3), spread(0.0, 0.0, steps=0)]
    assert cautions(Results(record, [measured(**values) for values in fine]), []) == []


def test_published_formula_names_what_is_not_to_be_trusted():
    record = {"continuous": {"published": [published("a", 3.5, 0.25), published("b", 3.5)]}}
    formula, untrusted = cautions(Results(record, [measured()]), [])
    assert "1.469 bits, it gives 1.204" in formula and "below what it gives" not in formula
    assert "a (25% of the noisy rows)" in untrusted
