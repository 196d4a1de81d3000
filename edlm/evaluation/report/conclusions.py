"""Numbers that follow from the measurements: gains beyond the control, time at equal bound, places on the frontier."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.metrics import described_metrics
from edlm.evaluation.experiment.plan import ratios_of
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import Row, flat
from edlm.evaluation.likelihood.speedup import time_ratio
from edlm.evaluation.report.effects import effects_of
from edlm.evaluation.report.findings import cautions, energy_lines, judged_at_equal_entropy
from edlm.evaluation.report.recommendation import recommend
from edlm.evaluation.samples.frontier import FrontierPoint, place


def conclusions(results: Results, config: EvaluateConfig) -> dict[str, Any]:
    """What ``results.json`` holds in addition to the measurements, as JSON values."""
    gains = gains_beyond(results, generator=torch.Generator().manual_seed(config.seed))
    effects = effects_of(results, seed=config.seed)
    verdict, recommended = recommend(effects, gains)
    placed = placements(results.points, config.frontier.sigmas)
    ratios = time_ratios(results, config)
    return {
        "schema": "edlm-results-1",
        "metrics": described_metrics(),
        "controls": results.controls,
        "verdict": verdict,
        "recommended": recommended,
        "by_energy": energy_lines(effects, gains),
        "facts": [*judged_at_equal_entropy(placed)],
        "warnings": cautions(results, placed),
        "effects": effects,
        "gains": gains,
        "time_ratios": ratios,
        "frontier": placed,
    }


def gains_beyond(results: Results, *, generator: torch.Generator) -> list[dict[str, Any]]:
    """Every method against the best that corrects marginals only: the blind control of its cell, or else the base.

    Of base and control, the one with the lower bound in the cell is what a method must beat. A single row has no
    spread, and gives no gain.

    Args:
        results: Nats per token of the same held-out rows in every setting, with a base in each cell.
        generator: Draws the rows of the bootstrap.

    Returns:
        A record for each method and cell, in nats per token: those of `Row.place`; ``beyond``, the name
        of the rival; the fields of `Estimate`, of the paired differences, high = good, whose interval is that of
        `simultaneous_intervals` over all records (-inf and inf if the rows are too few or too alike to bound it, NaN
        if a bound is not finite); ``over_base``, the mean gain over the base; and ``controlled``, whether a control
        was measured in the cell.
    """
    rows = [row for row in results.rows if row.key in results.nats]
    bases = {row.cell: row for row in rows if row.is_base}
    controls = {row.cell: row for row in rows if row.name in results.controls}
    methods = [row for row in rows if row.options["energy"] is not None and row.name not in results.controls]
    methods = [row for row in methods if len(results.nats_of(row)) > 1 and row.cell in bases]
    if not methods:
        return []
    nats = {row.key: results.nats_of(row) for row in rows}
    over_base = [nats[bases[row.cell].key] - nats[row.key] for row in methods]
    rivals = [
        min((controls.get(row.cell, bases[row.cell]), bases[row.cell]), key=lambda rival: nats[rival.key].mean().item())
        for row in methods
    ]
    below = torch.stack([nats[rival.key] - nats[row.key] for row, rival in zip(methods, rivals, strict=True)])
    intervals = simultaneous_intervals(below, generator=generator)
    return [
        {
            **row.place,
            "beyond": rival.name,
            **interval._asdict(),
            **{"over_base": over.mean().item(), "controlled": row.cell in controls},
        }
        for row, rival, interval, over in zip(methods, rivals, intervals, over_base, strict=True)
    ]


def time_ratios(results: Results, config: EvaluateConfig) -> list[dict[str, Any]]:
    """Time at equal bound, for the requested comparisons.

    Raises:
        ValueError: a method was not timed.
    """
    curves = {(curve.name, curve.order): curve for curve in results.curves()}
    records = []
    for ratio in ratios_of(config, results.rows):
        lines = [(ratio.name, ratio.order), (ratio.than, ratio.than_order)]
        missing = [line for line in lines if line not in curves]
        if missing and (config.max_minutes is not None or "time" not in config.measure):
            continue  # there was no time for it, or that is measured by another call
        if missing:
            raise ValueError(f"time_ratios needs methods that were timed ({sorted(curves)}), got {missing[0]}")
        generator = torch.Generator().manual_seed(config.seed)
        shares = time_ratio(*(curves[line] for line in lines), ratio.than_steps, generator=generator)
        records.append({**asdict(ratio), **asdict(shares)})
    return records


def placements(points: Sequence[FrontierPoint], sigmas: float) -> list[dict[str, Any]]:
    """Each point, and where it lies relative to the base's curve in the same order and number of steps."""
    placed = []
    for point in points:
        cell = {name: getattr(point, name) for name in ("order", "num_steps")}
        base = [p for p in points if p.name == "base" and (p.order, p.num_steps) == tuple(cell.values())]
        position = asdict(place(point, base, sigmas=sigmas))
        position |= {"said": position.pop("description"), "difference_stderr": position.pop("stderr")}
        metrics = {"entropy_nats": point.entropy_nats, "judge_nats_per_token": point.judge_nats_per_token}
        metrics["distinct_2"] = Estimate(point.distinct_2)
        options = {"name": point.name, **cell, "temperature": point.temperature}
        placed.append(flat(Row(options, metrics, position)))
    return placed
