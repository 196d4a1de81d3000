"""Tables of a report, from its JSON; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.metrics import DASH, METRICS
from edlm.evaluation.experiment.rows import Row
from edlm.evaluation.report.cells import Cell, Table, cell, large, with_ends, words

Result = Mapping[str, Any]
Column = str | Callable[[Row], Cell | str]


def tables_of(result: Result, rows: Sequence[Row]) -> dict[str, Table]:
    """All tables, by name; those of what was not measured have no groups."""
    units = {
        "perplexity per token": "perplexity",
        "per word": "perplexity_per_word",
        "bits per character": "bits_per_char",
    }
    judged = {"judge, nats/token": "judge_nats_per_token", "entropy, nats": "entropy_nats", "distinct-2": "distinct_2"}
    samples = {"samples": lambda row: str(row["entropy_nats"].n)}
    sampled = [row for row in rows if row.get("entropy_nats")]
    direction = {"what it is": lambda row: row.notes["bound_direction"]}
    measured = [row for row in rows if "bound_direction" in row.notes]
    return {
        "bounds": _bounds(result, rows),
        "units": _by_cell("Bounds in other units", measured, direction | units, text=(0, 2, 3)),
        "continuous": _continuous(result, units),
        "frontier": _frontier(result),
        "judged": _by_cell("Judge, entropy and diversity", sampled, judged | samples),
        "texts": _texts(result, rows, samples),
        "ratios": _ratios(result),
        "costs": _by_cell("Cost of every setting", rows, _COSTS),
        "energies": _energies(result),
    }


def _value(row: Row, name: str) -> float | None:
    estimate = row.get(name)
    return None if estimate is None else estimate.value


_COSTS: dict[str, Column] = {
    "s/sequence": "seconds_per_sequence",
    "tokens/s": "tokens_per_second",
    "FLOP/sequence": lambda row: large(_value(row, "flops_per_sequence")),
    "denoiser": "denoiser_passes",
    "energy": "energy_passes",
    "memory": lambda row: large(_value(row, "peak_memory_bytes"), ("B", "kB", "MB", "GB")),
}


def _by_cell(label: str, rows: Sequence[Row], columns: Mapping[str, Column], **looks: tuple[int, ...]) -> Table:
    """A group for each order and number of passes, which its first row names; a column is a metric or a function."""
    orders = list(dict.fromkeys(row.order for row in rows))
    groups: dict[tuple[str, int], list[list[Cell | str]]] = {}
    for row in sorted(rows, key=lambda row: (orders.index(row.order), row.num_steps)):
        group = groups.setdefault(row.cell, [])
        first = ("", "") if group else (words(row.order), str(row.num_steps))
        group.append([*first, row.name, *_cells(row, columns)])
    return Table(label, ["order", "passes", "sampler", *columns], list(groups.values()), **looks)


def _cells(row: Row, columns: Mapping[str, Column]) -> list[Cell | str]:
    return [
        cell(row.get(column), METRICS[column].digits) if isinstance(column, str) else column(row)
        for column in columns.values()
    ]


def _row_of(record: Mapping[str, Any]) -> Row:
    """A row of the metrics that a record holds by their flat keys."""
    metrics = {
        metric.name: Estimate(**{field: record.get(key) for field, key in metric.names.items()})
        for metric in METRICS.values()
        if record.get(metric.name) is not None
    }
    return Row({}, metrics, record)


def _bounds(result: Result, rows: Sequence[Row]) -> Table:
    """Bounds and gains, by order and passes; the lowest bound of each is marked."""
    gains = {(g["name"], g["order"], g["num_steps"]): g for g in result["gains"]}
    lowest: dict[tuple[str, int], float] = {}
    for row in rows:
        if (value := _value(row, "bound_nats_per_token")) is not None:
            lowest[row.cell] = min(value, lowest.get(row.cell, math.inf))

    def bound(row: Row) -> Cell:
        is_lowest = _value(row, "bound_nats_per_token") == lowest.get(row.cell)
        return cell(row.get("bound_nats_per_token"), 3, "best" if is_lowest else "")

    columns = {
        "decided": _decided,
        "bound, nats/token": bound,
        "gain over base": "gain_nats_per_token",
        "beyond control [95 %]": lambda row: _beyond(gains.get((row.name, *row.cell))),
    }
    return _by_cell("Likelihood bounds", rows, columns, wrapped=(3,))


def _decided(row: Row) -> Cell | str:
    """How tokens are decided, with all options that are not the usual ones."""
    o, parts = row.options, []
    size = o["group_size"]
    if o["energy"] is not None:
        if o["num_candidates"] is None:
            parts.append("exactly" if size in (None, 1) else f"rounds of {size}")
        else:
            parts += [f"k = {o['num_candidates']}", *([f"groups of {size}"] if size else [])]
            parts += ["whole sequences"] if o["scope"] == "sequence" else []
        parts += ["carry-over"] if o["carry_over"] else []
        low, high = o["window"]
        parts += [f"times {low:g} to {high:g}"] if (low, high) != (0, 1) else []
        parts += [f"{o['inner_draws']} draws in the bound"] if o["inner_draws"] != 1 else []
    usual = {"temperature": 1, "top_p": 1, "top_k": None}
    parts += [f"{name.replace('_', '-')} {o[name]:g}" for name, value in usual.items() if o[name] != value]
    return ", ".join(parts) or Cell(DASH, kind="muted")


def _beyond(gain: Mapping[str, Any] | None) -> Cell:
    """Gain beyond the control; its ends are None if the rows cannot bound it."""
    if gain is None or gain["beyond"] == "base":
        return cell(None, 3)
    low, high = gain["low"], gain["high"]
    return with_ends(gain, 3, "muted" if low is None else "gain" if low > 0 else "worse" if high < 0 else "muted")


def _continuous(result: Result, units: Mapping[str, Column]) -> Table:
    """The base in continuous time, and the published formula with energies; and what each number is."""
    measured = result.get("continuous") or {"nelbo": [], "published": []}
    records = [("base", record) for record in measured["nelbo"]]
    for record in measured["published"]:
        ends = ("with_lower", "with_upper") if record["num_candidates"] else ("with_lower",)  # else log Z is known
        records += [(record["name"], record[end]) for end in ends]
    rows = []
    for name, record in records:
        is_bound = record["direction"] != "estimate"
        direction = record["direction"] if is_bound else Cell("no bound", kind="worse")
        nats = cell(Estimate(record["nats_per_token"], record["stderr"]), 3)
        numbers = _cells(_row_of(record), units)
        rows.append([name, nats, *numbers, str(record["n"]), direction, record["estimator"]])
    headings = ["model", "nats/token", *units, "rows", "what it is", "estimator"]
    return Table("Likelihoods in continuous time", headings, [rows] if rows else [], text=(6,), wrapped=(0, 7))


def _frontier(result: Result) -> Table:
    """Each point against the base's curve."""
    groups: dict[tuple[str, str, int], list[list[Cell | str]]] = {}
    for p in result["frontier"]:
        group = groups.setdefault((p["name"], p["order"], p["num_steps"]), [])
        verdict = "not judged" if p["verdict"] == "outside" else p["said"].rpartition(": ")[2]
        difference, is_base = None, p["name"] == "base"
        if p["difference"] is not None and not is_base:
            difference = Estimate(p["difference"], p["difference_stderr"])
        kind = p["verdict"] if p["verdict"] in ("gain", "worse") else "muted"
        group.append(
            [
                "" if group else f"{p['name']}, {p['num_steps']} passes, {words(p['order'])}",
                f"{p['temperature']:g}",
                cell(Estimate(p["entropy_nats"], p["entropy_stderr"]), 3),
                cell(Estimate(p["judge_nats_per_token"], p["judge_stderr"]), 3),
                cell(None if p["distinct_2"] is None else Estimate(p["distinct_2"]), 3),
                cell(difference, 3),
                Cell("the curve", kind="muted") if is_base else Cell(verdict, kind=kind),
            ]
        )
    headings = ["sampler", "T", "entropy, nats", "judge, nats/token", "distinct-2", "against the curve", "verdict"]
    return Table("Frontier of judge loss and entropy", headings, list(groups.values()), text=(0, 6))


def _texts(result: Result, rows: Sequence[Row], samples: Mapping[str, Column]) -> Table:
    """Proxies for the error rate, and MAUVE, of held-out text and of every setting's samples."""
    columns = {
        "with an unknown word": "unknown_text_rate",
        "unknown words": "unknown_word_rate",
        "repeated 4-grams": "repeated_4gram_rate",
        "MAUVE [95 %]": "mauve",
    }
    held_out = result.get("held_out_text")
    measured = [row for row in rows if held_out and row.get("repeated_4gram_rate")]
    table = _by_cell("Proxies for errors", measured, {**columns, **samples})
    if not measured:
        return table
    people = ["", "", "held-out text", *_cells(_row_of(held_out), columns), str(held_out["num_texts"])]
    return replace(table, groups=[[people], *table.groups])


def _ratios(result: Result) -> Table:
    """Time at equal bound."""
    rows = []
    for r in result["time_ratios"]:
        faster = r["high"] is not None and r["high"] < 1
        slower = r["num_unreached"] > 0 if r["low"] is None else r["low"] > 1
        kind = "gain" if faster else "worse" if slower else "muted"
        share = with_ends(r, 3, kind, "never" if r["num_unreached"] else DASH)
        than = f"{r['than']}, {words(r['than_order'])}, {r['than_steps']} passes"
        rows.append([f"{r['name']}, {words(r['order'])}", than, share])
    headings = ["sampler", "reaches the bound of", "share of its time [95 %]"]
    return Table("Time at equal bound", headings, [rows] if rows else [], text=(0, 1))


def _energies(result: Result) -> Table:
    """Spread, effective sample size and bounds of log Z, at each step."""
    spreads, groups = result.get("energy_spreads"), []
    if spreads is None:  # older versions have them as "energies"
        spreads = result["energies"] if isinstance(result.get("energies"), list) else []
    for energy in spreads:
        group: list[list[Cell | str]] = []
        for step in energy["steps"]:
            numbers = {name: Estimate(**step[name]) for name in ("ess", "log_z_lower", "log_z_upper")}
            ess = cell(numbers["ess"], 1)
            group.append(
                [
                    "" if group else f"{energy['name']}, {words(energy['order'])}",
                    f"{step['step'] + 1} of {energy['num_steps']}",
                    cell(Estimate(step["spread"]["value"]), 2),
                    ess._replace(error=f"{ess.error} of {step['num_candidates']}".strip()),
                    cell(numbers["log_z_lower"], 2),
                    cell(numbers["log_z_upper"], 2),
                    "1 by construction" if energy["normalized"] else f"{step['trustworthy']:.0%}",
                ]
            )
        groups.append(group)
    headings = ["energy", "step", "spread, nats", "effective candidates", "log Z, lower", "log Z, upper", "trusted"]
    return Table("Energies of candidates", headings, groups, text=(0,))
