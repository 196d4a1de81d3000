"""Tables: a loop over metrics, for the terminal, in Markdown and as CSV."""

import csv
import io
import math

from rich.console import Console

from edlm.evaluation.experiment.table import as_csv, as_markdown, as_table
from tests.evaluation.measured import row_of

BASE = row_of("base", "random", 4, bound_nats_per_token=4.0, bound_stderr=0.25, n=8, perplexity=54.6)
NUMBERS = {"bound_nats_per_token": 3.5, "bound_stderr": 0.25, "gain_nats_per_token": 0.5, "gain_stderr": 0.0625, "n": 8}
HEAD = row_of("head", "random", 4, num_candidates=None, **NUMBERS, energy_passes=128.0, seconds_of_batches=[1.0, 2.0])
GROUPS = row_of("some", "dilated", 4, num_candidates=3, group_size=2, bound_nats_per_token=None, bound_stderr=None)


def test_markdown_has_a_line_a_row_and_dashes():
    lines = [line.strip("| ").split(" | ") for line in as_markdown([BASE, HEAD, GROUPS]).splitlines()]
    assert lines[0][:7] == ["method", "order", "passes", "k", "groups", "bound", "gain"] and set(lines[1]) == {"---"}
    assert lines[2][:7] == ["base", "random", "4", "1", "step", "4.000 ± 0.250", "–"]
    assert lines[3][:7] == ["head", "random", "4", "exact", "1", "3.500 ± 0.250", "0.500 ± 0.062"]
    assert lines[4][3:7] == ["3", "2", "∞", "–"] and lines[3][8] == "128"


def test_terminal_table_has_a_row_for_each_setting():
    console = Console(file=io.StringIO(), width=160)
    console.print(as_table([BASE, HEAD]))
    assert "4.000 ± 0.250" in console.file.getvalue() and "54.6" in console.file.getvalue()


def test_csv_has_the_keys_that_were_measured():
    rows = list(csv.DictReader(io.StringIO(as_csv([BASE, HEAD, GROUPS]))))
    assert [row["bound_nats_per_token"] for row in rows] == ["4.0", "3.5", ""]
    assert [row["gain_stderr"] for row in rows] == ["", "0.0625", ""] and rows[1]["energy"] == "head"
    assert "mauve" not in rows[0] and "seconds_of_batches" not in rows[0] and rows[0]["window"] == "[0.0, 1.0]"
    assert math.isinf(GROUPS["bound_nats_per_token"].value)
