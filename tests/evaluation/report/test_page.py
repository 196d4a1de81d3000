"""The page: equal to a small golden one, self-contained, and safe against what texts hold."""

import json
import re
from pathlib import Path

import pytest

from edlm.evaluation.experiment.rows import flat
from edlm.evaluation.report.page import write_report
from tests.evaluation.measured import row_of

HERE, DOCS = Path(__file__).parent, Path(__file__).resolve().parents[3] / "docs"
COMMITTED = [DOCS / "example_report", DOCS / "results" / "tinystories_paper", DOCS / "results" / "tinystories.json"]
EVIL = "</script><script>alert(1)</script>"


def small(text: str = "Once upon <a> time") -> dict:
    """A result of a base and a method, with everything that a page can show."""
    numbers = {"bound_nats_per_token": 4.0, "bound_stderr": 0.125, "n": 7, "bound_direction": "exact"}
    numbers |= {"entropy_nats": 4.25, "entropy_stderr": 0.5, "num_samples": 2, "seconds_per_sequence": 0.25}
    ours = {**numbers, "bound_nats_per_token": 3.5, "gain_nats_per_token": 0.5, "gain_stderr": 0.25}
    rows = [row_of("base", **numbers, examples=[text, "the end"]), row_of("ours", **ours, examples=["Now", "then"])]
    judge = dict.fromkeys(
        ("class", "weights", "context", "max_tokens", "longer_texts", "end_of_document", "end_of_text"), "some"
    )
    return {
        "config": {"denoiser": "small & new", "samples": {"judged": 2}, "frontier": {"sigmas": 3.0}},
        "identity": {"seed": 5, "denoiser": {"name": "small", "revision": "a1"}, "data": "d2"},
        "data": {"rows": 7, "length": 3},
        "machine": {"gpu": None, "cpus": 2, "threads": 1},
        "versions": {"edlm": "1.2.3"},
        "revision": None,
        "command": "edlm evaluate --output a",
        "judge": {"name": "wise", **judge},
        "controls": [],
        "verdict": "With 2 passes, ours < base.",
        "facts": ["A fact (-0.5)."],
        "warnings": ["Only 7 rows."],
        "gains": [],
        "time_ratios": [],
        "frontier": [],
        "settings": [json.loads(json.dumps(flat(row))) for row in rows],
    }


def page(result: dict, folder: Path, pictures=()) -> str:
    write_report(result, dict(pictures), folder / "report.html")
    return (folder / "report.html").read_text()


def test_page_equals_the_golden_one(tmp_path):
    """After a change that is meant, write the new page to golden.html and read the difference."""
    body = re.sub(r"\s*\n\s*", "\n", page(small(), tmp_path).partition("<main>")[2])
    assert body == (HERE / "golden.html").read_text()


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_results_are_rendered(path, tmp_path):
    result = json.loads((path / "results.json" if path.is_dir() else path).read_text())
    pictures = {plot.stem: plot.read_text() for plot in path.glob("*.svg")} if path.is_dir() else {}
    html = page(result, tmp_path, pictures)
    assert "<script" not in html and "@import" not in html and "url(" not in html.replace("url(#", "")
    assert "http" not in re.sub(r"<(p|dd|code)[^>]*>.*?</\1>", "", html, flags=re.DOTALL)
    assert len(html.encode()) < 1_000_000 and all(f'data-plot="{name}"' in html for name in pictures)
    assert all(f"{s['bound_nats_per_token']:.3f}" in html for s in result["settings"])


def test_texts_are_escaped(tmp_path):
    evil = {**small(EVIL), "config": {**small()["config"], "denoiser": EVIL}, "verdict": EVIL, "warnings": [EVIL]}
    evil["settings"] = [{**setting, "name": EVIL} for setting in evil["settings"][:1]] + evil["settings"]
    html = page(evil, tmp_path)
    assert "<script" not in html and html.count("&lt;/script&gt;&lt;script&gt;") >= 5
