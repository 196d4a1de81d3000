"""What each energy changes: likelihood relative to the denoiser alone at equal passes, and time at equal likelihood."""

from typing import Any

import torch

from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import Row
from edlm.evaluation.likelihood.speedup import worth


def effects_of(results: Results, *, seed: int) -> list[dict[str, Any]]:
    """Every method with an energy against the base, controls among them.

    Args:
        results: Nats per token of the same held-out rows in every setting, with a base in each cell.
        seed: Of the bootstraps.

    Returns:
        A record for each method and cell: those of `Row.place`; ``is_control``; the fields of `Estimate`
        of the paired gain over the base of the cell, nats per token, high = good, whose intervals hold for all records
        at once (-inf and inf if the rows are too few to bound it, NaN of a single row or an infinite bound);
        ``better_base``, another order in which the base in no more passes has a lower bound, or None; and ``time``,
        None where it was not timed, else `Worth` relative to the base in any order: ``passes``, ``share``, ``low``,
        ``high``, and ``batches``, how many were timed.
    """
    rows = [row for row in results.rows if row.key in results.nats]
    bases = {row.cell: row for row in rows if row.is_base}
    methods = [row for row in rows if row.options["energy"] is not None and row.cell in bases]
    if not methods:
        return []
    nats = {row.key: results.nats_of(row) for row in rows}
    gains = torch.stack([nats[bases[row.cell].key] - nats[row.key] for row in methods])
    intervals = simultaneous_intervals(gains, generator=torch.Generator().manual_seed(seed))

    def better_base(row: Row) -> str | None:
        affordable = [base for base in bases.values() if base.passes <= row.passes]
        best = min(affordable, key=lambda base: nats[base.key].mean().item())
        is_better = best.order != row.order and nats[best.key].mean() < nats[row.key].mean()
        return best.order if is_better else None

    base, curves = results.base_curve(), {(curve.name, curve.order): curve for curve in results.curves()}

    def time(row: Row) -> dict[str, Any] | None:
        seconds = row.notes.get("seconds_of_batches")
        if base is None or seconds is None:
            return None
        generator = torch.Generator().manual_seed(seed)
        passes, share = worth(curves[row.name, row.order], row.num_steps, base, generator=generator)
        return {"passes": passes, "share": share.value, "low": share.low, "high": share.high, "batches": len(seconds)}

    return [
        {
            **row.place,
            **{"is_control": row.name in results.controls, **interval._asdict()},
            **{"better_base": better_base(row), "time": time(row)},
        }
        for row, interval in zip(methods, intervals, strict=True)
    ]
