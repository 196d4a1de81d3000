"""What follows from the measurements: which base, which curve, which direction, and the facts in words."""

import torch

from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.parts import FrontierConfig, RatioConfig, SamplesConfig
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.likelihood.speedup import time_ratio
from edlm.evaluation.report import conclusions as module
from edlm.evaluation.report.conclusions import conclusions, of_frontier, placements, time_ratios
from edlm.evaluation.report.verdict import gains_beyond, verdict_of
from edlm.evaluation.samples.frontier import FrontierPoint, place
from tests.evaluation.measured import results_of, row_of

SEED = 5
SECONDS = {"base": 1.0, "ours": 1.3, "blind": 1.1}


def evaluation(**about) -> Results:
    """Seven rows of three methods, timed by a made-up clock."""
    g, pairs = torch.Generator().manual_seed(1), []
    for order in ("left_to_right", "dilated"):
        for steps in (1, 2, 3):
            for i, (name, seconds) in enumerate(SECONDS.items()):
                batches = [seconds * steps * share for share in (1.0, 1.02, 1.07, 1.1, 1.31, 1.37, 1.61)]
                row = row_of(name, order, steps, seconds_of_batches=batches, seconds_per_sequence=batches[3])
                pairs.append((row, 3 - 0.1 * steps - 0.2 * i + 0.5 * torch.randn(7, generator=g)))
    return results_of(pairs, ["blind"], **about)


def config(**options) -> EvaluateConfig:
    return EvaluateConfig(seed=SEED, samples=SamplesConfig(judged=0), **options)


def test_gains_and_controls_are_those_of_the_rows():
    results = evaluation()
    found = conclusions(results, config())
    expected = gains_beyond(results, generator=torch.Generator().manual_seed(SEED))
    assert [(g["value"], g["low"], g["high"]) for g in found["gains"]] == [(g.value, g.low, g.high) for g in expected]
    other = gains_beyond(results, generator=torch.Generator().manual_seed(0))
    assert [g.low for g in other] != [g.low for g in expected]
    assert found["controls"] == ["blind"] and {g["name"] for g in found["gains"]} == {"ours"}
    assert found["verdict"] == verdict_of(expected)
    assert found["warnings"][0].startswith("Only 7 held-out rows")


def test_a_share_of_time_is_the_methods_over_what_it_is_held_against():
    ratios = (
        RatioConfig("ours", "dilated", "base", "left_to_right", 2),
        RatioConfig("base", "dilated", "ours", "dilated", 3),
        RatioConfig("blind", "dilated", "base", "left_to_right", 2),
    )
    results = evaluation()
    curves = {(curve.name, curve.order): curve for curve in results.curves()}
    for found, asked in zip(time_ratios(results, config(time_ratios=ratios)), ratios, strict=True):
        pair = curves[asked.name, asked.order], curves[asked.than, asked.than_order]
        expected = time_ratio(*pair, asked.than_steps, generator=torch.Generator().manual_seed(SEED))
        assert {name: found[name] for name in vars(asked)} == vars(asked)
        assert (found["value"], found["low"], found["high"]) == (expected.value, expected.low, expected.high)
    other = time_ratio(*pair, 2, generator=torch.Generator().manual_seed(0))
    assert other.high != expected.high  # the draws are those of the table's seed


def ratio(name, order, than_order, value, than="base") -> dict:
    asked = vars(RatioConfig(name, order, than, than_order, 16))
    return {**asked, "value": value, "low": value - 0.1, "high": value + 0.2}


def test_the_fastest_that_reaches_the_bound_is_told_of_in_its_order_and_against_another():
    inf = float("inf")
    ratios = [ratio("base", "dilated", "random", 0.1), ratio("slow", "dilated", "dilated", 0.8)]
    ratios += [ratio("fast", "dilated", "dilated", 0.5), ratio("never", "dilated", "dilated", inf)]
    ratios += [ratio("fast", "random", "random", 0.2), ratio("slow", "dilated", "random", 0.3)]
    ratios += [ratio("fast", "dilated", "random", 0.4), ratio("cold", "dilated", "random", 0.05)]  # no method
    methods = ("slow", "fast", "never")
    assert module._of_time(ratios, "dilated", methods) == [
        "fast (dilated order) reaches the bound of base (dilated order, 16 passes) in 0.50 [0.40, 0.70] of its time.",
        "slow (dilated order) reaches the bound of base (random order, 16 passes) in 0.30 [0.20, 0.50] of its time; "
        "the base in that order alone in 0.10 [0.00, 0.30].",
    ]
    assert module._of_time([ratio("never", "dilated", "dilated", inf)], "dilated", methods) == []
    one_row = {**ratio("fast", "dilated", "dilated", 0.5), "low": float("nan"), "high": float("nan")}
    (said,) = module._of_time([one_row], "dilated", methods)
    assert said.endswith("in 0.50 of its time.")


def point(name, order, steps, temperature, entropy, loss, n=50) -> FrontierPoint:
    g = torch.Generator().manual_seed(int(1000 * (entropy + loss)))
    noise = torch.randn(2, n, generator=g, dtype=torch.float64)
    tokens = torch.randint(20, 40, (n,), generator=g)
    return FrontierPoint(
        name, order, steps, temperature, entropy + 0.05 * noise[0], tokens * (loss + 0.1 * noise[1]), tokens, 0.4
    )


def curve(order, steps, shift) -> list[FrontierPoint]:
    heat = ((0.7, 4.0, 3.0), (1.0, 4.5, 3.5), (1.2, 5.0, 4.0))
    return [point("base", order, steps, t, entropy, loss + shift) for t, entropy, loss in heat]


def test_a_point_is_held_against_the_base_of_its_own_order_and_passes():
    """The others' curves lie lower or higher: against them it would be another verdict."""
    bases = [*curve("random", 2, 0.0), *curve("random", 4, -1.0), *curve("dilated", 2, 1.0)]
    ours = [point("ours", "random", 2, 1.0, 4.6, 3.2), point("ours", "random", 4, 1.0, 4.6, 3.2)]
    ours += [point("ours", "dilated", 2, 1.0, 4.6, 4.6), point("ours", "dilated", 4, 1.0, 4.6, 3.2)]
    placed = placements([*ours, *bases], 3.0)
    assert [p["verdict"] for p in placed] == ["gain", "worse", "on", "outside", *["on"] * 9]
    for p, own, base in zip(placed, ours, (bases[:3], bases[3:6], bases[6:], []), strict=False):
        expected = place(own, base)
        assert (p["difference"], p["difference_stderr"]) == (expected.difference, expected.stderr)
        assert (p["said"], p["interpolation"], p["distinct_2"]) == (expected.said, expected.interpolation, 0.4)
        assert (p["entropy_nats"], p["entropy_stderr"], p["num_samples"]) == own.entropy_nats[:3]
        assert (p["judge_nats_per_token"], p["judge_stderr"]) == own.judge_nats_per_token[:2]
    twins = [point("twin", "random", 2, t, 4.6, 3.2) for t in (0.9, 1.0)]  # of each other they would be the curve
    assert [p["verdict"] for p in placements([*twins, *bases], 3.0)[:2]] == ["gain"] * 2


def test_a_point_is_judged_by_as_many_sigmas_as_are_asked_for():
    points = [*curve("left_to_right", 2, 0.0), point("ours", "left_to_right", 2, 1.0, 4.6, 3.2)]
    for sigmas, verdict in ((3.0, "gain"), (1e6, "on")):
        found = conclusions(evaluation(points=points), config(frontier=FrontierConfig(sigmas=sigmas)))
        assert found["frontier"][-1]["verdict"] == verdict


def placed(name, temperature, verdict, difference, steps=2) -> dict:
    how = {"name": name, "order": "random", "num_steps": steps, "temperature": temperature, "verdict": verdict}
    return {**how, "said": f"said of {temperature:g}", "difference": difference, "difference_stderr": 0.01}


def test_a_method_is_told_of_at_the_temperature_nearest_to_one():
    points = [placed("base", 1.0, "on", 0.0), placed("ours", 0.7, "on", 0.1), placed("ours", 1.0, "on", -0.02)]
    points += [placed("ours", 1.1, "gain", -0.3), placed("ours", 0.8, "gain", -0.3, steps=4)]
    assert of_frontier(points) == [
        "To the judge, ours (random order, 2 passes) is said of 1 (-0.020 ± 0.010 nats per token); "
        "at temperature 1.1 it is below.",
        "To the judge, ours (random order, 4 passes, temperature 0.8) is said of 0.8 (-0.300 ± 0.010 nats per token).",
    ]
    points = [placed("ours", 1.0, "gain", -0.02), placed("ours", 0.9, "gain", -0.3)]
    assert "; at temperature" not in of_frontier(points)[0]
    assert of_frontier([placed("ours", 1.0, "outside", None)])[0].endswith("2 passes) is said of 1.")
