"""Small pieces of a page: numbers with errors, and tables that scroll by themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

DASH = '<span class="muted">–</span>'


def number(value: float | None, digits: int) -> str:
    """A number, or a dash; JSON has no infinities, so those of a file are dashes too."""
    if value is None or math.isnan(value):
        return DASH
    return f"{value:.{digits}f}".replace("-", "−").replace("inf", "∞")


def with_error(value: float | None, error: float | None, digits: int) -> str:
    """A number, and its standard error in small print."""
    known = error is not None and not math.isnan(error) and value is not None
    return number(value, digits) + (f' <span class="error">± {error:.{digits}f}</span>' if known else "")


def large(value: float | None, units: Sequence[str] = ("", "k", "M", "G", "T")) -> str:
    """Three digits and a unit."""
    if value is None:
        return DASH
    power = min(len(units) - 1, int(math.log10(value) // 3)) if value >= 1 else 0
    scaled = value / 1000**power
    digits = 0 if scaled >= 100 else 1 if scaled >= 10 else 2
    return f"{scaled:.{digits}f}&#8239;{units[power]}".removesuffix("&#8239;")


def table(
    headings: Sequence[str],
    groups: Iterable[Sequence[Sequence[str]]],
    *,
    text: Sequence[int] = (0,),
    wrapped: Sequence[int] = (),
    label: str,
) -> str:
    """A table in a container of its own, which scrolls where the page is narrow.

    Args:
        headings: Of the columns.
        groups: Rows of cells that are HTML already; a thin rule between groups.
        text: Columns that are words, aligned left.
        wrapped: Those of them whose words may take several lines.
        label: What a screen reader calls it.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        looks = ("wrapped" if i in wrapped else "text" if i in text else "" for i in range(len(cells)))
        kinds = (f'{tag} class="{look}"' if look else tag for look in looks)
        return "<tr>" + "".join(f"<{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)) + "</tr>"

    bodies = "".join(f"<tbody>{''.join(line(row, 'td') for row in rows)}</tbody>" for rows in groups)
    head = f"<thead>{line([escape(heading) for heading in headings], 'th')}</thead>"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table>{head}{bodies}</table></div>"
    )


def listed(items: Iterable[str], kind: str = "") -> str:
    """A list of sentences that are HTML already."""
    return f'<ul class="{kind}">{"".join(f"<li>{item}</li>" for item in items)}</ul>'


def figure(svg: str | None, caption: str, name: str) -> str:
    """An inline picture with its caption; nothing where there is none."""
    if svg is None:
        return ""
    return (
        f'<figure data-plot="{escape(name)}"><div class="plot">{svg}</div><figcaption>{caption}</figcaption></figure>'
    )
