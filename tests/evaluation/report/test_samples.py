"""Samples side by side: which setting, and which words differ."""

import pytest

from edlm.evaluation.report.samples import differing, samples_of
from tests.evaluation.measured import row_of


def joined(pieces) -> str:
    return "".join(text for text, _ in pieces)


def others(pieces) -> list[str]:
    return [word for text, is_other in pieces if is_other for word in text.split()]


@pytest.mark.parametrize(
    ("first", "second", "gone", "new"),
    [
        ("a b c d", "a x c d y", ["b"], ["x", "y"]),
        ("a b", "b a", ["b"], ["b"]),  # a word that moved
        (" a\n\nb", "a b ", [], []),
        ("", "a", [], ["a"]),
        ("a", "", ["a"], []),
        ("the the the", "the", ["the", "the"], []),
    ],
)
def test_words_that_differ_are_those_outside_of_what_is_shared(first, second, gone, new):
    before, after = differing(first, second)
    assert (joined(before), joined(after)) == (first, second) and (others(before), others(after)) == (gone, new)
    shared = [" ".join(text for text, is_other in side if not is_other).split() for side in (before, after)]
    assert shared[0] == shared[1]


def row(name, order="bisecting", steps=2, gain=0.0, **options):
    texts = {"examples": [f"{name} {order} {steps} {i}" for i in range(4)]} if gain is not None else {}
    return row_of(name, order, steps, gain_nats_per_token=gain, **texts, **options)


ROWS = [
    row(name, order, steps, steps / 10)
    for order in ("random", "bisecting")
    for steps in (2, 4)
    for name in ("base", "a")
]
ROWS += [row("b", "random", 4, 0.9), row("blind", "random", 4, 2.0), row("alone", "random", 8, 3.0)]
ROWS += [row("cold", "random", 4, 4.0, energy=None, temperature=0.5)]


def shown(rows=ROWS, **result):
    found = samples_of({"controls": ["blind"], **result}, rows)
    return found and found[:3]


def test_samples_are_of_what_is_recommended_or_of_the_greatest_gain():
    use = {"name": "a", "order": "random", "num_steps": [2, 4]}
    assert shown(recommended=use) == ("a", "random", 4)
    assert shown(recommended={**use, "num_steps": [2]}) == ("a", "random", 2)
    assert shown(recommended={**use, "num_steps": [16]}) == ("b", "random", 4)  # whose samples were not drawn
    assert shown(recommended={**use, "name": "c", "order": "bisecting"}) == ("a", "bisecting", 4)
    assert shown(recommended=None) == shown() == ("b", "random", 4)  # no control, none without a base beside it
    assert shown([ROWS[0], row("a", "random", 2, None)]) is None and shown([]) is None


def test_samples_are_those_of_the_same_cell_and_seed():
    pairs = samples_of({"controls": []}, ROWS[:4]).pairs
    assert [(joined(base), joined(other)) for base, other in pairs] == [
        (f"base random 4 {i}", f"a random 4 {i}") for i in range(3)
    ]
    assert others(pairs[0][0]) == ["base"] and others(pairs[0][1]) == ["a"]
