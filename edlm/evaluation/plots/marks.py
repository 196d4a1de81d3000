"""Marks next to points: where nothing is in their way, neither curves and bars nor other marks."""

import math
from collections.abc import Iterator
from typing import Any

_DISTANCES = (3, 7, 12)  # points between a mark and its point
_DIRECTIONS = (90, 270, 45, 135, 315, 225, 0, 180)  # degrees, the preferred first
_MARGIN, _MARKER = 1.5, 3.0  # points around a mark, and half a marker


def place_marks(axes: Any) -> None:
    """Move each annotation of the axes to the nearest free place around its point; those without any are removed.

    Args:
        axes: Of matplotlib, with all that is drawn on them and their final limits.
    """
    figure = axes.figure
    for mark in axes.texts:
        mark.set_in_layout(False)  # the layout stays when marks move
    figure.draw_without_rendering()
    taken: list[Any] = []
    for mark in list(axes.texts):
        if not any(_is_free(mark, axes, taken) for _ in _places(mark)):
            mark.remove()
            continue
        taken.append(_extent(mark))


def _places(mark: Any) -> Iterator[None]:
    """Puts a mark at each place in turn: its box touches a circle around the point."""
    mark.set(horizontalalignment="center", verticalalignment="center")
    mark.xyann = (0, 0)
    box, scale = _extent(mark, margin=0), 72 / mark.figure.dpi
    for distance in _DISTANCES:
        for degrees in _DIRECTIONS:
            across, up = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            x = across * (_MARKER + distance) + round(across) * box.width * scale / 2
            y = up * (_MARKER + distance) + round(up) * box.height * scale / 2
            mark.xyann = (x, y)
            yield


def _extent(mark: Any, margin: float = _MARGIN) -> Any:
    """Box of a mark in pixels, with a margin in points."""
    return mark.get_window_extent().padded(margin * mark.figure.dpi / 72)


def _is_free(mark: Any, axes: Any, taken: list[Any]) -> bool:
    """Whether a mark lies within the axes, and on no curve, bar, point or other mark."""
    from matplotlib.transforms import Bbox

    box, half = _extent(mark), _MARKER * mark.figure.dpi / 72
    if not (axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)):
        return False
    if any(box.overlaps(other) for other in taken):
        return False
    for line in axes.lines:
        points = axes.transData.transform(line.get_xydata())
        if any(box.overlaps(Bbox.from_bounds(x - half, y - half, 2 * half, 2 * half)) for x, y in points):
            return False
    curves = [line.get_path() for line in axes.lines]
    curves += [path for collection in axes.collections for path in collection.get_paths()]
    return not any(axes.transData.transform_path(curve).intersects_bbox(box, filled=False) for curve in curves)
