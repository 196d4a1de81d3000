"""The page: equal to a small golden one, self-contained, safe against what texts hold; and the numbers in wandb."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from edlm.evaluation.report.findings import published_formula
from edlm.evaluation.report.page import write_report
from edlm.evaluation.report.wandb import summary_of
from edlm.packages import check_wandb

HERE, DOCS = Path(__file__).parent, Path(__file__).resolve().parents[3] / "docs"
COMMITTED = [
    DOCS / "example_report",
    DOCS / "results" / "tinystories_paper.json",
    DOCS / "results" / "tinystories.json",
]
SMALL = (HERE / "golden.json").read_text()  # of a base and a method
EVIL = "</script><script>alert(1)</script>"


def page(result: dict, folder: Path, pictures=()) -> str:
    write_report(result, dict(pictures), folder / "report.html")
    return (folder / "report.html").read_text()


def test_page_equals_the_golden_one(tmp_path):
    """After a change that is meant, write the new page to golden.html and read the difference."""
    body = re.sub(r"\s*\n\s*", "\n", page(json.loads(SMALL), tmp_path).partition("<main>")[2])
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


EVERYWHERE = ["Once upon <a> time", "small & new", "ours", "With 2 passes", "Only 7 rows.", "helps by"]


@pytest.mark.parametrize("text", EVERYWHERE)
def test_texts_are_escaped(tmp_path, text):
    html = page(json.loads(SMALL.replace(text, EVIL)), tmp_path)
    assert "<script" not in html and "&lt;/script&gt;&lt;script&gt;" in html


def test_first_line_is_the_recommendation_and_details_are_folded(tmp_path):
    html = page(json.loads(SMALL), tmp_path)
    first = re.search(r">\s*([^<>\s][^<>]*)<", html.partition("<main>")[2])[1]
    assert first == "With 2 passes, ours &lt; base."
    assert html.index("<h2>Samples</h2>") < html.index("<nav") < html.index("<details") < html.index("<table")
    titles = re.findall(r"<details><summary>(.*?)</summary>\s*<div id=\"(\w+)\">", html)
    assert re.findall(r"<li><a href=\"#(\w+)\">(.*?)</a></li>", html) == [(name, title) for title, name in titles]


def test_warning_of_the_published_formula_is_where_its_numbers_are(tmp_path):
    result = json.loads((DOCS / "example_report" / "results.json").read_text())
    folded = page(result, tmp_path).split("<details>")
    with_warning = [part for part in folded if "The published formula is not a bound" in part]
    assert len(with_warning) == 1 and "published joint formula" in with_warning[0] and with_warning[0] is not folded[0]
    older = {**result, "warnings": [*published_formula(result), "Only one."]}  # had it among the others
    assert page(older, tmp_path).count("The published formula is not a bound") == 1
    none = {**result, "continuous": {**result["continuous"], "published": []}}
    assert "published formula" not in page({**none, "warnings": []}, tmp_path)


BASE = {"name": "base", "order": "random", "num_steps": 4, "energy": None}


def test_summary_holds_every_number_and_error():
    settings = [{**BASE, "bound_nats_per_token": 4.0, "bound_stderr": 0.5, "distinct_2": 0.25, "mauve": None}]
    assert summary_of({"verdict": "no gain", "settings": settings}) == {
        "verdict": "no gain",
        "base/random/4/bound_nats_per_token": 4.0,
        "base/random/4/bound_stderr": 0.5,
        "base/random/4/distinct_2": 0.25,
    }


def test_wandb_must_be_installed_only_if_used(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_wandb("off")
    with pytest.raises(ImportError, match="wandb must be installed"):
        check_wandb("offline")
