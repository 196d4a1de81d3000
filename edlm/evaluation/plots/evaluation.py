"""Plots of an evaluation: bounds and sequence errors as files, those of a report as SVG in the colours of its page."""

import io
import math
import re
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from edlm.evaluation.experiment.orders import line_of_order
from edlm.evaluation.experiment.rows import Row
from edlm.evaluation.plots.drawing import COLOURS, INK, STYLES, Line, draw_lines, drawing, dress, plot
from edlm.evaluation.samples.frontier import FrontierPoint
from edlm.files import write_atomically

_FEW = 7  # lines of the plot of energies
_NO_MARKER = [(dashes, None) for dashes, _ in STYLES]
# Viridis at even steps, dark to light: longer sequences are darker.
_LENGTHS = ("#440154", "#31688e", "#35b779", "#b5a51f", "#d98c2b", "#c2452d")


def plot_bounds(rows: Sequence[Row], path: str | Path, *, title: str) -> None:
    """Plot the bound (nats per token) against seconds per sequence, or against passes if a row was not timed.

    Each setting is a marker, with its number of denoiser passes and one standard error over rows as its bar; a method
    has one colour, a reveal order one line style. Settings whose bound is infinite are left out.

    Args:
        rows: In the order of the legend.
        path: Where to, ending in ``.png`` or ``.svg``.
        title: Above the axes.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: no rows, more methods (7) or orders (6) than there are styles, or another suffix.

    Note:
        A bar describes one setting alone: differences between settings of the same rows are known far better.
    """
    lines, cost = _bound_lines(rows)
    labels = {"xlabel": f"{cost} (log scale; low = good)", "ylabel": "likelihood bound, nats per token (low = good)"}
    plot(path, lines, log=10, title=title, **labels)


def bounds_svg(rows: Sequence[Row]) -> str | None:
    """The same for a report, without bars."""
    lines, cost = _bound_lines(rows)
    lines = [line._replace(errors=None) for line in lines]
    labels = {"xlabel": f"{cost} (log)", "ylabel": "−log p, nats per token"}
    return _svg(lines, [row.name for row in rows], log=10, **labels)


def _bound_lines(rows: Sequence[Row]) -> tuple[list[Line], str]:
    """A line for each method and order with all its thresholds, and the cost over which they are drawn."""
    timed = all(row.get("seconds_per_sequence") for row in rows)
    finite = [row for row in rows if (bound := row.get("bound_nats_per_token")) and math.isfinite(bound.value)]
    lines = []
    named = [(row.name, line_of_order(row.order)) for row in finite]
    for line in dict.fromkeys(named):
        of_line = sorted((row for row, name in zip(finite, named, strict=True) if name == line), key=lambda r: r.passes)
        x = [row["seconds_per_sequence"].value if timed else row.passes for row in of_line]
        bounds, errors, *_ = zip(*(row["bound_nats_per_token"] for row in of_line), strict=True)
        lines.append(Line(*line, x, bounds, errors, [f"{row.passes:.3g}" for row in of_line]))
    return lines, "seconds per sequence" if timed else "denoiser passes"


def frontier_svg(points: Sequence[FrontierPoint], names: Sequence[str]) -> str | None:
    """Judge loss against entropy, a curve for each method; the base's points are marked by their temperature.

    Args:
        points: Of one cell.
        names: All methods of the report, so that each has the same colour in all plots.
    """
    lines = []
    for name in dict.fromkeys(point.name for point in points):
        curve = sorted((point for point in points if point.name == name), key=lambda point: point.temperature)
        losses, errors, *_ = zip(*(point.judge_nats_per_token for point in curve), strict=True)
        marks = [f"T {point.temperature:g}" for point in curve] if name == "base" else ()
        lines.append(Line(name, "", [point.entropy_nats.value for point in curve], losses, errors, marks))
    labels = {"xlabel": "unigram entropy of a sample, nats", "ylabel": "loss under the judge, nats per token"}
    return _svg(lines, names, **labels)


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
    labels = {"xlabel": "energy less its decision's mean, nats", "ylabel": "density"}
    return _svg(lines, names, _NO_MARKER, **labels)


def _svg(lines: Sequence[Line], names: Sequence[str], styles: Sequence[Any] = STYLES, **options: Any) -> str | None:
    """None without lines; the base is drawn in ink, and the last order in solid lines."""
    if not lines:
        return None
    others = [name for name in dict.fromkeys(names) if name != "base"]
    by_name = {"base": INK} | dict(zip(others, cycle(COLOURS[1:]), strict=False))
    colours = [by_name[name] for name in dict.fromkeys(line.name for line in lines)]
    orders = dict.fromkeys(line.order for line in lines)
    by_order = [style for _, style in zip(orders, cycle(styles), strict=False)][::-1]
    file = io.StringIO()
    plot(file, lines, colours, by_order, size=(5.2, 3.9), **options)
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
    write_atomically(path, re.sub(r"(<svg[^>]*>)", rf"\1{ground}", svg, count=1))


def plot_sequence_errors(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Plot a column for each experiment; above the error rate, below the divergence per token.

    Colour is the length, line style the way of deciding; the bars are 95 % intervals above and standard errors below.
    Where no divergence was measured, the axes below stay empty.

    Args:
        rows: Of `sequence_error_table`, each with its ``experiment``.
        path: Where to, ending in ``.png`` or ``.svg``.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: no rows, another suffix, or more lengths or ways (6) in an experiment than there are styles.
    """
    if not rows:
        raise ValueError("a plot needs rows, got none")
    names = list(dict.fromkeys(row["experiment"] for row in rows))
    with drawing(path, (4.2 * len(names), 9), rows=2, columns=len(names)) as (_, axes):
        for name, (above, below) in zip(names, np.reshape(axes, (2, -1)).T, strict=True):
            _draw_errors([r for r in rows if r["experiment"] == name and r["num_steps"] is not None], above, below)
            above.set_title(name, fontsize=10)
            if name == names[0]:
                above.set_ylabel("wrong sequences (low = good; data: 0.01)")
                below.set_ylabel("bound of KL(truth || sampler), nats per token")


def _draw_errors(rows: Sequence[dict[str, Any]], above: Any, below: Any) -> None:
    """Both axes of one experiment."""
    lengths, ways = (list(dict.fromkeys(row[key] for row in rows)) for key in ("length", "name"))
    rates, divergences = [], []
    for length in reversed(lengths):
        for way in ways:
            line = [row for row in rows if (row["length"], row["name"]) == (length, way)]
            rate, low, high = (np.array([row[f"error_{end}"] for row in line]) for end in ("rate", "low", "high"))
            errors = np.maximum(0, [rate - low, high - rate])
            rates.append(Line(str(length), way, [row["num_steps"] for row in line], rate, errors))
            line = [row for row in line if row["kl_bound_nats_per_token"] is not None]
            columns = ("num_steps", "kl_bound_nats_per_token", "kl_bound_stderr")
            divergences.append(Line(str(length), way, *([row[column] for row in line] for column in columns)))
    for axes, lines, level in ((above, rates, 0.01), (below, divergences, 0.0)):
        draw_lines(axes, lines, _LENGTHS, STYLES)
        axes.axhline(level, color="0.6", linewidth=0.8)
        dress(axes, log=2)
    above.set_ylim(-0.03, 1.03)
    below.set_xlabel("denoiser passes")
    legend = {"title": "length, decided by", "loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
    below.legend(fontsize=7.5, frameon=False, **legend)
