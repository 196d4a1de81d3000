"""Picture of sequence errors: the share of wrong sequences and the divergence per token, over denoiser passes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Viridis at even steps, dark to light: longer sequences are darker.
_LENGTHS = ("#440154", "#31688e", "#35b779", "#b5a51f", "#d98c2b", "#c2452d")
_WAYS = (("-", "o"), ((0, (5, 2)), "s"), ((0, (1, 1.5)), "^"), ((0, (5, 2, 1, 2)), "D"))


def plot_sequence_errors(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Write a picture: a column for each experiment; above the error rate, below the divergence per token.

    Colour is the length, line style the way of deciding; the bars are 95 % intervals above and standard errors below.
    Where no divergence was measured, the axes below stay empty.

    Args:
        rows: Of `sequence_error_table`, each with its ``experiment``.
        path: Where to, ending in ``.png`` or ``.svg``; the same rows give the same bytes of svg.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: no rows, another suffix, or more lengths (6) or ways (4) in an experiment than there are styles.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"a picture's path must end in .png or .svg, got {path.name!r}")
    if not rows:
        raise ValueError("a picture needs rows, got none")
    try:
        import matplotlib
        import matplotlib.style
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('plots need matplotlib: pip install "edlm[plots]"', name=error.name) from error

    names = list(dict.fromkeys(row["experiment"] for row in rows))
    with matplotlib.style.context("default"), matplotlib.rc_context({"svg.hashsalt": "edlm", "svg.fonttype": "none"}):
        figure = Figure(figsize=(4.2 * len(names), 9), layout="constrained")
        columns = figure.subplots(2, len(names), squeeze=False, sharex="col").T
        for name, (above, below) in zip(names, columns, strict=True):
            _column([row for row in rows if row["experiment"] == name], above, below)
            above.set_title(name, fontsize=10)
        columns[0][0].set_ylabel("wrong sequences (low = good; data: 0.01)")
        columns[0][1].set_ylabel("bound of KL(truth || sampler), nats per token")
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def _column(rows: list[dict[str, Any]], above: Any, below: Any) -> None:
    """Both axes of one experiment."""
    measured = [row for row in rows if row["num_steps"] is not None]
    lengths, ways = (list(dict.fromkeys(row[key] for row in measured)) for key in ("length", "name"))
    if len(lengths) > len(_LENGTHS) or len(ways) > len(_WAYS):
        raise ValueError(
            f"a picture has {len(_LENGTHS)} lengths and {len(_WAYS)} ways, got {len(lengths)}, {len(ways)}"
        )
    for length, colour in zip(reversed(lengths), _LENGTHS, strict=False):
        for way, (line, marker) in zip(ways, _WAYS, strict=False):
            cells = [row for row in measured if (row["length"], row["name"]) == (length, way)]
            style = {"color": colour, "linestyle": line, "marker": marker, "markersize": 3.5, "linewidth": 1.2}
            rates = [row["error_rate"] for row in cells]
            ends = [
                [max(0.0, row["error_rate"] - row["error_low"]) for row in cells],
                [max(0.0, row["error_high"] - row["error_rate"]) for row in cells],
            ]
            steps = [row["num_steps"] for row in cells]
            above.errorbar(steps, rates, yerr=ends, elinewidth=0.7, **style)
            known = [row for row in cells if row["kl_bound_nats_per_token"] is not None]
            below.errorbar(
                [row["num_steps"] for row in known],
                [row["kl_bound_nats_per_token"] for row in known],
                yerr=[row["kl_bound_stderr"] for row in known],
                elinewidth=0.7,
                label=f"{length}, {way}",
                **style,
            )
    _dress(above, below)


def _dress(above: Any, below: Any) -> None:
    """Scales, grids, and the legend below."""
    above.axhline(0.01, color="0.6", linewidth=0.8)
    above.set_ylim(-0.03, 1.03)
    below.axhline(0.0, color="0.6", linewidth=0.8)
    for axes in (above, below):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    below.set_xlabel("denoiser passes")
    below.legend(
        fontsize=7.5, frameon=False, title="length, decided by", loc="upper center", bbox_to_anchor=(0.5, -0.13)
    )
