"""Rows: as flat records, also those of every committed file; formatted by their metrics; as Markdown and CSV."""

import csv
import io
import json
import math
import shutil
from pathlib import Path

import pytest

from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.lab import Lab
from edlm.evaluation.experiment.metrics import METRICS, format_estimate
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import DEFAULTS, Row, as_csv, as_markdown, flat, row_of_flat
from tests.evaluation.measured import row_of

DOCS = Path(__file__).resolve().parents[3] / "docs"
FILES = [path for path in sorted(DOCS.rglob("*.json")) if "settings" in json.loads(path.read_text())]
OPTIONS = {"name": "ours", "order": "random", "num_steps": 2, **DEFAULTS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_rows_of_every_committed_file_are_read(path):
    result = json.loads(path.read_text())
    for record in [*result["settings"], *result.get("others", [])]:
        row = row_of_flat(record)
        again = flat(row)
        assert {k: v for k, v in record.items() if v is not None and k != "energy"}.items() <= again.items()
        assert (row.options["energy"] is None) == (record.get("energy") is None)
        assert all(again[name] is not None for name in row.metrics)
        assert repr(row_of_flat(again)) == repr(row)  # NaN equals nothing
    if path.with_suffix(".rows.safetensors").exists():
        results = Results.load(path)
        assert [flat(row) for row in results.rows] == [flat(row_of_flat(record)) for record in result["settings"]]
        for row in results.rows:
            assert results.nats_of(row).mean().item() == pytest.approx(row["bound_nats_per_token"].value, rel=1e-6)
            assert len(results.nats_of(row)) == row["bound_nats_per_token"].n


def test_results_that_are_missing_or_others_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="result"):
        Results.load(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.rows.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="identity"):
        Results.load(tmp_path / "a.json")
    shutil.copytree(DOCS / "example_report", tmp_path / "older")
    with pytest.raises(ValueError, match="older version"):
        Lab.load(EvaluateConfig(output=str(tmp_path / "older")))


def test_flat_keys_are_absent_where_nothing_was_measured():
    metrics = {"bound_nats_per_token": Estimate(2.0, 0.5, 8), "mauve": Estimate(0.5, None, 6, 0.25, 0.75)}
    record = flat(Row(OPTIONS, metrics, {"judge": None}))
    expected = {"bound_nats_per_token": 2.0, "bound_stderr": 0.5, "n": 8, "mauve": 0.5, "num_samples": 6}
    assert record == {**OPTIONS, **expected, "mauve_low": 0.25, "mauve_high": 0.75, "judge": None}
    assert row_of_flat(record) == Row(OPTIONS, metrics, {"judge": None})


def test_flat_infinite_values_and_nan_errors_come_back():
    names = {"bound_nats_per_token": math.inf, "gain_nats_per_token": -math.inf}  # bad = high, bad = low
    endless = {name: Estimate(value, math.nan, 1) for name, value in names.items()}
    text = json.dumps(flat(Row(OPTIONS, endless)), allow_nan=False)
    assert repr(row_of_flat(json.loads(text)).metrics) == repr(endless)


def test_row_of_an_older_file_with_carry_over():
    cell = {"name": "ar", "order": "random", "num_steps": 2}
    row = row_of_flat({**cell, "energy": 'ab12 {"carry_over": true}', "perplexity": None})
    assert (row.options["energy"], row.options["carry_over"], row["perplexity"].value) == ("ab12", True, math.inf)


def test_metrics_have_keys_of_their_own():
    keys = [key for metric in METRICS.values() for key in metric.names.values() if key not in ("n", "num_samples")]
    assert len(keys) == len(set(keys))
    for name, metric in METRICS.items():
        assert "n" in metric.names or "stderr" not in metric.names, name  # an error is one of a mean


def test_format_estimate_leaves_out_what_is_not_known():
    assert format_estimate(Estimate(-0.25, math.nan, 1), 2) == "-0.25"
    assert format_estimate(Estimate(math.nan, math.nan, 1), 2) == "–"
    assert format_estimate(Estimate(0.25, 0.125, 3), 3, signed=True) == "+0.250 ± 0.125"
    assert format_estimate(Estimate(1.0, None, 3, 0.5, math.inf), 1) == "1.0 [0.5, ∞]"
    assert format_estimate(Estimate(-math.inf, math.nan, 1), 1) == "-∞"


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


def test_csv_has_the_keys_that_were_measured():
    rows = list(csv.DictReader(io.StringIO(as_csv([BASE, HEAD, GROUPS]))))
    assert [row["bound_nats_per_token"] for row in rows] == ["4.0", "3.5", ""]
    assert [row["gain_stderr"] for row in rows] == ["", "0.0625", ""] and rows[1]["energy"] == "head"
    assert "mauve" not in rows[0] and "seconds_of_batches" not in rows[0] and rows[0]["window"] == "[0.0, 1.0]"
