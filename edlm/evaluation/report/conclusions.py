"""What follows from the measurements, as JSON values: gains, placements, verdict, warnings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

import torch

from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.metrics import described_metrics
from edlm.evaluation.experiment.parts import RatioConfig
from edlm.evaluation.experiment.plan import ratios_of
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.likelihood.speedup import Curve, time_ratio
from edlm.evaluation.report.cautions import cautions
from edlm.evaluation.report.verdict import gains_beyond, verdict_of
from edlm.evaluation.samples.frontier import FrontierPoint, place

SCHEMA = "edlm-results-1"


def conclusions(results: Results, config: EvaluateConfig) -> dict[str, Any]:
    """Everything of ``results.json`` that is not a setting."""
    record = results.record
    gains = gains_beyond(results, generator=torch.Generator().manual_seed(config.seed))
    placed = placements(results.points, config.frontier.sigmas)
    ratios = time_ratios(results, config)
    about = {"judge": record["judge"], "frontier": placed, "energies": record.get("energy_spreads", [])}
    about |= {"published": record.get("continuous", {}).get("published", []), "earlier": record["earlier"]}
    return {
        "schema": SCHEMA,
        "metrics": described_metrics(),
        "controls": results.controls,
        "verdict": verdict_of(gains, rows=results.rows, controls=results.controls),
        "facts": [*_of_time(ratios, results.rows[-1].order, {gain.name for gain in gains}), *of_frontier(placed)],
        "warnings": cautions(results.rows, **about),
        "gains": [asdict(gain) for gain in gains],
        "time_ratios": ratios,
        "frontier": placed,
    }


def time_ratios(results: Results, config: EvaluateConfig) -> list[dict[str, Any]]:
    """Time at equal bound, where it is asked for.

    Raises:
        ValueError: a method was not timed.
    """
    curves = {(curve.name, curve.order): curve for curve in results.curves()}
    return [_time_ratio(curves, ratio, config.seed) for ratio in ratios_of(config, results.rows)]


def _time_ratio(curves: dict[tuple[str, str], Curve], ratio: RatioConfig, seed: int) -> dict[str, Any]:
    pair = []
    for name, order in ((ratio.name, ratio.order), (ratio.than, ratio.than_order)):
        if (name, order) not in curves:
            raise ValueError(f"time_ratios needs methods that were timed ({sorted(curves)}), got {(name, order)}")
        pair.append(curves[name, order])
    generator = torch.Generator().manual_seed(seed)
    found = time_ratio(*pair, ratio.than_steps, generator=generator)
    return {**asdict(ratio), **asdict(found)}


def placements(points: Sequence[FrontierPoint], sigmas: float) -> list[dict[str, Any]]:
    """Each point, and where it lies from the curve of its cell's base."""
    placed = []
    for point in points:
        cell = (point.order, point.num_steps)
        base = [p for p in points if p.name == "base" and (p.order, p.num_steps) == cell]
        where = place(point, base, sigmas=sigmas)
        entropy, loss = point.entropy_nats, point.judge_nats_per_token
        placed.append(
            {
                "name": point.name,
                "order": point.order,
                "num_steps": point.num_steps,
                "temperature": point.temperature,
                "num_samples": entropy.n,
                "entropy_nats": entropy.value,
                "entropy_stderr": entropy.stderr,
                "judge_nats_per_token": loss.value,
                "judge_stderr": loss.stderr,
                "distinct_2": point.distinct_2,
                "verdict": where.verdict,
                "said": where.said,
                "difference": where.difference,
                "difference_stderr": where.stderr,
                "interpolation": where.interpolation,
            }
        )
    return placed


def _of_time(ratios: Sequence[dict[str, Any]], order: str, methods: Collection[str]) -> list[str]:
    """The fastest method in an order, against the base in the same, and in another, beside what the order brings."""
    facts = []
    for same in (True, False):
        some = [r for r in ratios if r["order"] == order and (r["than_order"] == order) == same]
        reached = [r for r in some if r["name"] in methods and r["value"] < float("inf")]
        best = min(reached, key=lambda r: r["value"], default=None)
        if best is not None:
            of = f"{best['than']} ({best['than_order']} order, {best['than_steps']} passes)"
            alone = next((r for r in some if r["name"] == "base" and r["value"] < float("inf")), None)
            beside = f"; the base in that order alone in {_share(alone)}" if alone is not None else ""
            said = f"{best['name']} ({order} order) reaches the bound of {of} in {_share(best)} of its time"
            facts.append(f"{said}{beside}.")
    return facts


def _share(ratio: dict[str, Any]) -> str:
    interval = f" [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio["low"] == ratio["low"] else ""  # NaN of one row
    return f"{ratio['value']:.2f}{interval}"


def of_frontier(placed: Sequence[dict[str, Any]]) -> list[str]:
    """What the judge says of each method at its own temperature, at equal entropy."""
    own = {}
    for p in (p for p in placed if p["name"] != "base"):
        known = own.setdefault((p["name"], p["order"], p["num_steps"]), p)
        if abs(p["temperature"] - 1) < abs(known["temperature"] - 1):
            own[p["name"], p["order"], p["num_steps"]] = p
    facts = []
    for (name, order, steps), p in own.items():
        known = p["difference"] is not None
        by = f" ({p['difference']:+.3f} ± {p['difference_stderr']:.3f} nats per token)" if known else ""
        at = "" if p["temperature"] == 1 else f", temperature {p['temperature']:g}"
        cell = [q for q in placed if (q["name"], q["order"], q["num_steps"]) == (name, order, steps)]
        others = [f"{q['temperature']:g}" for q in cell if q["verdict"] == "gain" != p["verdict"]]
        also = f"; at temperature {', '.join(others)} it is below" if others else ""
        facts.append(f"To the judge, {name} ({order} order, {steps} passes{at}) is {p['said']}{by}{also}.")
    return facts
