"""Pictures of a report: lines with their names beside them, in ink that follows the page's."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edlm.evaluation.experiment.rows import Row
from edlm.evaluation.plots.table import COLOURS, drawing
from edlm.evaluation.samples.frontier import FrontierPoint

INK = "#1b1b19"  # of text, axes and the base; on a page, the page's own
_FEW = 7  # curves of a picture
_STYLES = ("-", (0, (1, 1.5)), (0, (4, 2)), (0, (6, 2, 1, 2)))


def bounds_svg(measured: Sequence[Row]) -> str | None:
    """Bound against seconds, or against passes where nothing was timed; a line a method and order."""
    timed = all(m.get("seconds_per_sequence") for m in measured)
    lines: dict[tuple[str, str], list[Row]] = {}
    for m in (m for m in measured if m.get("bound_nats_per_token") and math.isfinite(m["bound_nats_per_token"].value)):
        lines.setdefault((m.name, m.order), []).append(m)
    if not lines:
        return None
    colours = _colours([name for name, _ in lines])
    orders = list(dict.fromkeys(order for _, order in lines))
    styles = {order: _STYLES[i % len(_STYLES)] for i, order in enumerate(reversed(orders))}

    def draw(figure: Any, axes: Any) -> None:
        ends = []
        for (name, order), ms in lines.items():
            ms = sorted(ms, key=lambda m: m.num_steps)
            x = [m["seconds_per_sequence"].value if timed else m.num_steps for m in ms]
            y = [m["bound_nats_per_token"].value for m in ms]
            axes.plot(x, y, color=colours[name], linestyle=styles[order], marker="o", markersize=3.2, linewidth=1.5)
            ends.append((x[-1], y[-1], name if order == orders[-1] else f"{name}, {order}", colours[name]))
            if name == "base":
                for m, *at in zip(ms, x, y, strict=True):
                    axes.annotate(str(m.num_steps), at, (0, 6), **_SMALL)
        cost = "seconds per sequence" if timed else "denoiser passes"
        _axes(axes, f"{cost} (log)", "bound, nats per token", log=True)
        _name_lines(figure, axes, ends)

    return _svg(draw)


def frontier_svg(points: Sequence[FrontierPoint], names: Sequence[str]) -> str | None:
    """Judge loss against entropy, a curve a method, with the base's temperatures beside its points.

    Args:
        points: Of one cell.
        names: Of all methods of the report, so that each has its colour in all pictures.
    """
    if not points:
        return None
    curves: dict[str, list[FrontierPoint]] = {}
    for point in points:
        curves.setdefault(point.name, []).append(point)
    colours = _colours(names)

    def draw(figure: Any, axes: Any) -> None:
        ends = []
        for name, curve in curves.items():
            curve = sorted(curve, key=lambda p: p.temperature)
            x = [p.entropy_nats.value for p in curve]
            y = [p.judge_nats_per_token.value for p in curve]
            errors = [p.judge_nats_per_token.stderr for p in curve]
            how = {"color": colours[name], "linewidth": 2.2 if name == "base" else 1.4, "elinewidth": 0.8, "capsize": 0}
            axes.errorbar(x, y, errors, marker="o", markersize=4 if name == "base" else 3.2, **how)
            if name == "base":
                for p, *at in zip(curve, x, y, strict=True):
                    axes.annotate(f"T {p.temperature:g}", at, (6, -9), **{**_SMALL, "ha": "left"})
            ends.append((x[-1], y[-1], name, colours[name]))
        axes.margins(x=0.08)
        _axes(axes, "unigram entropy of a sample, nats", "loss under the judge, nats per token")
        _name_lines(figure, axes, ends)

    return _svg(draw)


def energies_svg(looks: Sequence[tuple[str, str, Any]], names: Sequence[str]) -> str | None:
    """How energies lie about the mean of their decision, a line a method and order; ``names`` as for `frontier_svg`.

    Args:
        looks: Name, order and energies less their decision's mean.
        names: Of all methods.
    """
    looks = [look for look in looks if len(look[2])][:_FEW]
    if not looks:
        return None
    colours, orders = _colours(names), list(dict.fromkeys(order for _, order, _ in reversed(looks)))
    reach = float(np.quantile(np.abs(np.concatenate([centred for _, _, centred in looks])), 0.995)) or 1.0
    edges = np.linspace(-reach, reach, 41)

    def draw(figure: Any, axes: Any) -> None:
        middles, ends = (edges[1:] + edges[:-1]) / 2, []
        for method, order, centred in looks:
            density, _ = np.histogram(centred, edges, density=True)
            colour, style = colours[method], _STYLES[orders.index(order) % len(_STYLES)]
            axes.plot(middles, density, color=colour, linestyle=style, linewidth=1.4)
            peak = int(density.argmax())
            name = method if order == orders[0] else f"{method}, {order}"
            ends.append((middles[peak], density[peak], name, colour))
        _axes(axes, "energy less its decision's mean, nats", "density")
        _name_lines(figure, axes, ends)

    return _svg(draw)


def inline(svg: str, described: str) -> str:
    """The picture as a part of a page: in its ink and colours, without names that two pictures could share."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r' id="[A-Za-z.]\w*_\d+"', "", svg).replace(INK, "currentColor")
    for i, colour in enumerate(COLOURS[1:], start=1):
        svg = svg.replace(colour.lower(), f"var(--line-{i})")
    size = re.search(r'viewBox="[^"]*"', svg)[0]
    return re.sub(r"<svg[^>]*>", f'<svg {size} role="img" aria-label="{described}">', svg, count=1)


def save(svg: str, path: Path) -> None:
    """The picture as a file, on white."""
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    path.write_text(re.sub(r"(<svg[^>]*>)", rf"\1{ground}", svg, count=1), encoding="utf-8")


_SMALL = {"textcoords": "offset points", "fontsize": 8, "ha": "center", "color": INK}


def _svg(draw: Callable[[Any, Any], None]) -> str:
    file = io.StringIO()
    ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    with drawing((5.2, 3.6), {**ink, "font.size": 9.5}) as (figure, axes):
        draw(figure, axes)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def _colours(names: Sequence[str]) -> dict[str, str]:
    """Ink for the base; the others' in the order in which they come."""
    others = [name for name in dict.fromkeys(names) if name != "base"]
    return {"base": INK} | {name: COLOURS[1:][i % (len(COLOURS) - 1)] for i, name in enumerate(others)}


def _axes(axes: Any, x: str, y: str, *, log: bool = False) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    if log:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 6 * low else MaxNLocator(4))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _name_lines(figure: Any, axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Each line's name on the right of the axes, at its end's height or as near as the others allow."""
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    heights = np.array([(y - low) / (high - low) for _, y, _, _ in ends])
    gap, order = 0.075, np.argsort(heights)
    placed = heights[order].clip(0.02, 0.98)
    for _ in range(200):  # push neighbours apart, and back into the axes
        for i in range(1, len(placed)):
            if (short := gap - (placed[i] - placed[i - 1])) > 0:
                placed[i - 1 : i + 1] += (-short / 2, short / 2)
        placed = placed + max(0.0, 0.0 - placed.min()) - max(0.0, placed.max() - 1.0)
    for at, i in zip(placed, order, strict=True):
        x, y, name, colour = ends[i]
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 1, "shrinkB": 3}
        where = {"xycoords": "data", "textcoords": "axes fraction", "va": "center", "ha": "left", "fontsize": 8.5}
        axes.annotate(name, (x, y), (1.03, at), color=colour, arrowprops=line, annotation_clip=False, **where)
