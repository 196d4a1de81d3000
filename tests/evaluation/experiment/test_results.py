"""Results that are read back: of every file that is committed, whichever version wrote it."""

import json
import shutil
from pathlib import Path

import pytest

from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.lab import Lab
from edlm.evaluation.experiment.results import Results

DOCS = Path(__file__).resolve().parents[3] / "docs"
FILES = [
    path.with_name(path.name.replace(".rows.safetensors", ".json")) for path in sorted(DOCS.rglob("*.rows.safetensors"))
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_results_load_every_committed_file(path):
    results, record = Results.load(path), json.loads(path.read_text())
    assert [(row.name, *row.cell) for row in results.rows] == [
        (s["name"], s["order"], s["num_steps"]) for s in record["settings"]
    ]
    for row in results.rows:
        assert results.nats_of(row).mean().item() == pytest.approx(row["bound_nats_per_token"].value, rel=1e-6)
        assert len(results.nats_of(row)) == row["bound_nats_per_token"].n
    assert results.controls == record.get("controls", [])


def test_results_load_points_of_a_frontier():
    results = Results.load(DOCS / "example_report")
    frontier = json.loads((DOCS / "example_report" / "results.json").read_text())["frontier"]
    points = {(p.name, p.order, p.num_steps, p.temperature): p for p in results.points}
    for placed in frontier:
        point = points[tuple(placed[name] for name in ("name", "order", "num_steps", "temperature"))]
        assert point.judge_nats_per_token.value == pytest.approx(placed["judge_nats_per_token"], rel=1e-6)
    assert results.record["energy_spreads"] and "energies" not in results.record


def test_results_that_are_missing_or_others_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="result"):
        Results.load(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.rows.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="identity"):
        Results.load(tmp_path / "a.json")


def test_results_of_an_older_version_are_not_resumed(tmp_path):
    for name in ("results.json", "results.rows.safetensors"):
        shutil.copy(DOCS / "example_report" / name, tmp_path)
    with pytest.raises(ValueError, match="older version"):
        Lab.load(EvaluateConfig(output=str(tmp_path)))
