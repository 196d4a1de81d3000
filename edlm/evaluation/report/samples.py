"""Samples of the base beside those of a method, with the words that differ."""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from edlm.evaluation.experiment.rows import Row

Pieces = list[tuple[str, bool]]  # of a text, and whether the other text lacks the piece there
MOST = 3


class Samples(NamedTuple):
    """Samples of one setting.

    Attributes:
        name: The method.
        order: Reveal order.
        num_steps: Denoiser passes.
        pairs: For each seed the text of the base and that of the method.
    """

    name: str
    order: str
    num_steps: int
    pairs: list[tuple[Pieces, Pieces]]


def samples_of(result: Mapping[str, Any], rows: Sequence[Row]) -> Samples | None:
    """Of what is recommended, at the most passes; where that has no texts, of the greatest gain, in its cells if any.

    None where base or methods have no texts.
    """
    rows = [row for row in rows if row.notes.get("examples")]
    bases = {row.cell: row for row in rows if row.is_base}
    methods = [row for row in rows if row.options["energy"] is not None and row.cell in bases]
    methods = [row for row in methods if row.name not in result["controls"]]
    if not methods:
        return None
    use = result.get("recommended") or {"name": None, "order": None, "num_steps": []}
    gains = {row.key: gain.value for row in methods if (gain := row.get("gain_nats_per_token"))}

    def rank(row: Row) -> tuple[bool, bool, float]:
        is_near = row.order == use["order"] and row.num_steps in use["num_steps"]
        is_used = is_near and row.name == use["name"]
        return is_used, is_near, row.num_steps if is_used else gains.get(row.key, 0.0)

    best = max(methods, key=rank)
    texts = zip(bases[best.cell].notes["examples"], best.notes["examples"], strict=False)
    return Samples(best.name, best.order, best.num_steps, [differing(*pair) for pair in [*texts][:MOST]])


def differing(first: str, second: str) -> tuple[Pieces, Pieces]:
    """Both texts in pieces: words that they share in this order, and words that they do not.

    Example:
        >>> first, second = differing("the cat sat down", "the dog  sat down again")
        >>> first
        [('the ', False), ('cat ', True), ('sat down', False)]
        >>> second
        [('the ', False), ('dog  ', True), ('sat down ', False), ('again', True)]
    """
    words = [re.findall(r"\S+\s*|^\s+", text) for text in (first, second)]
    matcher = SequenceMatcher(None, *([word.strip() for word in side] for side in words), autojunk=False)
    pieces: tuple[Pieces, Pieces] = ([], [])
    for tag, *spans in matcher.get_opcodes():
        for side, start, stop in ((0, *spans[:2]), (1, *spans[2:])):
            if start < stop:
                pieces[side].append(("".join(words[side][start:stop]), tag != "equal"))
    return pieces
