"""Marks of points: on no curve, bar, point or other mark, and where there is no place, left out."""

import io
from itertools import combinations

import numpy as np
import pytest
import torch

from edlm.evaluation.plots.drawing import COLOURS, STYLES, Line, draw_lines, drawing, dress
from edlm.evaluation.plots.marks import place_marks

pytest.importorskip("matplotlib")


def placed(lines, size=(5, 4), **options):
    """Axes with their marks."""
    with drawing(io.StringIO(), size) as (_, axes):
        draw_lines(axes, lines, COLOURS, STYLES)
        dress(axes, **options)
        place_marks(axes)
    return axes


def drawn(axes) -> np.ndarray:
    """Points of all curves and bars in pixels, closer to each other than a pixel."""
    paths = [line.get_path() for line in axes.lines]
    paths += [path for collection in axes.collections for path in collection.get_paths()]
    points = []
    for path in paths:
        corners = axes.transData.transform(path.vertices)
        points += [
            a + (b - a) * np.linspace(0, 1, 2000)[:, None] for a, b in zip(corners[:-1], corners[1:], strict=True)
        ]
    return np.concatenate(points)


def boxes(axes) -> list:
    return [mark.get_window_extent() for mark in axes.texts]


def curves(seed: int) -> list[Line]:
    """Six curves that cross each other, with a bar and a mark at each of their points."""
    x = [2, 3, 4, 6, 8, 16]
    y = torch.randn(6, len(x), generator=torch.Generator().manual_seed(seed)).cumsum(0).tolist()
    return [Line(str(i), "", x, row, [0.2] * len(x), [f"T {0.1 * n:g}" for n in x]) for i, row in enumerate(y)]


@pytest.mark.parametrize(("seed", "log"), [(0, None), (1, 10), (2, 2)])
def test_marks_lie_on_nothing(seed, log):
    lines = curves(seed)
    axes = placed(lines, log=log)
    found, points = boxes(axes), drawn(axes)
    assert 12 <= len(found) <= 36
    for box in found:
        inside = (points > [box.x0, box.y0]).all(1) & (points < [box.x1, box.y1]).all(1)
        assert not inside.any() and axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
    assert not any(one.overlaps(other) for one, other in combinations(found, 2))


def test_marks_are_next_to_their_points_and_above_where_that_is_free():
    axes = placed([Line("a", "", [0, 1, 2, 3], [0.0, 1.0, 0.0, 2.0], marks=["one", "two", "three", "four"])])
    for mark, box in zip(axes.texts, boxes(axes), strict=True):
        x, y = axes.transData.transform(mark.xy)
        assert abs((box.x0 + box.x1) / 2 - x) < box.width + 20 and abs((box.y0 + box.y1) / 2 - y) < box.height + 20
    assert [mark.get_text() for mark in axes.texts] == ["one", "two", "three", "four"] and axes.texts[1].xyann[1] > 0


def test_marks_without_a_place_are_left_out():
    crowd = [Line("a", "", [1.0] * 40, [1.0] * 40, marks=["crowded"] * 40)]
    axes = placed(crowd)
    found = boxes(axes)
    assert 2 <= len(found) < 40 and not any(one.overlaps(other) for one, other in combinations(found, 2))
