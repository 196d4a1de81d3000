"""Plots of a report, as SVG in the colours of its page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edlm.evaluation.experiment.rows import Row
from edlm.evaluation.plots.drawing import COLOURS, INK, STYLES, Line, add_legend, draw_lines, drawing, dress
from edlm.evaluation.samples.frontier import FrontierPoint

_FEW = 7  # lines of the plot of energies
_NO_MARKER = [(dashes, None) for dashes, _ in STYLES]


def bounds_svg(rows: Sequence[Row]) -> str | None:
    """Bound against seconds, or against passes if a row was not timed; a line for each method and order."""
    timed = all(row.get("seconds_per_sequence") for row in rows)
    finite: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        bound = row.get("bound_nats_per_token")
        if bound is not None and math.isfinite(bound.value):
            finite.setdefault((row.name, row.order), []).append(row)
    lines = []
    for (name, order), of_line in finite.items():
        of_line = sorted(of_line, key=lambda row: row.num_steps)
        x = [row["seconds_per_sequence"].value if timed else row.num_steps for row in of_line]
        marks = [str(row.num_steps) for row in of_line] if name == "base" else ()
        lines.append(Line(name, order, x, [row["bound_nats_per_token"].value for row in of_line], None, marks))
    cost = "seconds per sequence" if timed else "denoiser passes"
    labels = (f"{cost} (log)", "bound, nats per token")
    return _svg(lines, [row.name for row in rows], lambda axes: dress(axes, *labels, log=10))


def frontier_svg(points: Sequence[FrontierPoint], names: Sequence[str]) -> str | None:
    """Judge loss against entropy, a curve for each method; the base's points are marked by their temperature.

    Args:
        points: Of one cell.
        names: All methods of the report, so that each has the same colour in all plots.
    """
    curves: dict[str, list[FrontierPoint]] = {}
    for point in sorted(points, key=lambda p: p.temperature):
        curves.setdefault(point.name, []).append(point)
    lines = []
    for name in dict.fromkeys(point.name for point in points):
        losses = [p.judge_nats_per_token for p in curves[name]]
        marks = [f"T {p.temperature:g}" for p in curves[name]] if name == "base" else ()
        x = [p.entropy_nats.value for p in curves[name]]
        lines.append(Line(name, "", x, [loss.value for loss in losses], [loss.stderr for loss in losses], marks))
    labels = ("unigram entropy of a sample, nats", "loss under the judge, nats per token")
    return _svg(lines, names, lambda axes: dress(axes, *labels))


def energies_svg(energies: Sequence[tuple[str, str, Any]], names: Sequence[str]) -> str | None:
    """Density of the energies about the mean of their decision, a line for each method and order.

    Args:
        energies: Name, order, and energies less their decision's mean.
        names: As for `frontier_svg`.
    """
    energies = [(name, order, np.asarray(centred)) for name, order, centred in energies if len(centred)][:_FEW]
    if not energies:
        return None
    reach = float(np.quantile(np.abs(np.concatenate([centred for *_, centred in energies])), 0.995)) or 1.0
    edges = np.linspace(-reach, reach, 41)
    middles = (edges[1:] + edges[:-1]) / 2
    lines = [Line(*of, middles, np.histogram(centred, edges, density=True)[0]) for *of, centred in energies]
    labels = ("energy less its decision's mean, nats", "density")
    return _svg(lines, names, lambda axes: dress(axes, *labels), _NO_MARKER)


def _svg(
    lines: Sequence[Line], names: Sequence[str], dressed: Callable[[Any], None], styles: Sequence[Any] = STYLES
) -> str | None:
    """None without lines; the base is drawn in ink, and the last order in solid lines."""
    if not lines:
        return None
    others = [name for name in dict.fromkeys(names) if name != "base"]
    colours = {"base": INK} | {name: COLOURS[1:][i % (len(COLOURS) - 1)] for i, name in enumerate(others)}
    orders = list(dict.fromkeys(line.order for line in lines))
    by_order = {order: styles[i % len(styles)] for i, order in enumerate(reversed(orders))}
    file = io.StringIO()
    with drawing(file, (5.2, 3.9), format="svg", transparent=True) as (figure, axes):
        draw_lines(axes, lines, colours, by_order)
        dressed(axes)
        add_legend(figure, axes, width=80)
    return file.getvalue()


def inline(svg: str, description: str) -> str:
    """The plot as a part of a page: in its colours, without ids that two plots could share."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r' id="[A-Za-z.]\w*_\d+"', "", svg).replace(INK, "currentColor")
    for i, colour in enumerate(COLOURS[1:], start=1):
        svg = svg.replace(colour.lower(), f"var(--line-{i})")
    size = re.search(r'viewBox="[^"]*"', svg)[0]
    return re.sub(r"<svg[^>]*>", f'<svg {size} role="img" aria-label="{description}">', svg, count=1)


def save(svg: str, path: Path) -> None:
    """The plot as a file, on white."""
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    path.write_text(re.sub(r"(<svg[^>]*>)", rf"\1{ground}", svg, count=1), encoding="utf-8")
