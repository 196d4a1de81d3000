"""The notebook of the first hour runs from top to bottom."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_hour.ipynb"


@pytest.mark.slow
def test_the_notebook_goes_from_text_to_report(tmp_path, monkeypatch):
    monkeypatch.setenv("MINUTES", "0.1")
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}:{cell['id']}", "exec"), names)
    rows = {(row.name, row.num_steps) for row in names["results"].rows}
    assert {"base", "ResidualHead", "SequenceEnergy1"} == {name for name, _ in rows}
    assert all(0 < row["bound_nats_per_token"].value < 20 for row in names["results"].rows)
    page = (tmp_path / "runs" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page and "SequenceEnergy1" in page
    assert not any(cell.get("outputs") for cell in cells)  # figures come from the reader's own run
