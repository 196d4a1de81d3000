"""Findings: each rule by the values in its sentence, and what is quiet."""

import math

import pytest

from edlm.evaluation.experiment.results import Results
from edlm.evaluation.report.findings import (
    cautions,
    energy_lines,
    judged_at_equal_entropy,
    published_formula,
)
from tests.evaluation.measured import row_of

inf, nan = math.inf, math.nan


def gain(name="ours", steps=2, low=0.4, high=0.6, beyond="blind") -> dict:
    cell = {"name": name, "order": "left_to_right", "num_steps": steps, "passes": steps, "beyond": beyond}
    return {**cell, "value": (low + high) / 2, "low": low, "high": high}


def effect(steps=2, low=0.4, high=0.6, share=None, **about) -> dict:
    time = share and {"share": share, "low": share - 0.1, "high": share + 0.1, "batches": 3}
    return {**gain(steps=steps, low=low, high=high), "is_control": False, "time": time, **about}


def line_of(*effects, gains=()) -> tuple[str, str]:
    (line,) = energy_lines(effects, gains)
    assert (line["name"], line["order"]) == ("ours", "left_to_right")
    return line["outcome"], line["text"].removeprefix("ours (left to right order): ").removesuffix(".")


def test_line_of_an_energy_has_each_gain_with_its_interval():
    assert line_of(effect()) == ("helps", "helps at 2 passes: 0.500 [0.400, 0.600]")
    assert line_of(effect(16, -0.01, 0.01), effect(1, -0.01, 0.01)) == (
        "none",
        "no difference at 1 to 16 passes: 0.000 [-0.010, 0.010] at 1, 0.000 [-0.010, 0.010] at 16",
    )
    four = [effect(steps, low, -0.1) for steps, low in ((2, -0.3), (3, -0.4), (4, -0.5), (8, -0.7))]
    assert line_of(*four) == (
        "hurts",
        "hurts at 2 to 8 passes: -0.200 [-0.300, -0.100] at 2 to -0.400 [-0.700, -0.100] at 8",
    )
    assert line_of(effect(low=nan, high=nan))[0] == "unclear"


def test_line_that_helps_here_and_hurts_there_is_mixed():
    outcome, text = line_of(effect(2), effect(4, -0.3, 0.3), effect(8, -0.5, -0.3), effect(16, -0.9, -0.7))
    assert outcome == "mixed" and text.startswith("helps at 2 passes: 0.500 [0.400, 0.600]; hurts at 8 to 16 passes: ")
    assert text.endswith("; too few texts to tell at 4 passes: 0.000 [-0.300, 0.300]")


def test_line_has_the_least_time_for_equal_likelihood():
    text = "as good as the base in 50 % [40, 60] of its time"
    assert line_of(effect(share=0.5))[1].endswith(text)
    assert line_of(effect(share=0.5), effect(4, share=0.8), effect(8, -1, -0.5, share=0.2))[1].endswith(
        f"{text} (at 2)"
    )
    never, seldom = {"share": 0.0, "batches": 3}, {"share": 0.5, "low": 0.4, "high": 0.6, "batches": 2}
    assert not any("time" in line_of(effect(time=time))[1] for time in (never, seldom))


def test_line_says_where_a_control_is_no_worse():
    effects = [effect(steps) for steps in (2, 4, 8, 16)]
    rivals = [gain(steps=2), gain(steps=4, low=-0.3, high=-0.1), gain(steps=8, low=-0.01, high=0.01)]
    text = line_of(*effects, gains=[*rivals, gain(steps=16, low=-0.1, high=0.3)])[1]
    assert text.endswith(
        "; the control blind does better at 4 passes; the control blind does as well at 8 passes; "
        "the control blind may do as well at 16 passes"
    )
    assert "control" not in line_of(effect(), gains=[gain(low=-0.3, high=-0.1, beyond="base")])[1]
    lines = energy_lines([effect(), effect(name="blind", is_control=True)], [])
    assert [line["name"] for line in lines] == ["ours", "blind"]
    assert lines[1]["text"].startswith("blind (left to right order, a control): helps at 2 passes: ")
    [as_it_should] = energy_lines([effect(low=-0.3, high=0.3, is_control=True)], [])
    assert "a control): no gain at 2 passes: 0.000" in as_it_should["text"]


def placed(name, temperature, verdict, difference, steps=2) -> dict:
    cell = {"name": name, "order": "random", "num_steps": steps, "temperature": temperature, "verdict": verdict}
    return {**cell, "said": f"there: {verdict} it", "difference": difference, "difference_stderr": 0.01}


def test_frontier_finding_is_at_the_temperature_nearest_to_one():
    points = [placed("base", 1.0, "on", 0.0), placed("ours", 0.7, "on", 0.1), placed("ours", 1.0, "on", -0.02)]
    points += [placed("ours", 1.1, "gain", -0.3), placed("ours", 0.8, "gain", -0.3, steps=4)]
    first, second, far = judged_at_equal_entropy([*points, placed("far", 1.0, "outside", None)])
    assert (
        "2 passes) under the judge, at equal entropy: on it (-0.020 ± 0.010 nats per token); better at temperature 1.1."
        in first
    )
    assert (
        "4 passes, temperature 0.8) under the judge, at equal entropy: gain it (-0.300 ± 0.010 nats per token)."
        in second
    )
    assert far.endswith(" outside it.")


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
        ([{}], {"controls": []}, "No control was measured"),
        ([{}], {"frontier": OUTSIDE}, "1 of 2 points"),
    ],
)
def test_caution_of_each_kind(rows, about, values):
    """Alone, in whatever order the rows come."""
    about = {"controls": ["blind"], **about}
    frontier, record = about.pop("frontier", []), about
    for order in (1, -1):
        (text,) = cautions(Results(record, [measured(**values) for values in rows][::order]), frontier)
        assert values in text and text.endswith(".")


def test_good_numbers_need_no_caution():
    fine = [{"n": 100}, {"num_samples": 50}, batches(3), mauve(1000, 1000), {**WHOLE, "inner_draws": 16}]
    fine += [{**WHOLE, "num_candidates": 1}]
    record = {"judge": {"name": "j", "is_energy_of": []}, "earlier": [], "controls": ["blind"]}
    record["energy_spreads"] = [spread(3.3), spread(0.0, 0.0, steps=0)]
    assert cautions(Results(record, [measured(**values) for values in fine]), []) == []


def test_published_formula_names_what_is_not_to_be_trusted():
    record = {"continuous": {"published": [published("a", 3.5, 0.25), published("b", 3.5)]}}
    formula, untrusted = published_formula(record)
    assert "1.469 bits, it gives 1.204" in formula and "below what it gives" not in formula
    assert "a (25% of the noisy rows)" in untrusted
    (formula,) = published_formula({"continuous": {"published": [published("a", 2.9), published("b", 2.5)]}})
    assert "b 0.500 nats per token below" in formula and not [*published_formula({"continuous": None})]
