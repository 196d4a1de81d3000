"""JSON values that lie one after the other, each in one line or in many."""

import re
from collections.abc import Iterable, Iterator

_TOKEN = re.compile(r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|["\[\]{}]')  # a string, one that its line does not end, or a bracket
_DEPTH = {"{": 1, "[": 1, "}": -1, "]": -1}


def values_of(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    r"""The number of the line in which each value begins, from 1, and its text.

    A value ends with its last bracket, or, outside of brackets, with its line; so that one value is held at a time.
    Blanks between values are pieces of their own. What is no JSON comes in pieces, too, one of which is no JSON.

    Example:
        >>> [*values_of(["[1,\n", "2] [3]\n"])]
        [(1, '[1,\n2]'), (2, ' [3]'), (2, '\n')]
    """
    first, parts, depth = 1, [], 0
    for number, line in enumerate(lines, start=1):
        start = 0
        for token in _TOKEN.finditer(line):
            if token[0] == '"':  # no JSON: a string ends in its line
                depth = 0
                break
            depth += _DEPTH.get(token[0], 0)
            if depth <= 0 and token[0] in ("}", "]"):
                yield first, "".join([*parts, line[start : token.end()]])
                first, parts, start, depth = number, [], token.end(), 0
        parts.append(line[start:])
        if depth == 0:
            yield first, "".join(parts)
            first, parts = number + 1, []
    if depth:
        yield first, "".join(parts)
