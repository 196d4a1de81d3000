"""The demo: three columns, marked words, and a line that follows from the rows it measured."""

import math
import re
from dataclasses import replace

import torch

from edlm.cli import main
from edlm.commands.demo import marked, worth_of
from edlm.evaluation.likelihood.speedup import Curve


def curve(name: str, steps: tuple[int, ...], bounds: list[float], seconds: list[float]) -> Curve:
    nats = torch.tensor(bounds, dtype=torch.float64)[:, None] + torch.tensor([-0.1, 0.0, 0.1], dtype=torch.float64)
    return Curve(name, "random", steps, nats, torch.tensor(seconds, dtype=torch.float64)[:, None])


def line(bound: float) -> str:
    published = curve("base", (4, 16), [4.0, 3.0], [1.0, 9.0])
    return worth_of(curve("reranked", (4,), [bound], [1.5]), published, torch.Generator().manual_seed(0))


def test_line_interpolates_passes_and_seconds_of_the_published_base():
    # Half of the way from 4.0 to 3.0: 8 passes and 3 seconds, where both are linear in their logarithms.
    assert line(3.5).startswith(
        "Reranked at 4 passes: same likelihood as 8 passes of the published base, in 0.50 [0.50"
    )
    third = math.exp(math.log(4) + 0.75 * math.log(4))
    assert f"as {third:.0f} passes" in line(3.25) and f"in {1.5 / 9**0.75:.2f} [" in line(3.25)


def test_line_claims_no_equal_number_of_passes_beyond_those_measured():
    assert line(2.9).endswith("better likelihood than 16 passes of the published base, in 0.17 of its time.")


def test_line_does_not_call_a_worse_bound_the_same():
    assert line(4.5).endswith("passes: worse likelihood than 4 passes of the published base, in 1.50 of its time.")
    assert "same likelihood as 4 passes" in line(4.0)


def test_line_of_one_row_has_no_interval():
    published, reranked = curve("base", (4, 16), [4.0, 3.0], [1.0, 9.0]), curve("reranked", (4,), [3.5], [1.5])
    one = [replace(c, nats=c.nats[:, 1:2]) for c in (reranked, published)]
    assert worth_of(*one, torch.Generator().manual_seed(0)).endswith("in 0.50 of its time.")


def test_unknown_words_are_marked_and_counted_but_the_cut_ones():
    text, unknown, total = marked("Zog can’t flyy, don't Flyy! Agai", {"can't", "don't"})
    assert (text.plain, unknown, total) == ("Zog can’t [flyy], don't [Flyy]! Agai", 2, 4)
    assert [text.plain[span.start : span.end] for span in text.spans] == ["[flyy]", "[Flyy]"]
    assert marked("", {"a"})[1:] == (0, 0)


def test_demo_shows_three_columns_and_the_line(capsys):
    assert main(["demo", "--num_stories=1", "--num_rows=2"]) == 0
    printed = capsys.readouterr().out
    for title in ("base, random order (as published)", "base, bisecting order", "reranked, bisecting order"):
        assert title in printed
    assert len(re.findall(r"\d+ of \d+ words are unknown", printed)) == 3
    assert re.search(r"Reranked at 4 passes: .* passes of the\s+published\s+base,\s+in\s+\d\.\d\d", printed)


def test_demo_refuses_what_it_cannot_show(capsys):
    assert main(["demo", "--num_rows=0"]) == 2
    assert "num_rows must be >= 1" in capsys.readouterr().err
