"""Tables of rows: for the terminal, in Markdown, and as CSV; every cell is formatted by its metric."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence

from rich.table import Table

from edlm.evaluation.experiment.metrics import METRICS
from edlm.evaluation.experiment.rows import OPTIONS, Row, flat

_NOT_NUMBERS = ("seconds_of_batches", "examples")  # of several values each
_TERMINAL = ("bound_nats_per_token", "perplexity", "gain_nats_per_token", "seconds_per_sequence")
_MARKDOWN = {
    "bound": "bound_nats_per_token",
    "gain": "gain_nats_per_token",
    "s/sequence": "seconds_per_sequence",
    "energy passes": "energy_passes",
    "judge": "judge_nats_per_token",
    "entropy": "entropy_nats",
    "distinct-2": "distinct_2",
}


def candidates_of(row: Row) -> str:
    """How many candidates a decision weighs."""
    return "exact" if row.options["num_candidates"] is None else str(row.options["num_candidates"])


def groups_of(row: Row) -> str:
    """Tokens decided together."""
    return str(row.options["group_size"] or (1 if row.options["num_candidates"] is None else "step"))


_FIRST: dict[str, Callable[[Row], str]] = {
    "method": lambda row: row.name,
    "order": lambda row: row.order,
    "passes": lambda row: str(row.num_steps),
    "k": candidates_of,
    "groups": groups_of,
}


def as_table(rows: Iterable[Row]) -> Table:
    """For the terminal."""
    table = Table(title="likelihood bound of the sampler (upper bound of -log p; low = good)")
    for heading in (*_FIRST, "nats/token", "perplexity", "gain", "s/sequence"):
        table.add_column(heading, justify="left" if heading in ("method", "order") else "right")
    for row in rows:
        table.add_row(*_cells(row, _TERMINAL))
    return table


def as_markdown(rows: Iterable[Row]) -> str:
    """A line a setting; a dash where nothing was measured."""
    columns = [*_FIRST, *_MARKDOWN]
    lines = [columns, ["---"] * len(columns), *(_cells(row, _MARKDOWN.values()) for row in rows)]
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


def _cells(row: Row, metrics: Iterable[str]) -> list[str]:
    return [*(of(row) for of in _FIRST.values()), *(METRICS[name].format(row.get(name)) for name in metrics)]
