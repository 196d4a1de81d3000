"""The page: whole, self-contained, and of the numbers that are in the JSON; the CSV holds the same."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edlm.evaluation.report.html import large, number, with_error
from edlm.evaluation.report.page import write_report

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "example_report"
VOID = {"meta", "link", "br", "rect", "path", "use", "line"}


@pytest.fixture(scope="module")
def result() -> dict:
    return json.loads((EXAMPLE / "results.json").read_text())


@pytest.fixture(scope="module")
def page(result, tmp_path_factory) -> str:
    pictures = {path.stem: path.read_text() for path in sorted(EXAMPLE.glob("*.svg"))}
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(result, pictures, path)
    return path.read_text()


class Balance(HTMLParser):
    """Every element that opens closes, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append((tag, self.getpos()))


def test_the_page_is_whole(page):
    parser = Balance()
    parser.feed(page)
    assert not parser.wrong and not parser.open
    assert "$" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)


def test_nothing_is_fetched_and_nothing_runs(page):
    assert "http" not in re.sub(r"<(p|dd|code)[^>]*>.*?</\1>", "", page, flags=re.DOTALL)
    assert "<script" not in page and "@import" not in page and "url(" not in page.replace("url(#", "")
    assert len(page.encode()) < 1_000_000


def test_the_verdict_the_warnings_and_all_bounds_are_on_it(page, result):
    text = re.sub(r"<[^>]+>", "", page)
    assert result["verdict"] in page and all(part in text.replace("&#x27;", "'") for part in result["warnings"])
    for setting in result["settings"]:
        assert number(setting["bound_nats_per_token"], 3) in text
        assert number(setting["judge_nats_per_token"], 3) in text
    for picture in EXAMPLE.glob("*.svg"):
        assert f'data-plot="{picture.stem}"' in page


def test_text_of_samples_and_names_is_escaped(result, tmp_path):
    evil = json.loads(json.dumps(result))
    for setting in evil["settings"]:
        setting["examples"] = ["<script>alert(1)</script>"] * 4
    evil["config"]["denoiser"] = "<b>"
    evil["verdict"] = "a < b & c"
    write_report(evil, {}, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;b&gt;" in page and "a &lt; b &amp; c" in page


def test_csv_and_json_hold_the_same_numbers(result):
    rows = list(csv.DictReader((EXAMPLE / "results.csv").open(newline="")))
    assert len(rows) == len(result["settings"])
    for row, setting in zip(rows, result["settings"], strict=True):
        assert set(row) == set(setting) - {"energy", "examples", "seconds_of_batches"}
        for name, value in row.items():
            assert value == ("" if setting[name] is None else str(setting[name])), name


def test_example_report_is_small():
    assert sum(path.stat().st_size for path in EXAMPLE.iterdir()) < 2**20


def test_numbers_are_written_with_their_errors():
    assert number(-0.5, 2) == "−0.50" and "–" in number(None, 2) and "–" in number(float("nan"), 2)
    assert (number(float("inf"), 2), number(-float("inf"), 2)) == ("∞", "−∞")
    assert with_error(1.0, 0.25, 1) == '1.0 <span class="error">± 0.2</span>'
    assert with_error(1.0, None, 1) == with_error(1.0, float("nan"), 1) == "1.0"
    assert [large(value) for value in (950, 1234.0, 56_700_000, 3.21e12)] == [
        "950",
        *(f"{shown}&#8239;{unit}" for shown, unit in (("1.23", "k"), ("56.7", "M"), ("3.21", "T"))),
    ]
