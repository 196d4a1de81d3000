"""Findings: each rule by its kind and data, and what is quiet."""

import math

import pytest

from edlm.evaluation.report.cautions import CAUTIONS
from edlm.evaluation.report.finding import Conclusions, Finding, Gain
from edlm.evaluation.report.findings import fastest, findings, greatest_gain, judged_at_equal_entropy
from tests.evaluation.measured import row_of

inf, nan = math.inf, math.nan


def gain(name="ours", steps=2, low=0.1, beyond="blind", controlled=True, value=0.5) -> Gain:
    return Gain(name, "left_to_right", steps, beyond, value, 0.1, low, 0.9, 0.7, 50, controlled)


def headline(*gains, **about) -> Finding:
    (finding,) = greatest_gain(Conclusions(**{"rows": [], "gains": gains, **about}))
    assert finding.severity == "headline" and "{" not in finding.text
    return finding


def test_headline_names_the_greatest_lower_end():
    noisy = gain("noisy", low=-0.5, value=2.0)
    best = headline(noisy, gain(steps=4, low=0.1), gain(steps=8, low=0.3), gain(steps=16, low=-0.1))
    assert (best.kind, best.data["name"], best.data["passes"]) == ("gain", "ours", "8 denoiser passes")
    assert best.clauses == ("over_base", "no_gain_at") and best.data["without"] == "16"
    assert "With 8 denoiser passes in left to right order, ours lowers the bound by 0.500 [0.300, 0.900]" in best.text
    assert "beyond the control blind (0.700 over the base), and shows no gain at 16 passes." in best.text


def test_headline_is_no_gain_unless_a_whole_interval_is_above_zero():
    for low in (0.0, -0.1, -inf, nan):
        assert headline(gain(low=low)).kind == "no_gain"
    assert headline(gain(low=nan), gain(steps=4, low=0.01)).data["passes"] == "4 denoiser passes"


def test_headline_prefers_controlled_gains():
    uncontrolled = gain("other", low=0.8, beyond="base", controlled=False)
    assert headline(uncontrolled, gain(low=0.1)).data["name"] == "ours"
    assert headline(uncontrolled, gain(low=-0.1)).kind == "no_gain"
    assert headline(uncontrolled).clauses == ("uncontrolled",)
    over_base = headline(gain(low=0.1, beyond="base"))  # the base is lower than the control
    assert over_base.clauses == () and over_base.data["rival"] == "the base"


def test_headline_without_gains_names_the_reason():
    base, ours, blind, cold = row_of("base"), row_of("ours"), row_of("blind"), row_of("cold", energy=None, top_k=2)
    for rows, kind in (
        ([base], "only_base"),
        ([base, cold], "only_proposals"),
        ([base, blind, cold], "only_controls"),
        ([base, ours, blind], "single_row"),
    ):
        assert headline(rows=rows, controls=["blind"]).kind == kind


def ratio(name, than_order, value, order="dilated", low=None) -> dict:
    ends = {"low": value - 0.1 if low is None else low, "high": value + 0.2}
    return {
        "name": name,
        "order": order,
        "than": "base",
        "than_order": than_order,
        "than_steps": 16,
        "value": value,
    } | ends


def test_fastest_method_is_compared_in_both_orders():
    ratios = [ratio("base", "random", 0.1), ratio("slow", "dilated", 0.8), ratio("fast", "dilated", 0.5)]
    ratios += [ratio("never", "dilated", inf), ratio("fast", "random", 0.2, order="random")]
    ratios += [ratio("slow", "random", 0.3), ratio("fast", "random", 0.4), ratio("cold", "random", 0.05)]  # no gain
    gains = [gain(name) for name in ("slow", "fast", "never")]
    rows = [row_of("base", order) for order in ("random", "dilated")]
    same, other = fastest(Conclusions(rows, gains=gains, ratios=ratios))
    assert (same.data["name"], same.data["than_order"], same.clauses) == ("fast", "dilated", ())
    assert same.text.endswith("in 0.50 [0.40, 0.70] of its time.")
    assert (other.data["name"], other.data["than_order"]) == ("slow", "random")
    assert other.text.endswith("in 0.30 [0.20, 0.50] of its time; the base in that order alone in 0.10 [0.00, 0.30].")
    assert not list(fastest(Conclusions(rows, gains=gains, ratios=[ratio("never", "dilated", inf)])))
    (one_row,) = fastest(Conclusions(rows, gains=gains, ratios=[ratio("fast", "dilated", 0.5, low=nan)]))
    assert one_row.text.endswith("in 0.50 of its time.")


def placed(name, temperature, verdict, difference, steps=2) -> dict:
    cell = {"name": name, "order": "random", "num_steps": steps, "temperature": temperature, "verdict": verdict}
    return {**cell, "said": f"{verdict} it", "difference": difference, "difference_stderr": 0.01}


def test_frontier_finding_is_at_the_temperature_nearest_to_one():
    points = [placed("base", 1.0, "on", 0.0), placed("ours", 0.7, "on", 0.1), placed("ours", 1.0, "on", -0.02)]
    points += [placed("ours", 1.1, "gain", -0.3), placed("ours", 0.8, "gain", -0.3, steps=4)]
    points += [placed("far", 1.0, "outside", None)]
    first, second, far = judged_at_equal_entropy(Conclusions([], frontier=points))
    assert (first.data["temperature"], first.data["below"], first.clauses) == (1.0, ["1.1"], ("by", "below_elsewhere"))
    assert "is on it (-0.020 ± 0.010 nats per token); at temperature 1.1 it is below." in first.text
    assert (second.data["temperature"], second.clauses) == (0.8, ("by",)) and ", temperature 0.8)" in second.text
    assert far.clauses == ()


def measured(**values):
    sampled = {"entropy_nats": 4.0, "judge_nats_per_token": 3.0} if "num_samples" in values else {}
    return row_of("ours", **{"bound_nats_per_token": 3.0, "n": 500, **sampled, **values})


def spread(ess, trustworthy=1.0, normalized=False, steps=1) -> dict:
    step = {"ess": {"value": ess}, "trustworthy": trustworthy, "spread": {"value": 3.0}}
    about = {"name": "ours", "order": "random", "num_candidates": 32, "normalized": normalized}
    return {**about, "steps": [step] * steps}


def published(name, joint, untrusted=0.0) -> dict:
    return {"name": name, "untrusted": untrusted} | {
        "marginal": {"nats_per_token": 3.0},
        "with_lower": {"nats_per_token": joint},
    }


def mauve(texts, references) -> dict:
    return {"mauve": 0.5, "num_samples": texts, "mauve_references": references}


def batches(count) -> dict:
    return {"seconds_of_batches": [1.0] * count}


WHOLE = {"scope": "sequence", "num_candidates": 4}
OUTSIDE = [{"name": "ours", "verdict": "outside"}, {"name": "ours", "verdict": "on"}, {"name": "base", "verdict": "on"}]


@pytest.mark.parametrize(
    ("rows", "about", "kind", "data"),
    [
        ([{"n": 99}, {}], {}, "few_rows", {"rows": "99 held-out rows"}),
        ([{}, {"num_samples": 49}, {"num_samples": 60}], {}, "few_samples", {"samples": "49 samples"}),
        ([batches(2)], {}, "few_batches", {"batches": "two timed batches", "which": "each setting"}),
        ([batches(3), batches(1)], {}, "few_batches", {"batches": "one timed batch", "which": "some settings"}),
        ([{}, WHOLE], {}, "loose_bound", {"methods": ["ours"]}),
        ([{}, {"sampled_steps": 1}], {}, "sampled_steps", {}),
        ([mauve(2000, 2000), mauve(999, 999)], {}, "mauve_biased", {"texts": 999, "references": 999}),
        ([mauve(1500, 1400)], {}, "mauve_sizes", {"texts": 1500, "references": 1400}),
        ([{"judged_cut": 3, "num_samples": 60}, {}], {}, "judge_cut", {"cut": 3, "samples": 60}),
        (
            [{}],
            {"judge": {"name": "j", "is_energy_of": ["ours"]}},
            "judge_is_energy",
            {"name": "j", "energies": ["ours"]},
        ),
        ([{}], {"earlier": [{"revision": None}]}, "earlier_calls", {"revisions": ["unknown"]}),
        (
            [{}],
            {"energy_spreads": [spread(3.1, normalized=True)]},
            "few_effective",
            {"energies": ["ours (random): 3.1 of 32"]},
        ),
        (
            [{}],
            {"energy_spreads": [spread(9.0, 0.9)]},
            "log_z_untrusted",
            {"energies": ["ours (random): spread 3.0 nats"]},
        ),
        (
            [{}],
            {"published": [published("a", 2.9), published("b", 2.5)]},
            "published_formula",
            {"name": "b", "below": 0.5},
        ),
        ([{}], {"frontier": OUTSIDE}, "outside_entropies", {"outside": 1, "points": 2}),
    ],
)
def test_caution_of_each_kind(rows, about, kind, data):
    """Alone, in whatever order the rows come."""
    about = dict(about)
    frontier, record = about.pop("frontier", []), {**about, "continuous": {"published": about.pop("published", [])}}
    for order in (1, -1):
        (finding,) = findings_of([measured(**values) for values in rows][::order], record, frontier)
        assert (finding.kind, finding.severity, finding.data) == (kind, "caution", data)
        assert finding.text.endswith(".") and "{" not in finding.text


def findings_of(rows, record=None, frontier=()) -> list[Finding]:
    of = Conclusions(rows, record=record or {}, frontier=frontier)
    return [finding for rule in CAUTIONS for finding in rule(of)]


def test_good_numbers_need_no_caution():
    fine = [{"n": 100}, {"num_samples": 50}, batches(3), mauve(1000, 1000), {**WHOLE, "inner_draws": 16}]
    fine += [{**WHOLE, "num_candidates": 1}]
    record = {"judge": {"name": "j", "is_energy_of": []}, "earlier": [], "continuous": {"published": []}}
    record["energy_spreads"] = [spread(3.3), spread(0.0, 0.0, steps=0)]
    assert findings_of([measured(**values) for values in fine], record) == []


def test_published_formula_names_what_is_not_to_be_trusted():
    record = {"continuous": {"published": [published("a", 3.5, 0.25), published("b", 3.5)]}}
    formula, untrusted = findings_of([measured()], record)
    assert formula.clauses == () and "1.469 bits, it gives 1.204" in formula.text
    assert untrusted.data == {"names": ["a (25% of the noisy rows)"]}


def test_findings_begin_with_the_headline():
    found = findings(Conclusions([row_of("base", n=3, bound_nats_per_token=1.0)]))
    assert [(f.kind, f.severity) for f in found] == [("only_base", "headline"), ("few_rows", "caution")]
