"""Numbers that follow from the measurements: which rival, which curve, which direction."""

import math

import pytest
import torch

from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.parts import FrontierConfig, RatioConfig, SamplesConfig
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.likelihood.speedup import time_ratio
from edlm.evaluation.report.conclusions import conclusions, gains_beyond, placements, time_ratios
from edlm.evaluation.report.effects import effects_of
from edlm.evaluation.report.findings import energy_lines
from edlm.evaluation.report.recommendation import recommend
from edlm.evaluation.samples.frontier import FrontierPoint, place
from tests.evaluation.measured import results_of, row_of

SEED, N = 5, 200
SECONDS = {"base": 1.0, "ours": 1.3, "blind": 1.1}


def generator(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nats_of(steps, **means) -> list:
    """Rows of methods with these mean bounds, and a common noise."""
    g = generator(steps)
    common = torch.randn(N, generator=g)
    noisy = {name: mean + common + 0.1 * torch.randn(N, generator=g) for name, mean in means.items()}
    return [(row_of(name, num_steps=steps), nats) for name, nats in noisy.items()]


def values_of(gain) -> tuple:
    return tuple(gain[field] for field in ("value", "stderr", "n", "low", "high"))


def test_gains_are_paired_with_the_lower_of_base_and_control():
    pairs = [*nats_of(2, base=4.0, ours=3.5, blind=3.9), *nats_of(4, base=4.0, ours=3.8, blind=4.5)]
    results = results_of([*pairs, *nats_of(8, base=4.0, ours=3.0)], ["blind"])
    rivals = [(2, "blind", True), (4, "base", True), (8, "base", False)]
    nats = {(row.name, row.num_steps): results.nats_of(row) for row in results.rows}
    series = torch.stack([nats[rival, steps] - nats["ours", steps] for steps, rival, _ in rivals])
    gains = gains_beyond(results, generator=generator())
    assert [values_of(gain) for gain in gains] == simultaneous_intervals(series, generator=generator())
    assert [(gain["num_steps"], gain["beyond"], gain["controlled"]) for gain in gains] == rivals
    over_base = [(nats["base", steps] - nats["ours", steps]).mean().item() for steps, *_ in rivals]
    assert [gain["over_base"] for gain in gains] == over_base


def test_gains_of_infinite_bounds_and_few_rows_have_no_ends():
    def gains_of(pairs):
        return [values_of(gain) for gain in gains_beyond(results_of(pairs), generator=generator())]

    never, fine = nats_of(2, base=4.0, ours=3.0), nats_of(4, base=4.0, ours=3.5)
    never[1][1][3] = math.inf
    first, second = gains_of([*never, *fine])
    assert first[0] == -math.inf and math.isnan(first[3]) and [second] == gains_of(fine)
    assert gains_of([(row, nats[:3]) for row, nats in fine])[0][3:] == (-math.inf, math.inf)
    assert gains_of([(row, nats[:1]) for row, nats in fine]) == []


def evaluation(**about) -> Results:
    """Seven rows of three methods, timed by a made-up clock."""
    g, pairs = generator(1), []
    for order in ("left_to_right", "dilated"):
        for steps in (1, 2, 3):
            for i, (name, seconds) in enumerate(SECONDS.items()):
                batches = [seconds * steps * share for share in (1.0, 1.02, 1.07, 1.1, 1.31, 1.37, 1.61)]
                row = row_of(name, order, steps, seconds_of_batches=batches, seconds_per_sequence=batches[3])
                pairs.append((row, 3 - 0.1 * steps - 0.2 * i + 0.5 * torch.randn(7, generator=g)))
    return results_of(pairs, ["blind"], **about)


def config(**options) -> EvaluateConfig:
    return EvaluateConfig(seed=SEED, samples=SamplesConfig(judged=0), **options)


def test_conclusions_are_those_of_the_rows_and_the_seed():
    results = evaluation()
    concluded = conclusions(results, config())
    assert concluded["gains"] == gains_beyond(results, generator=generator(SEED))
    assert concluded["gains"] != gains_beyond(results, generator=generator())
    assert concluded["controls"] == ["blind"] and {gain["name"] for gain in concluded["gains"]} == {"ours"}
    assert concluded["effects"] == effects_of(results, seed=SEED) and len(concluded["effects"]) == 12
    found = concluded["verdict"], concluded["recommended"]
    assert found == recommend(concluded["effects"], concluded["gains"])
    assert concluded["by_energy"] == energy_lines(concluded["effects"], concluded["gains"])
    assert concluded["warnings"][0].startswith("Only 7 independent held-out rows")


def test_time_ratio_is_the_method_over_its_reference():
    ratios = (
        RatioConfig("ours", "dilated", "base", "left_to_right", 2),
        RatioConfig("base", "dilated", "ours", "dilated", 3),
    )
    results = evaluation()
    curves = {(curve.name, curve.order): curve for curve in results.curves()}
    for record, ratio in zip(time_ratios(results, config(time_ratios=ratios)), ratios, strict=True):
        pair = curves[ratio.name, ratio.order], curves[ratio.than, ratio.than_order]
        expected = time_ratio(*pair, ratio.than_steps, generator=generator(SEED))
        assert record == {**vars(ratio), **vars(expected)}
    untimed = results_of([(row_of(row.name, *row.cell), results.nats[row.key]) for row in results.rows])
    with pytest.raises(ValueError, match="were timed"):
        time_ratios(untimed, config(time_ratios=ratios))


def point(name, order, steps, temperature, entropy, loss, n=50) -> FrontierPoint:
    g = generator(int(1000 * (entropy + loss)))
    noise, tokens = torch.randn(2, n, generator=g, dtype=torch.float64), torch.randint(20, 40, (n,), generator=g)
    values = (entropy + 0.05 * noise[0], tokens * (loss + 0.1 * noise[1]), tokens, 0.4)
    return FrontierPoint(name, order, steps, temperature, *values)


def curve(order, steps, shift) -> list[FrontierPoint]:
    heat = ((0.7, 4.0, 3.0), (1.0, 4.5, 3.5), (1.2, 5.0, 4.0))
    return [point("base", order, steps, t, entropy, loss + shift) for t, entropy, loss in heat]


def test_placement_is_relative_to_the_base_of_the_same_cell():
    """The curves of other cells lie lower or higher: relative to them it would be another verdict."""
    bases = [*curve("random", 2, 0.0), *curve("random", 4, -1.0), *curve("dilated", 2, 1.0)]
    ours = [point("ours", "random", 2, 1.0, 4.6, 3.2), point("ours", "random", 4, 1.0, 4.6, 3.2)]
    ours += [point("ours", "dilated", 2, 1.0, 4.6, 4.6), point("ours", "dilated", 4, 1.0, 4.6, 3.2)]
    placed = placements([*ours, *bases], 3.0)
    assert [p["verdict"] for p in placed] == ["gain", "worse", "on", "outside", *["on"] * 9]
    for p, own, base in zip(placed, ours, (bases[:3], bases[3:6], bases[6:], []), strict=False):
        expected = vars(place(own, base))
        assert (p["said"], p["difference_stderr"]) == (expected.pop("description"), expected.pop("stderr"))
        assert p.items() >= expected.items()
        assert (p["entropy_nats"], p["entropy_stderr"], p["num_samples"]) == own.entropy_nats[:3]
        assert (p["judge_nats_per_token"], p["judge_stderr"]) == own.judge_nats_per_token[:2]
        assert p["distinct_2"] == 0.4
    twins = [point("twin", "random", 2, t, 4.6, 3.2) for t in (0.9, 1.0)]  # relative to each other they are "on"
    assert [p["verdict"] for p in placements([*twins, *bases], 3.0)[:2]] == ["gain"] * 2


def test_placement_uses_the_configured_sigmas():
    points = [*curve("left_to_right", 2, 0.0), point("ours", "left_to_right", 2, 1.0, 4.6, 3.2)]
    for sigmas, verdict in ((3.0, "gain"), (1e6, "on")):
        concluded = conclusions(evaluation(points=points), config(frontier=FrontierConfig(sigmas=sigmas)))
        assert concluded["frontier"][-1]["verdict"] == verdict
