"""A row of results, one setting and the metrics that were measured of it; as JSON, and rows as tables and CSV."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.metrics import METRICS, Metric
from edlm.rules import MAX_COUNT, check, check_least, check_most
from edlm.sampler.options import SamplerOptions

# Options of files that were written before an option was.
DEFAULTS = {
    "num_candidates": 1,
    "num_particles": 1,
    "group_size": None,
    "scope": "step",
    "block_length": None,
    "schedule": "log_linear",
    "window": [0.0, 1.0],
    "weight_temperature": 1.0,
    "on_impossible": "raise",
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": None,
    "correct_proposal": False,
    "sampled_steps": None,
    "inner_draws": 1,
    "carry_over": False,
    "energy": None,
    "order_network": None,
}
_HINTS = {
    **{name: hint for name, hint in get_type_hints(SamplerOptions).items() if name in ("order", *DEFAULTS)},
    **{"name": str, "num_steps": int, "sampled_steps": int | None, "inner_draws": int, "carry_over": bool},
    "energy": str | None,
    "order_network": str | None,
}
OPTIONS = ("name", "order", "num_steps", *DEFAULTS)
_KEYS_OF_METRICS = {key for metric in METRICS.values() for key in metric.names.values()}


@dataclass(frozen=True)
class Row:
    """One setting with its metrics.

    Attributes:
        options: JSON values that say what was run, by the flat keys of ``results.json``: ``name``, ``order``,
            ``num_steps``, ``num_candidates``, ..., ``energy`` and ``order_network`` (fingerprints; None without).
        metrics: Estimates by the names of `METRICS`; what was not measured is absent.
        notes: JSON values that belong to the metrics: ``seconds_of_batches``, ``examples``, ``judge``, ...
    """

    options: Mapping[str, Any]
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.options["name"]

    @property
    def order(self) -> str:
        """Reveal order, as the table names it, see `options_of_order`."""
        return self.options["order"]

    @property
    def num_steps(self) -> int:
        """Denoiser passes of a block, or the most of them where the marginals say how many."""
        return self.options["num_steps"]

    @property
    def passes(self) -> float:
        """Denoiser passes in which tokens of a sequence are written, in the mean; num_steps where not counted."""
        counted = self.get("passes_per_sequence")
        return self.num_steps if counted is None else counted.value

    @property
    def cell(self) -> tuple[str, int]:
        """Order and number of steps, in which methods are compared with the base."""
        return self.order, self.num_steps

    @property
    def place(self) -> dict[str, Any]:
        """Where it stands in the table, JSON values: what records that follow from it begin with."""
        return {"name": self.name, "order": self.order, "num_steps": self.num_steps, "passes": self.passes}

    @property
    def key(self) -> str:
        """Key of its rows' nats in ``results.rows.safetensors``."""
        return f"{self.name}, {self.order}, {self.num_steps} steps"

    @property
    def is_base(self) -> bool:
        """Whether it is the denoiser alone: no energy, and tokens drawn from its own marginals."""
        return self.options["energy"] is None and all(
            self.options[name] == DEFAULTS[name] for name in ("temperature", "top_p", "top_k")
        )

    def __getitem__(self, metric: str) -> Estimate:
        return self.metrics[metric]

    def get(self, metric: str) -> Estimate | None:
        """The estimate of a metric, or None where it was not measured."""
        return self.metrics.get(metric)


def flat(row: Row) -> dict[str, Any]:
    """JSON values by the keys of ``results.json``: all options, and what was measured.

    An infinite value and a NaN error are None, since JSON has neither.
    """
    record = dict(row.options)
    for name, estimate in row.metrics.items():
        values = {key: getattr(estimate, of) for of, key in METRICS[name].names.items()}
        record |= {key: _finite(value) for key, value in values.items() if value is not None}
    return record | dict(row.notes)


def row_of_flat(record: Mapping[str, Any]) -> Row:
    """The row that `flat` wrote, or that an older version did.

    Older files have a None for each metric that was not measured, lack options that came later, and hold the settings
    of the energy next to the fingerprint of its weights.
    """
    is_old = "schedule" not in record
    options = {name: record.get(name, DEFAULTS.get(name)) for name in OPTIONS}
    if is_old and options["energy"] is not None:
        options["energy"], _, settings = options["energy"].partition(" ")
        options["carry_over"] = '"carry_over": true' in settings
    metrics = {name: _estimate_of(record, metric) for name, metric in METRICS.items() if _has(record, metric, is_old)}
    notes = {
        name: value
        for name, value in record.items()
        if name not in OPTIONS and name not in _KEYS_OF_METRICS and not (is_old and value is None)
    }
    return Row(options, metrics, notes)


def check_options_of(row: Row) -> None:
    """Raise ValueError for an option that is not what its hint says, as in a file that is damaged."""
    for name, hint in _HINTS.items():
        check(name, row.options[name], hint)
    counts = {name: row.options[name] for name in ("num_steps", "group_size", "sampled_steps", "inner_draws")}
    check_least(1, **counts)
    check_most(MAX_COUNT, **counts)


def _has(record: Mapping[str, Any], metric: Metric, is_old: bool) -> bool:
    always = metric.name in ("bound_nats_per_token", "perplexity")  # None where infinite, in older files too
    return metric.name in record and (record[metric.name] is not None or always or not is_old)


def _estimate_of(record: Mapping[str, Any], metric: Metric) -> Estimate:
    values = {field: record.get(key) for field, key in metric.names.items()}
    if values["value"] is None:
        values["value"] = -math.inf if metric.direction == "high" else math.inf
    if metric.names.get("stderr") in record and values["stderr"] is None:
        values["stderr"] = math.nan
    return Estimate(**values)


def _finite(value: float | None) -> float | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


_NOT_NUMBERS = ("seconds_of_batches", "examples")  # of several values each
Columns = Mapping[str, Callable[[Row], str]]


def _metric(name: str) -> Callable[[Row], str]:
    return lambda row: METRICS[name].format(row.get(name))


def _candidates(row: Row) -> str:
    return "exact" if row.options["num_candidates"] is None else str(row.options["num_candidates"])


def _groups(row: Row) -> str:
    """Tokens decided together."""
    return str(row.options["group_size"] or (1 if row.options["num_candidates"] is None else "step"))


def passes_text(row: Row) -> str:
    """Its `passes`, with their standard error where they vary by sequence."""
    counted = row.get("passes_per_sequence")
    if counted is None:
        return str(row.num_steps)
    return _metric("passes_per_sequence")(row) if counted.stderr and counted.stderr > 0 else f"{counted.value:g}"


_SETTING: Columns = {
    "method": lambda row: row.name,
    "order": lambda row: row.order,
    "passes": passes_text,
    "k": _candidates,
    "groups": _groups,
}
TERMINAL: Columns = _SETTING | {
    "nats/token": _metric("bound_nats_per_token"),
    "perplexity": _metric("perplexity"),
    "gain": _metric("gain_nats_per_token"),
    "s/sequence": _metric("seconds_per_sequence"),
}
MARKDOWN: Columns = _SETTING | {
    "bound": _metric("bound_nats_per_token"),
    "gain": _metric("gain_nats_per_token"),
    "s/sequence": _metric("seconds_per_sequence"),
    "energy passes": _metric("energy_passes"),
    "judge": _metric("judge_nats_per_token"),
    "entropy": _metric("entropy_nats"),
    "distinct-2": _metric("distinct_2"),
}


def as_markdown(rows: Iterable[Row]) -> str:
    """A line for each setting; a dash where nothing was measured."""
    return markdown_table(MARKDOWN, rows)


def markdown_table(columns: Mapping[str, Callable[[Any], str]], rows: Iterable[Any]) -> str:
    """A line for each row; a column is its heading and the function that formats a row's cell."""
    lines = [[*columns], ["---"] * len(columns), *([cell(row) for cell in columns.values()] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(rows: Sequence[Row]) -> str:
    """All numbers of each setting, as the JSON file has them; empty where it has none."""
    records = [flat(row) for row in rows]
    keys = dict.fromkeys([*OPTIONS, *(key for metric in METRICS.values() for key in metric.names.values())])
    keys |= dict.fromkeys(key for record in records for key in record)
    measured = [key for key in keys if key not in _NOT_NUMBERS and any(key in record for record in records)]
    file = io.StringIO()
    writer = csv.DictWriter(file, measured, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in record.items()} for record in records)
    return file.getvalue()
