"""Plots of the commands: bound against time, a line for each sampler; and validation losses of training runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edlm.evaluation.likelihood.speedup import Curve
from edlm.evaluation.plots.drawing import COLOURS, STYLES, Line, add_legend, draw_lines, drawing, dress, styles_of

_SIZE = (9, 6)  # inches, for a width of 900 pixels


def plot_curves(curves: Sequence[Curve], path: str | Path, *, title: str) -> None:
    """Plot the bound (nats per token) against seconds per sequence (log scale).

    Each setting is a marker, with its number of denoiser passes and one standard error over rows as its bar; a method
    has one colour, a reveal order one line style. Settings whose bound is infinite are left out.

    Args:
        curves: In the order of the legend.
        path: Where to, ending in ``.png`` or ``.svg``.
        title: Above the axes.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: no curves, two with the same name and order, more methods (7) or orders (6) than there are styles,
            or another suffix.

    Note:
        A bar describes one curve alone: differences between curves of the same rows are known far better.
    """
    keys = [(curve.name, curve.order) for curve in curves]
    if len(set(keys)) < len(keys):
        raise ValueError(f"each line must have a name and an order of its own, got {keys}")
    colours = styles_of("methods", [curve.name for curve in curves], COLOURS)
    styles = styles_of("orders", [curve.order for curve in curves], STYLES)
    with drawing(path, _SIZE) as (figure, axes):
        draw_lines(axes, [_line(curve) for curve in curves if curve.bounds.isfinite().any()], colours, styles)
        axes.set_title(title)
        time = "seconds per sequence (median of timed batches, log scale; low = good)"
        dress(axes, time, "likelihood bound, nats per token (low = good)", log=10)
        add_legend(figure, axes)


def _line(curve: Curve) -> Line:
    finite = curve.bounds.isfinite()
    marks = [str(steps) for steps, is_finite in zip(curve.num_steps, finite.tolist(), strict=True) if is_finite]
    x, y, errors = (values[finite].tolist() for values in (curve.times, curve.bounds, curve.stderrs))
    return Line(curve.name, curve.order, x, y, errors, marks)


def plot_logs(logs: Sequence[str | Path], path: str | Path) -> None:
    """Plot validation losses over updates, a line for each training run.

    Args:
        logs: ``log.jsonl`` files of training runs; a line is named after its file.
        path: Where to, ending in ``.png`` or ``.svg``.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: a log without validation, no logs or too many (7), or another suffix.
    """
    lines = []
    for log in map(Path, logs):
        records = [json.loads(line) for line in log.read_text().splitlines()]
        valid = [record for record in records if record["split"] == "valid"]
        if not valid:
            raise ValueError(f"a log must hold validation losses, got none in {log}")
        lines.append(Line(log.stem, "", [r["step"] for r in valid], [r["loss"] for r in valid]))
    colours = styles_of("logs", [line.name for line in lines], COLOURS)
    with drawing(path, _SIZE) as (figure, axes):
        draw_lines(axes, lines, colours, {"": STYLES[0]})
        axes.set_title("validation loss: the same rows and noise at each point of a run")
        dress(axes, "updates", "loss, nats per token (low = good)")
        add_legend(figure, axes)
