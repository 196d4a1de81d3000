"""A text after each step as one picture, in SVG."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_COLUMNS, _CHARACTER, _LINE, _MARGIN = 88, 8.0, 20, 16  # pixels but for the columns, of 13.3 px monospaced type
_LABEL = 10  # columns
_STYLES = {
    "given": "fill:#6b6b66",
    "earlier": "fill:#1b1b19",
    "new": "fill:#00704f;font-weight:bold",
    "masked": "fill:#b9b9b2",
}
_FONT = "font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:13.3px;white-space:pre"


def picture_of(steps: Sequence[Mapping[str, Any]]) -> str:
    """Steps of a row of `Trace`, one below the other: new tokens are bold, a dot is a masked one; texts are escaped."""
    lines, y = [], _MARGIN
    for number, step in enumerate(steps, start=1):
        for first, line in enumerate(_wrapped(step["pieces"])):
            y += _LINE
            if not first:
                lines.append(f'<text x="{_MARGIN}" y="{y}" style="fill:#6b6b66">pass {number}</text>')
            spans = "".join(f'<tspan style="{_STYLES[kind]}">{escape(text)}</tspan>' for kind, text in line)
            lines.append(f'<text x="{_MARGIN + _LABEL * _CHARACTER}" y="{y}" xml:space="preserve">{spans}</text>')
        y += _LINE // 2
    width, height = round(2 * _MARGIN + (_LABEL + _COLUMNS) * _CHARACTER), y + _MARGIN
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    paper = f'<rect width="{width}" height="{height}" rx="6" fill="#fdfdfb"/>'
    body = "\n".join(lines)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{_FONT}">\n{paper}\n{body}\n</svg>\n'


def _wrapped(pieces: Sequence[Mapping[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Lines of pieces, pairs of kind and text, broken at blanks where that is possible."""
    kinds = [(character, piece["kind"]) for piece in pieces for character in piece["text"]]
    start = 0
    while start < len(kinds):
        end = min(start + _COLUMNS, len(kinds))
        breaks = [i for i in range(start, end) if kinds[i][0] == "\n"]
        blanks = [i for i in range(start + 1, end) if kinds[i][0] == " "]
        if breaks:
            end = breaks[0]
        elif end < len(kinds) and blanks:
            end = blanks[-1]
        line: list[tuple[str, str]] = []
        for character, kind in kinds[start:end]:
            if line and line[-1][0] == kind:
                line[-1] = (kind, line[-1][1] + character)
            else:
                line.append((kind, character))
        yield line
        start = end + (end < len(kinds) and kinds[end][0] in " \n")
