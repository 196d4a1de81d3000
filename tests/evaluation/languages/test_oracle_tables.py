"""The oracle tables of method.md: every cell is there, and a few are measured again."""

import math

import pytest
import torch

from edlm.corpus.languages import HiddenMarkov
from edlm.evaluation.languages import oracle_tables
from edlm.evaluation.languages.oracle_tables import cells, data_nats_per_token, measure_cells

SAMPLES = 120


def test_all_fifty_cells_stand_once_with_what_the_page_says():
    found = {(cell.table, *sorted(cell.options.items(), key=lambda item: item[0])): cell for cell in cells()}
    assert len(cells()) == len(found) == 50
    assert (
        sum(cell.table == "scopes" for cell in cells()) == 5 * 7
        and sum(cell.table == "groups" for cell in cells()) == 3 * 5
    )
    published = {  # read off the page, one of each column
        ("scopes", 2, None, None, None): 3.173,
        ("scopes", 4, 4, "sequence", None): 2.588,
        ("scopes", 8, 4, "step", None): 2.313,
        ("scopes", 16, 16, "sequence", None): 2.302,
        ("scopes", 32, 16, "step", None): 2.295,
        ("scopes", 2, 64, "sequence", None): 2.711,
        ("scopes", 4, 64, "step", None): 2.303,
        ("groups", 1, None, None, None): 3.825,
        ("groups", 2, 16, None, None): 2.665,
        ("groups", 4, 16, None, 4): 2.317,
        ("groups", 1, 16, None, 2): 2.632,
        ("groups", 2, 16, None, 1): 2.334,
    }
    names = ("num_steps", "num_candidates", "scope", "group_size")
    by_key = {(cell.table, *(cell.options.get(name) for name in names)): cell for cell in cells()}
    assert {key: by_key[key].published for key in published} == published
    assert {cell.published_n for cell in cells() if cell.table == "scopes"} == {1000}
    assert {cell.published_n for cell in cells() if cell.table == "groups"} == {500}


def test_a_few_cells_are_measured_as_published(monkeypatch):
    """Within five combined standard errors: false alarm 6e-7 a cell, 4e-6 in all."""
    chosen = [
        cell
        for cell in cells()
        if (cell.table, cell.options["num_steps"]) in (("scopes", 2), ("groups", 1))
        and cell.options.get("num_candidates") != 64
    ]
    monkeypatch.setattr(oracle_tables, "cells", lambda: chosen)
    rows = list(measure_cells(SAMPLES, seed=0))
    assert len(rows) == len(chosen) == 10
    for row, cell in zip(rows, chosen, strict=True):
        assert abs(row["deviations"]) < 5, row
        stderr = math.hypot(row["stderr"], row["stderr"] * math.sqrt(SAMPLES / cell.published_n))
        assert row["deviations"] == pytest.approx((row["measured"] - row["published"]) / stderr)
        assert {key: row[key] for key in cell.options} == cell.options and row["published"] == cell.published
    measured = [row["measured"] for row in rows if row["table"] == "groups"]
    assert all(
        a - b > 0.1 for a, b in zip(measured, measured[1:], strict=False)
    )  # ever smaller groups, as in the table


def test_every_cell_has_seeds_of_its_own(monkeypatch):
    same = [cells()[0]] * 3
    monkeypatch.setattr(oracle_tables, "cells", lambda: same)
    measured = [row["measured"] for row in measure_cells(8, seed=0)]
    assert len(set(measured)) == 3
    assert [row["measured"] for row in measure_cells(8, seed=0)] == measured


def test_the_data_have_the_entropy_of_the_page():
    """2.289 to three decimals and five of our standard errors: false alarm 6e-7."""
    data = data_nats_per_token(2000, seed=1)
    assert abs(data["measured"] - 2.289) < 5 * data["stderr"] + 0.01  # the page's own error is about 0.01
    tokens = HiddenMarkov.reference().sample(2000, 32, torch.Generator().manual_seed(1))
    expected = -HiddenMarkov.reference().log_prob(tokens) / 32
    assert (data["measured"], data["stderr"]) == pytest.approx(
        (expected.mean().item(), expected.std().item() / 2000**0.5)
    )
