"""Plot of sequence errors: the share of wrong sequences and the divergence per token, over denoiser passes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edlm.evaluation.plots.drawing import STYLES, Line, draw_lines, drawing, dress

# Viridis at even steps, dark to light: longer sequences are darker.
_COLOURS = ("#440154", "#31688e", "#35b779", "#b5a51f", "#d98c2b", "#c2452d")


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
            _draw([r for r in rows if r["experiment"] == name and r["num_steps"] is not None], above, below)
            above.set_title(name, fontsize=10)
            if name == names[0]:
                above.set_ylabel("wrong sequences (low = good; data: 0.01)")
                below.set_ylabel("bound of KL(truth || sampler), nats per token")


def _draw(rows: Sequence[dict[str, Any]], above: Any, below: Any) -> None:
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
        draw_lines(axes, lines, _COLOURS, STYLES)
        axes.axhline(level, color="0.6", linewidth=0.8)
        dress(axes, log=2)
    above.set_ylim(-0.03, 1.03)
    below.set_xlabel("denoiser passes")
    legend = {"title": "length, decided by", "loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
    below.legend(fontsize=7.5, frameon=False, **legend)
