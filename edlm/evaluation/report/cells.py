"""A table as data: groups of rows of cells, every number with its error as text; templates draw it."""

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

from rich.filesize import decimal

from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.metrics import DASH, METRICS, format_estimate

LARGE = 10**6
Column = str | Callable[[Any], "Cell | str"]
Table = list[list[dict[str, "Cell | str"]]]  # groups of rows, cells by heading


class Cell(NamedTuple):
    """A number of a table.

    Attributes:
        text: Its value.
        error: Its standard error or interval, in small print.
        kind: "best", "gain", "worse", "muted", or nothing.
    """

    text: str
    error: str = ""
    kind: str = ""


def words(name: str) -> str:
    """A name in words: "left to right"."""
    return name.replace("_", " ")


def table_of(rows: Iterable[Any], columns: Mapping[str, Column], *, num_shared: int = 0) -> Table:
    """Rows with the same first cells form a group, which names them once; a column is a metric or a function.

    Columns that are empty throughout are left out.
    """
    groups: dict[tuple[Cell | str, ...], list[dict[str, Cell | str]]] = {}
    unnamed = dict.fromkeys([*columns][:num_shared], "")
    for row in rows:
        cells = {
            heading: cell_of(row.get(column), METRICS[column].digits) if isinstance(column, str) else column(row)
            for heading, column in columns.items()
        }
        group = groups.setdefault(tuple(cells[heading] for heading in unnamed), [])
        group.append(cells | unnamed if group else cells)
    empty = {heading for heading in columns if all(_is_empty(row[heading]) for row in chain(*groups.values()))}
    return [[{h: cell for h, cell in row.items() if h not in empty} for row in group] for group in groups.values()]


def _is_empty(cell: Cell | str) -> bool:
    return (cell if isinstance(cell, str) else cell.text) in ("", DASH)


def cell_of(estimate: Estimate | None, digits: int, kind: str = "") -> Cell:
    """An estimate, with a decimal prefix from a million on; a dash where it was not measured."""
    if estimate is not None and estimate.stderr is None and LARGE <= estimate.value < math.inf:
        return Cell(decimal(int(estimate.value), precision=2).removesuffix("B"))
    text, _, error = format_estimate(estimate, digits).replace("-", "−").partition(" ")
    return Cell(text, error, "muted" if text == DASH else kind)


def cell_with_interval(record: Mapping[str, Any], kind: str, missing: float | None = None) -> Cell:
    """A ``value`` from ``low`` to ``high``; ``missing`` where JSON has null."""
    value, low, high = (missing if record[name] is None else record[name] for name in ("value", "low", "high"))
    return cell_of(None if value is None else Estimate(value, low=low, high=high), 3, kind)
