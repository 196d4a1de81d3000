"""Tables of a report, from its JSON: every number with its error, as text; the template draws them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.metrics import DASH, METRICS
from edlm.evaluation.experiment.rows import Row, passes_text, row_of_flat
from edlm.evaluation.report.cells import Cell, Column, Table, cell_of, cell_with_interval, table_of, words

Result = Mapping[str, Any]


def _metrics(*names: str) -> dict[str, Column]:
    """Columns of metrics, under their titles."""
    return {METRICS[name].title: name for name in names}


_SETTING = {
    "Order": lambda row: words(row.order),
    "Passes": passes_text,
    "Sampler": lambda row: row.name,
}
_UNITS = _metrics("perplexity", "perplexity_per_word", "bits_per_char")
_JUDGED = _metrics("judge_nats_per_token", "entropy_nats", "distinct_2") | {
    "Samples": lambda row: str(row["entropy_nats"].n)
}
_TEXTS = _metrics("unknown_text_rate", "unknown_word_rate", "repeated_4gram_rate", "mauve")
_TEXTS |= {"Samples": lambda row: str(row["repeated_4gram_rate"].n)}
_COSTS = _metrics(
    "seconds_per_sequence",
    "tokens_per_second",
    "flops_per_sequence",
    "denoiser_passes",
    "energy_passes",
    "peak_memory_bytes",
)


def tables_of(result: Result, rows: Sequence[Row]) -> dict[str, Table]:
    """All tables, by name; those of what was not measured have no groups."""
    sampled = [row for row in rows if row.get("entropy_nats")]
    in_units = [row for row in rows if "bound_direction" in row.notes]
    direction = {"Direction": lambda row: row.notes["bound_direction"]}
    compared = [row for row in rows if row.get("repeated_4gram_rate")]
    if held_out := result.get("held_out_text"):
        cell = {"name": "held-out text", "order": "", "num_steps": "", "num_samples": held_out["num_texts"]}
        compared = [row_of_flat({**held_out, **cell}), *compared]
    return {
        "bounds": _bounds(result, rows),
        "units": _by_cell(in_units, direction | _UNITS),
        "continuous": _continuous(result),
        "frontier": _frontier(result),
        "judged": _by_cell(sampled, _JUDGED),
        "texts": _by_cell(compared if held_out else [], _TEXTS),
        "ratios": _ratios(result),
        "costs": _by_cell(rows, _COSTS),
        "energies": _energies(result),
    }


def _by_cell(rows: Sequence[Row], columns: Mapping[str, Column]) -> Table:
    """A group for each order and number of passes."""
    orders = list(dict.fromkeys(row.order for row in rows))
    rows = sorted(rows, key=lambda row: (orders.index(row.order), row.num_steps))
    return table_of(rows, _SETTING | columns, num_shared=2)


def _bounds(result: Result, rows: Sequence[Row]) -> Table:
    """Bounds and gains; the lowest bound of each order and number of passes is marked."""
    gains = {(g["name"], g["order"], g["num_steps"]): g for g in result["gains"]}
    lowest: dict[tuple[str, int], float] = {}
    for row in rows:
        if bound := row.get("bound_nats_per_token"):
            lowest[row.cell] = min(bound.value, lowest.get(row.cell, math.inf))

    def marked(row: Row) -> Cell:
        bound = row.get("bound_nats_per_token")
        return cell_of(bound, 3, "best" if bound and bound.value == lowest[row.cell] else "")

    columns = {
        "Decided": _decided,
        "Bound, nats/token": marked,
        "Gain over base": "gain_nats_per_token",
        "Beyond control [95 %]": lambda row: _beyond(gains.get((row.name, *row.cell))),
    }
    return _by_cell(rows, columns)


def _decided(row: Row) -> Cell | str:
    """How tokens are decided, with all options that are not the usual ones."""
    o, parts = row.options, []
    size = o["group_size"]
    if o["energy"] is not None:
        if o["num_candidates"] is None:
            parts.append("exactly" if size in (None, 1) else f"rounds of {size}")
        else:
            parts += [f"k = {o['num_candidates']}", *([f"groups of {size}"] if size else [])]
            parts += [f"{o['num_particles']} particles"] if o["num_particles"] > 1 else []
            parts += ["whole sequences"] if o["scope"] == "sequence" else []
        parts += ["carry-over"] if o["carry_over"] else []
        low, high = o["window"]
        parts += [f"times {low:g} to {high:g}" if low < high else "left out"] if (low, high) != (0, 1) else []
        parts += [f"{o['inner_draws']} draws in the bound"] if o["inner_draws"] != 1 else []
    usual = {"temperature": 1, "top_p": 1, "top_k": None}
    parts += [f"{name.replace('_', '-')} {o[name]:g}" for name, value in usual.items() if o[name] != value]
    return ", ".join(parts) or Cell(DASH, kind="muted")


def _beyond(gain: Mapping[str, Any] | None) -> Cell:
    """Gain beyond the control; its ends are None if the rows cannot bound it."""
    if gain is None or gain["beyond"] == "base":
        return cell_of(None, 3)
    low, high = gain["low"], gain["high"]
    return cell_with_interval(gain, "muted" if low is None else "gain" if low > 0 else "worse" if high < 0 else "muted")


def _continuous(result: Result) -> Table:
    """The base in continuous time, and the published formula with energies; and what each number is."""
    measured = result.get("continuous") or {"nelbo": [], "published": []}
    records = [{**record, "name": "base"} for record in measured["nelbo"]]
    for published in measured["published"]:
        ends = ("with_lower", "with_upper") if published["num_candidates"] else ("with_lower",)  # else log Z is known
        records += [{**published[end], "name": published["name"]} for end in ends]
    rows = [
        row_of_flat({**record, "bound_nats_per_token": record["nats_per_token"], "bound_stderr": record["stderr"]})
        for record in records
    ]

    def direction(row: Row) -> Cell | str:
        is_bound = row.notes["direction"] != "estimate"
        return row.notes["direction"] if is_bound else Cell("no bound", kind="worse")

    columns = {
        "Model": lambda row: row.name,
        "Nats/token": "bound_nats_per_token",
        **_UNITS,
        "Rows": lambda row: str(row["bound_nats_per_token"].n),
        "Direction": direction,
        "Estimator": lambda row: row.notes["estimator"],
    }
    return table_of(rows, columns)


def _frontier(result: Result) -> Table:
    """Each point against the base's curve."""

    def difference(point: Row) -> Cell:
        value, stderr = (point.notes.get(name) for name in ("difference", "difference_stderr"))
        return cell_of(None if value is None or point.name == "base" else Estimate(value, stderr), 3)

    def verdict(point: Row) -> Cell:
        if point.name == "base":
            return Cell("the curve", kind="muted")
        kind = point.notes["verdict"]
        text = "not judged" if kind == "outside" else point.notes["said"].rpartition(": ")[2]
        return Cell(text, kind=kind if kind in ("gain", "worse") else "muted")

    columns = {
        "Sampler": lambda point: f"{point.name}, {point.num_steps} passes, {words(point.order)}",
        "T": lambda point: f"{point.options['temperature']:g}",
        **_metrics("entropy_nats", "judge_nats_per_token", "distinct_2"),
        "Against the curve": difference,
        "Verdict": verdict,
    }
    points = map(row_of_flat, result["frontier"])
    return table_of(points, columns, num_shared=1)


def _ratios(result: Result) -> Table:
    """Time at equal bound."""

    def share(r: Mapping[str, Any]) -> Cell:
        faster = r["high"] is not None and r["high"] < 1
        slower = r["num_unreached"] > 0 if r["low"] is None else r["low"] > 1
        kind = "gain" if faster else "worse" if slower else "muted"
        return cell_with_interval(r, kind, missing=math.inf if r["num_unreached"] else None)

    columns = {
        "Sampler": lambda r: f"{r['name']}, {words(r['order'])}",
        "Reaches the likelihood of": lambda r: f"{r['than']}, {words(r['than_order'])}, {r['than_steps']} passes",
        "Share of its time [95 %]": share,
    }
    return table_of(result["time_ratios"], columns)


def _energies(result: Result) -> Table:
    """Spread, effective sample size and bounds of log Z, at each step."""
    spreads = result.get("energy_spreads", [])
    if isinstance(result.get("energies"), list):  # their name in older versions
        spreads = result["energies"]
    columns = {
        "Sampler": lambda r: f"{r['name']}, {words(r['order'])}",
        "Step": lambda r: f"{r['step'] + 1} of {r['num_steps']}",
        "Spread, nats": lambda r: cell_of(Estimate(r["spread"]["value"]), 2),
        "Candidates": lambda r: str(r["num_candidates"]),
        "Effective candidates": lambda r: cell_of(Estimate(**r["ess"]), 1),
        "log Z, lower": lambda r: cell_of(Estimate(**r["log_z_lower"]), 2),
        "log Z, upper": lambda r: cell_of(Estimate(**r["log_z_upper"]), 2),
        "Trusted": lambda r: "1 by construction" if r["normalized"] else f"{r['trustworthy']:.0%}",
    }
    steps = [{**energy, **step} for energy in spreads for step in energy["steps"]]
    return table_of(steps, columns, num_shared=1)
