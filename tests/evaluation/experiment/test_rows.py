"""Rows as flat records: what was not measured is absent, and files of older versions are read."""

import json
import math
from pathlib import Path

import pytest

from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.rows import DEFAULTS, Row, flat, row_of_flat

DOCS = Path(__file__).resolve().parents[3] / "docs"
FILES = [path for path in sorted(DOCS.rglob("*.json")) if "settings" in json.loads(path.read_text())]
OPTIONS = {"name": "ours", "order": "random", "num_steps": 2, **DEFAULTS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_row_of_flat_reads_every_committed_file(path):
    result = json.loads(path.read_text())
    for record in [*result["settings"], *result.get("others", [])]:
        row = row_of_flat(record)
        again = flat(row)
        assert {k: v for k, v in record.items() if v is not None and k != "energy"}.items() <= again.items()
        assert (row.options["energy"] is None) == (record.get("energy") is None)
        assert all(again[name] is not None for name in row.metrics)
        assert repr(row_of_flat(again)) == repr(row)  # NaN equals nothing


def test_flat_keys_are_absent_where_nothing_was_measured():
    metrics = {"bound_nats_per_token": Estimate(2.0, 0.5, 8), "mauve": Estimate(0.5, None, 6, 0.25, 0.75)}
    record = flat(Row(OPTIONS, metrics, {"judge": None}))
    expected = {"bound_nats_per_token": 2.0, "bound_stderr": 0.5, "n": 8, "mauve": 0.5, "num_samples": 6}
    assert record == {**OPTIONS, **expected, "mauve_low": 0.25, "mauve_high": 0.75, "judge": None}
    assert row_of_flat(record) == Row(OPTIONS, metrics, {"judge": None})


def test_flat_infinite_values_and_nan_errors_come_back():
    endless = {
        "bound_nats_per_token": Estimate(math.inf, math.nan, 1),
        "gain_nats_per_token": Estimate(-math.inf, math.nan, 1),
    }
    text = json.dumps(flat(Row(OPTIONS, endless)), allow_nan=False)
    assert repr(row_of_flat(json.loads(text)).metrics) == repr(endless)


def test_row_of_an_older_file_with_carry_over():
    record = {
        "name": "ar",
        "order": "random",
        "num_steps": 2,
        "energy": 'ab12 {"carry_over": true}',
        "perplexity": None,
    }
    row = row_of_flat(record)
    assert (row.options["energy"], row.options["carry_over"], row["perplexity"].value) == ("ab12", True, math.inf)
