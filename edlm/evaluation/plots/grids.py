"""A grid that samplers fill, pass by pass, as a picture in SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from torch import Tensor

from edlm.corpus.puzzles import BOX, SIZE, Grid

_CELL, _GAP, _MARGIN, _LINE = 40, 44, 20, 22  # pixels
_SIDE = SIZE * _CELL
_FONT = "font-family:ui-sans-serif,system-ui,Helvetica,Arial,sans-serif"
_PAPER, _INK, _GREY, _RED, _NEW, _WRONG = "#fdfdfb", "#1b1b19", "#6b6b66", "#b3261e", "#dcefe4", "#fbdcd8"


@dataclass(frozen=True)
class FilledGrid:
    """How one sampler fills a grid.

    Attributes:
        title: Which sampler.
        note: What is said of it, under the title.
        states: Cells before the first pass and after each, ``[passes + 1, 16]``; masks are empty.
    """

    title: str
    note: str
    states: Tensor


def picture_of_grids(puzzle: Grid, grids: Sequence[FilledGrid]) -> str:
    """One line a sampler, a grid a pass: given symbols bold, cells of this pass green, contradictions red.

    On paper of its own, so that the page behind it may have any colour; contradictions are struck through, too.
    """
    rows, y = [], _MARGIN
    for grid in grids:
        y += _LINE
        rows.append(_text(_MARGIN, y, grid.title, 16, _INK, "font-weight:bold"))
        rows.append(_text(_MARGIN, y + _LINE, grid.note, 14, _GREY))
        y += 2 * _LINE
        conflicts = puzzle.conflicts(grid.states)
        for i, state in enumerate(grid.states):
            x = _MARGIN + i * (_SIDE + _GAP)
            before = grid.states[max(i - 1, 0)]
            new, given = state != before, grid.states[0] != puzzle.mask_token_id
            rows += _grid(puzzle, x, y, state.tolist(), new.tolist(), given.tolist(), conflicts[i].tolist())
            rows.append(_text(x, y + _SIDE + _LINE, f"after pass {i}" if i else "given", 14, _GREY))
        y += _SIDE + 2 * _LINE
    width = 2 * _MARGIN + max(len(grid.states) for grid in grids) * (_SIDE + _GAP) - _GAP
    size = f'width="{width}" height="{y}" viewBox="0 0 {width} {y}"'
    paper = f'<rect width="{width}" height="{y}" rx="6" fill="{_PAPER}"/>'
    body = "\n".join(rows)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{_FONT}">\n{paper}\n{body}\n</svg>\n'


def _text(x: float, y: float, text: str, size: int, colour: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y}" style="font-size:{size}px;fill:{colour};{style}">{escape(text)}</text>'


def _grid(
    puzzle: Grid,
    left: int,
    top: int,
    state: list[int],
    new: list[bool],
    given: list[bool],
    conflicts: list[bool],
) -> list[str]:
    shapes, middle = [], "text-anchor:middle;"
    for cell, token in enumerate(state):
        x, y = left + cell % SIZE * _CELL, top + cell // SIZE * _CELL
        fill = _WRONG if conflicts[cell] else _NEW if new[cell] else "none"
        shapes.append(f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="{fill}" stroke="{_GREY}"/>')
        if token != puzzle.mask_token_id:
            colour, weight = (_RED if conflicts[cell] else _INK), ("bold" if given[cell] else "normal")
            style = f"{middle}font-weight:{weight}"
            shapes.append(_text(x + _CELL / 2, y + _CELL / 2 + 7, puzzle.symbols[token], 20, colour, style))
        if conflicts[cell]:
            line = f'x1="{x + 9}" y1="{y + _CELL - 9}" x2="{x + _CELL - 9}" y2="{y + 9}"'
            shapes.append(f'<line {line} stroke="{_RED}" stroke-width="1.5"/>')
    for i in range(0, SIZE + 1, BOX):
        at = i * _CELL
        down = f'x1="{left + at}" y1="{top}" x2="{left + at}" y2="{top + _SIDE}"'
        across = f'x1="{left}" y1="{top + at}" x2="{left + _SIDE}" y2="{top + at}"'
        shapes += [f'<line {line} stroke="{_INK}" stroke-width="2.5"/>' for line in (down, across)]
    return shapes
