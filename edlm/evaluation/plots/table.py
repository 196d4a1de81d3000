"""Pictures: bound against time, one line a sampler; and validation losses of training runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edlm.evaluation.likelihood.speedup import Curve

# Okabe and Ito 2008, for readers who are colour-blind; without yellow, which is too pale for a line.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# Line and marker.
_STYLES = (
    ("-", "o"),
    ((0, (5, 2)), "s"),
    ((0, (1, 1.5)), "^"),
    ((0, (5, 2, 1, 2)), "D"),
    ((0, (9, 2)), "v"),
    ((0, (3, 1, 1, 1, 1, 1)), "P"),
)
_LEGEND_WIDTH, _HANDLE_WIDTH = 115, 10  # characters of 9 points

# Where a number may stand beside its marker, the nicest first, then farther out: in half sizes of its box.
_NEAR = np.array([(1, 1), (-1, -1), (1, -1), (-1, 1), (0, 1.4), (0, -1.4), (1.3, 0), (-1.3, 0)])
_DIRECTIONS = np.concatenate([_NEAR, 1.8 * _NEAR])
_RELUCTANCE = np.repeat([0, 5], len(_NEAR))  # to stand far off is as bad as to cover this many points
_BOX = np.array([(x, y) for x in (-0.8, 0.0, 0.8) for y in (-0.8, 0.0, 0.8)])  # points that stand for a box


def plot_curves(curves: Sequence[Curve], path: str | Path, *, title: str) -> None:
    """Write a picture of the bound (nats per token) against seconds per sequence (log scale).

    Each setting is a marker, with the number of denoiser passes beside it and one standard error over rows as its
    bar; a method has one colour, a reveal order one line style. The same curves give the same bytes of svg.

    Args:
        curves: What is drawn, in the order of the legend.
        path: Where to, ending in ``.png`` or ``.svg``; 9 inches wide, for a width of 900 pixels.
        title: Above the axes.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: no curves, two of one name and order, more methods (7) or orders (6) than there are styles, or
            another suffix.

    Note:
        A bar is of one curve alone: between curves of the same rows, differences are known far better than bars say.
    """
    lines = [(curve.name, curve.order) for curve in curves]
    if len(set(lines)) < len(lines):
        raise ValueError(f"each line must have a name and an order of its own, got {lines}")
    colours = _assign("methods", [curve.name for curve in curves], COLOURS)
    styles = _assign("orders", [curve.order for curve in curves], _STYLES)
    curves = [found for curve in curves if (found := _finite(curve)).num_steps]
    with _picture(path) as (figure, axes):
        for curve in curves:
            _draw(axes, curve, colours[curve.name], *styles[curve.order])
        _label(axes, title)
        _add_legend(figure, axes)
        _annotate(figure, axes, curves, colours)


def plot_logs(logs: Sequence[str | Path], path: str | Path) -> None:
    """Write a picture of validation losses over updates, a line for each run.

    Args:
        logs: ``log.jsonl`` files of training runs; a line is called after its file.
        path: Where to, ending in ``.png`` or ``.svg``.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: a log without validation, no logs or too many (7), or another suffix.
    """
    names = [Path(log).stem for log in logs]
    colours = _assign("logs", names, COLOURS)
    with _picture(path) as (figure, axes):
        for name, log in zip(names, logs, strict=True):
            lines = [json.loads(line) for line in Path(log).read_text().splitlines()]
            points = [(line["step"], line["loss"]) for line in lines if line["split"] == "valid"]
            if not points:
                raise ValueError(f"a log must hold validation losses, got none in {log}")
            axes.plot(*zip(*points, strict=True), label=name, color=colours[name], marker="o", markersize=3)
        axes.set_title("validation loss: the same rows and noise at each point of a run")
        axes.set_xlabel("updates")
        axes.set_ylabel("loss, nats per token (low = good)")
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        _add_legend(figure, axes)


@contextmanager
def _picture(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """Figure and axes, saved when the block ends; the same content gives the same bytes of svg."""
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"a picture's path must end in .png or .svg, got {path.name!r}")
    with drawing((9, 6)) as (figure, axes):
        yield figure, axes
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


@contextmanager
def drawing(size: tuple[float, float], settings: dict[str, Any] | None = None) -> Iterator[tuple[Any, Any]]:
    """Figure and axes of ``size`` inches; matplotlib's state is left as it was.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        import matplotlib
        import matplotlib.style
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('plots need matplotlib: pip install "edlm[plots]"', name=error.name) from error

    # The user's own style neither leaks in nor changes; text stays text, so that an svg can be searched.
    fixed = {"svg.hashsalt": "edlm", "svg.fonttype": "none"}
    with matplotlib.style.context("default"), matplotlib.rc_context({**fixed, **(settings or {})}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.subplots()


def _assign(what: str, keys: Sequence[str], styles: Sequence[Any]) -> dict[str, Any]:
    """A style for each distinct key, in the order in which they come."""
    distinct = list(dict.fromkeys(keys))
    if not 1 <= len(distinct) <= len(styles):
        raise ValueError(f"a plot needs 1 to {len(styles)} {what} to tell them apart, got {len(distinct)}")
    return dict(zip(distinct, styles, strict=False))


def _finite(curve: Curve) -> Curve:
    """Without settings whose bound is infinite, for which there is no place."""
    there = curve.bounds.isfinite()
    steps = tuple(number for number, is_there in zip(curve.num_steps, there.tolist(), strict=True) if is_there)
    return replace(curve, num_steps=steps, nats=curve.nats[there], seconds=curve.seconds[there])


def _draw(axes: Any, curve: Curve, colour: str, line: Any, marker: str) -> None:
    """One curve: line, markers and bars."""
    axes.errorbar(
        curve.times.tolist(),
        curve.bounds.tolist(),
        yerr=curve.stderrs.tolist(),
        label=f"{curve.name}, {curve.order}",
        color=colour,
        linestyle=line,
        linewidth=1.4,
        marker=marker,
        markersize=4.5,
        elinewidth=0.8,
        capsize=2,
    )


def _label(axes: Any, title: str) -> None:
    """Title, axes with their units, and a grid."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_title(title)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds per sequence (median of timed batches, log scale; low = good)")
    axes.set_ylabel("likelihood bound, nats per token (low = good)")
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(figure: Any, axes: Any) -> None:
    """Below the axes, where it hides nothing, in columns of equal length if as many as fit allow it."""
    handles, labels = axes.get_legend_handles_labels()
    fitting = max(1, _LEGEND_WIDTH // (max(map(len, labels)) + _HANDLE_WIDTH))
    columns = next((columns for columns in range(fitting, 1, -1) if len(labels) % columns == 0), fitting)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=4)


def _annotate(figure: Any, axes: Any, curves: Sequence[Curve], colours: dict[str, str]) -> None:
    """The number of passes beside each marker, where it covers the least of lines, markers and other numbers."""
    figure.draw_without_rendering()  # until it is laid out, no place on the paper is known
    to_inches = axes.transData + figure.dpi_scale_trans.inverted()
    settings = [torch.stack([curve.times, curve.bounds], 1).numpy() for curve in curves]
    places = [72 * to_inches.transform(data) for data in settings]
    taken = np.concatenate([_along(line) for line in places])
    for curve, *points in zip(curves, settings, places, strict=True):
        for steps, data, place in zip(curve.num_steps, *points, strict=True):
            half = np.array([2.6 * len(str(steps)), 3.6])  # of the number's box, at 8 points
            offset = _free_offset(place, half, taken)
            # Thrice: to cover a number is worse than to cover a line.
            taken = np.concatenate([taken, np.repeat(place + offset + half * _BOX, 3, axis=0)])
            text = {"color": colours[curve.name], "fontsize": 8, "ha": "center", "va": "center"}
            axes.annotate(str(steps), data, offset, textcoords="offset points", **text)


def _free_offset(place: np.ndarray, half: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Offset from ``place[2]`` of a box of half sizes ``half[2]`` that covers the fewest of ``taken[m, 2]``; points."""
    offsets = _DIRECTIONS * (half + 3)
    covered = (np.abs(taken[:, None] - place - offsets) < half + 1).all(-1).sum(0)
    return offsets[np.argmin(covered + _RELUCTANCE)]


def _along(corners: np.ndarray) -> np.ndarray:
    """Points about every 2 points of a polyline, and each corner thrice more, since a marker is there."""
    pieces = [np.repeat(corners, 4, axis=0)]
    for start, end in zip(corners, corners[1:], strict=False):
        shares = np.linspace(0, 1, 2 + int(np.hypot(*(end - start)) / 2))
        pieces.append(start + shares[:, None] * (end - start))
    return np.concatenate(pieces)
