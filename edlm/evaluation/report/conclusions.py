"""Numbers that follow from the measurements: gains beyond the control, time at equal bound, places on the frontier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.metrics import described_metrics
from edlm.evaluation.experiment.plan import ratios_of
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import Row
from edlm.evaluation.likelihood.speedup import time_ratio
from edlm.evaluation.report.finding import Conclusions, Gain
from edlm.evaluation.report.findings import findings
from edlm.evaluation.samples.frontier import FrontierPoint, place

LEVEL, SCHEMA = 0.95, "edlm-results-1"


def conclusions(results: Results, config: EvaluateConfig) -> dict[str, Any]:
    """What ``results.json`` holds in addition to the measurements, as JSON values."""
    gains = gains_beyond(results, generator=torch.Generator().manual_seed(config.seed))
    placed = placements(results.points, config.frontier.sigmas)
    ratios = time_ratios(results, config)
    statements = findings(Conclusions(results.rows, results.controls, results.record, gains, ratios, placed))
    texts = {
        severity: [finding.text for finding in statements if finding.severity == severity]
        for severity in ("headline", "conclusion", "caution")
    }
    return {
        "schema": SCHEMA,
        "metrics": described_metrics(),
        "controls": results.controls,
        "verdict": " ".join(texts["headline"]),
        "facts": texts["conclusion"],
        "warnings": texts["caution"],
        "gains": [asdict(gain) for gain in gains],
        "time_ratios": ratios,
        "frontier": placed,
    }


def gains_beyond(results: Results, *, generator: torch.Generator) -> list[Gain]:
    """Every method against the best that corrects marginals only: the blind control of its cell, or else the base.

    Of base and control, the one with the lower bound in the cell is what a method must beat. A single row has no
    spread, and gives no gain.

    Args:
        results: Nats per token of the same held-out rows in every setting, with a base in each cell.
        generator: Draws the rows of the bootstrap.
    """
    rows = [row for row in results.rows if row.key in results.nats]
    bases = {row.cell: row for row in rows if row.is_base}
    controls = {row.cell: row for row in rows if row.name in results.controls}
    methods = [row for row in rows if row.options["energy"] is not None and row.name not in results.controls]
    methods = [row for row in methods if len(results.nats[row.key]) > 1]
    if not methods:
        return []
    rivals = [
        min((controls.get(row.cell, bases[row.cell]), bases[row.cell]), key=lambda r: results.nats_of(r).mean().item())
        for row in methods
    ]
    below = torch.stack([_below(results, row, rival) for row, rival in zip(methods, rivals, strict=True)])
    intervals = simultaneous_intervals(below, level=LEVEL, generator=generator)
    return [
        Gain(
            *(row.name, *row.cell, rival.name),
            *(interval.value, interval.stderr, interval.low, interval.high),
            over_base=_below(results, row, bases[row.cell]).mean().item(),
            n=interval.n,
            controlled=row.cell in controls,
        )
        for row, rival, interval in zip(methods, rivals, intervals, strict=True)
    ]


def _below(results: Results, row: Row, rival: Row) -> Tensor:
    """How far each held-out row lies below the rival's, ``[n]``, float64."""
    return results.nats_of(rival) - results.nats_of(row)


def time_ratios(results: Results, config: EvaluateConfig) -> list[dict[str, Any]]:
    """Time at equal bound, for the requested comparisons.

    Raises:
        ValueError: a method was not timed.
    """
    curves = {(curve.name, curve.order): curve for curve in results.curves()}
    records = []
    for ratio in ratios_of(config, results.rows):
        lines = [(ratio.name, ratio.order), (ratio.than, ratio.than_order)]
        if missing := [line for line in lines if line not in curves]:
            raise ValueError(f"time_ratios needs methods that were timed ({sorted(curves)}), got {missing[0]}")
        generator = torch.Generator().manual_seed(config.seed)
        shares = time_ratio(*(curves[line] for line in lines), ratio.than_steps, generator=generator)
        records.append({**asdict(ratio), **asdict(shares)})
    return records


def placements(points: Sequence[FrontierPoint], sigmas: float) -> list[dict[str, Any]]:
    """Each point, and its position relative to the curve of its cell's base."""
    placed = []
    for point in points:
        cell = (point.order, point.num_steps)
        base = [p for p in points if p.name == "base" and (p.order, p.num_steps) == cell]
        where = place(point, base, sigmas=sigmas)
        entropy, loss = point.entropy_nats, point.judge_nats_per_token
        placed.append(
            {
                **{name: getattr(point, name) for name in ("name", "order", "num_steps", "temperature", "distinct_2")},
                **{"num_samples": entropy.n, "entropy_nats": entropy.value, "entropy_stderr": entropy.stderr},
                **{"judge_nats_per_token": loss.value, "judge_stderr": loss.stderr},
                **{name: getattr(where, name) for name in ("verdict", "said", "difference", "interpolation")},
                "difference_stderr": where.stderr,
            }
        )
    return placed
