"""The parts that all plots share: a figure in a fixed style, lines with their labels, and axes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple

from edlm.evaluation.plots.marks import place_marks
from edlm.files import replacing
from edlm.packages import install_line

INK = "#1b1b19"  # text, axes and the base; within a page, the text colour of the page
# Okabe and Ito 2008, for colour-blind readers; without yellow, which is too pale for a line.
COLOURS = (INK, "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# Line and marker.
STYLES = (
    ("-", "o"),
    ((0, (5, 2)), "s"),
    ((0, (1, 1.5)), "^"),
    ((0, (5, 2, 1, 2)), "D"),
    ((0, (9, 2)), "v"),
    ((0, (3, 1, 1, 1, 1, 1)), "P"),
)


class Line(NamedTuple):
    """A line of a plot.

    Attributes:
        name: Decides its colour.
        order: Decides its dashes and its marker.
        x: Position of each point.
        y: Height of each point.
        errors: Half the length of each bar, or lower and upper halves, ``[2, n]``.
        marks: Text next to each point; left out where `place_marks` finds no place.
    """

    name: str
    order: str
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[Any] | None = None
    marks: Sequence[str] = ()


@contextmanager
def drawing(
    file: str | Path | IO[str], size: tuple[float, float], *, rows: int = 1, columns: int = 1
) -> Iterator[tuple[Any, Any]]:
    """Figure and axes of ``size`` inches, saved when the block ends; matplotlib's state is left as it was.

    The same content gives the same bytes of svg, and its text stays text, so that it can be searched.

    Args:
        file: Where to, ending in ``.png`` or ``.svg``; or an open file, for an svg without a ground.
        size: Width and height.
        rows: Rows of axes.
        columns: Columns of axes.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: another suffix.
    """
    suffix = Path(file).suffix if isinstance(file, str | Path) else None
    if suffix not in (".png", ".svg", None):
        raise ValueError(f"a picture's path must end in .png or .svg, got {Path(file).name!r}")
    try:
        import matplotlib
        import matplotlib.style
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"plots need matplotlib: {install_line('plots')}", name=error.name) from error

    ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    fixed = {**ink, "svg.hashsalt": "edlm", "svg.fonttype": "none"}
    with matplotlib.style.context("default"), matplotlib.rc_context(fixed):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.subplots(rows, columns, sharex="col")
        metadata = None if suffix == ".png" else {"Date": None}
        options = {"format": "svg", "transparent": True} if suffix is None else {"format": suffix[1:]}
        with nullcontext(file) if suffix is None else replacing(file) as target:
            figure.savefig(target, dpi=200, metadata=metadata, **options)


def plot(
    file: str | Path | IO[str],
    lines: Sequence[Line],
    colours: Sequence[str] = COLOURS,
    styles: Sequence[Any] = STYLES,
    *,
    size: tuple[float, float] = (9, 6),
    **options: Any,
) -> None:
    """Lines on one pair of axes, and a legend below; arguments and errors of `drawing`, `draw_lines` and `dress`."""
    with drawing(file, size) as (figure, axes):
        draw_lines(axes, lines, colours, styles)
        dress(axes, **options)
        handles, names = axes.get_legend_handles_labels()
        fitting = int(16 * size[0] / (max(map(len, names)) + 12))  # 16 characters an inch
        looks = {"frameon": False, "fontsize": 9, "handlelength": 4, "ncols": max(1, fitting)}
        figure.legend(handles, names, loc="outside lower center", **looks)
        place_marks(axes)


def draw_lines(axes: Any, lines: Sequence[Line], colours: Sequence[str], styles: Sequence[Any]) -> None:
    """Draw lines with their points, bars and marks; the legend names them.

    Args:
        axes: Of matplotlib.
        lines: In the order of the legend.
        colours: Of their names, in the order in which these come.
        styles: Of their orders: dashes and marker.

    Raises:
        ValueError: no lines, or more names or orders than there are colours and styles.
    """
    names, orders = (list(dict.fromkeys(values)) for values in ([x.name for x in lines], [x.order for x in lines]))
    if not lines or len(names) > len(colours) or len(orders) > len(styles):
        limits = f"1 to {len(colours)} names and {len(styles)} orders"
        raise ValueError(f"a plot distinguishes {limits}, got {len(names)} and {len(orders)}")
    for line in lines:
        dashes, marker = styles[orders.index(line.order)]
        label, colour = ", ".join(filter(None, (line.name, line.order))), colours[names.index(line.name)]
        looks = {"linewidth": 1.4, "markersize": 3.5, "elinewidth": 0.8, "color": colour}
        axes.errorbar(line.x, line.y, line.errors, label=label, linestyle=dashes, marker=marker, **looks)
        for mark, *at in zip(line.marks, line.x, line.y, strict=False):
            axes.annotate(mark, at, (0, 0), textcoords="offset points", fontsize=8, color=colour)


def dress(axes: Any, *, log: int | None = None, **labels: str) -> None:
    """Labels (``xlabel``, ``title``, ...), a grid, and an ``x`` of logarithmic base ``log``, with plain ticks."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if log is not None:
        axes.set_xscale("log", base=log)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        if log == 10:
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.set(**labels)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
