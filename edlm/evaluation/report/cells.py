"""Cells of a report's tables: every number with its error, as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.metrics import DASH, format_estimate


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


@dataclass(frozen=True)
class Table:
    """Rows in groups; the template puts a thin rule between groups.

    Attributes:
        label: Name for a screen reader.
        headings: Of the columns.
        groups: Rows of cells.
        text: Columns that are words, aligned left.
        wrapped: Columns whose words may take several lines.
    """

    label: str
    headings: Sequence[str]
    groups: Sequence[Sequence[Sequence[Cell | str]]]
    text: tuple[int, ...] = (0, 2)
    wrapped: tuple[int, ...] = ()


def cell(estimate: Estimate | None, digits: int, kind: str = "") -> Cell:
    """An estimate in a table; a dash where it was not measured.

    Example:
        >>> cell(Estimate(-0.5, 0.125), 2), cell(None, 2)
        (Cell(text='−0.50', error='± 0.12', kind=''), Cell(text='–', error='', kind='muted'))
    """
    text, _, error = format_estimate(estimate, digits).replace("-", "−").partition(" ")
    return Cell(text, error, "muted" if text == DASH else kind)


def large(value: float | None, units: Sequence[str] = ("", "k", "M", "G", "T")) -> Cell:
    """Three digits and a unit.

    Example:
        >>> [large(value).text for value in (950, 1234.0, 3.21e13)]
        ['950', '1.23\u202fk', '32.1\u202fT']
    """
    if value is None:
        return cell(None, 0)
    power = min(len(units) - 1, int(math.log10(value) // 3)) if value >= 1 else 0
    scaled = value / 1000**power
    return Cell(f"{scaled:.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f}\u202f{units[power]}".rstrip("\u202f"))


def words(name: str) -> str:
    """A name in words: "left to right"."""
    return name.replace("_", " ")


def with_ends(record: Mapping[str, Any], digits: int, kind: str = "", missing: str = DASH) -> Cell:
    """The ``value`` of a record with its interval ``low``, ``high``; ``missing`` where JSON has null."""
    value, low, high = (
        missing if record[name] is None else cell(Estimate(record[name]), digits).text
        for name in ("value", "low", "high")
    )
    return Cell(value, f"[{low}, {high}]", kind)
