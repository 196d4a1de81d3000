"""The page of a committed result in a real browser."""

import json
import shutil
from contextlib import contextmanager
from itertools import combinations

import pytest

from edlm.evaluation.report.page import write_report
from tests.evaluation.report.test_page import DOCS

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]


@contextmanager
def opened(path, width, folder):
    """A browser that shows a page, has fetched nothing and reports no mistake."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={folder / 'chromium'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(path.as_uri())
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        ours = [params for params in sent if not params["documentURL"].startswith("chrome")]  # not those of a new tab
        assert [params["request"]["url"] for params in ours] == [path.as_uri()]
        assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
        assert browser.get_log("browser") == []
        whole, seen = browser.execute_script(
            "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
        )
        assert whole <= seen <= width
        yield browser
    finally:
        browser.quit()


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no browser here (Debian: chromium, chromium-driver)")
@pytest.mark.parametrize("width", [1280, 360])
def test_page_fits_a_browser_and_fetches_nothing(width, tmp_path):
    example = DOCS / "example_report"
    result = json.loads((example / "results.json").read_text())
    write_report(result, {plot.stem: plot.read_text() for plot in example.glob("*.svg")}, tmp_path / "report.html")
    with opened(tmp_path / "report.html", width, tmp_path) as browser:
        assert browser.execute_script("return document.querySelector('main').innerText").startswith(
            result["verdict"][:60]
        )
        for link in browser.find_elements("css selector", "nav a"):  # opens what it leads to
            browser.execute_script("arguments[0].click()", link)
        assert browser.execute_script(_OPEN) == [True] * len(browser.find_elements("css selector", "details"))
        whole, seen = browser.execute_script(_WIDTHS)
        assert whole <= seen <= width
        plots = browser.execute_script(_PLOTS)
        assert {name for name, *_ in plots} == {plot.stem for plot in example.glob("*.svg")}
        assert all(w >= min(320, width - 60) and h > 150 and marks > 20 for _, w, h, marks in plots)
        cells = browser.execute_script(_REACHED)
        assert len(cells) > 7 * len(result["settings"]) and [words for words, reached in cells if not reached] == []
        text = " ".join(words.replace("\n", " ") for words, _ in cells)
        assert all(f"{s['bound_nats_per_token']:.3f} ± {s['bound_stderr']:.3f}" in text for s in result["settings"])
        marks = browser.execute_script(_MARKS)
        assert {plot for plot, *_ in marks} >= {"bounds", "frontier"}
        assert [(one, other) for one, other in combinations(marks, 2) if _overlap(one, other)] == []


def _overlap(one, other) -> bool:
    """Whether two texts of one plot do, by more than a pixel."""
    (plot, _, left, top, right, bottom), (of, _, x, y, end, below) = one, other
    return plot == of and min(right, end) - max(left, x) > 1 and min(bottom, below) - max(top, y) > 1


_OPEN = "return [...document.querySelectorAll('details')].map(folded => folded.open)"
_WIDTHS = "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
_PLOTS = """return [...document.querySelectorAll('figure[data-plot]')].map(figure => {
    const box = figure.querySelector('svg').getBoundingClientRect();
    return [figure.dataset.plot, box.width, box.height, figure.querySelectorAll('svg path, svg use').length]; })"""
# Texts of the plots, in the browser's own fonts.
_MARKS = """return [...document.querySelectorAll('figure[data-plot] text')].map(text => {
    const box = text.getBoundingClientRect(), plot = text.closest('figure').dataset.plot;
    return [plot, text.textContent, box.left, box.top, box.right, box.bottom]; })"""
# Cells that are shown, and whether the words of each are within the window, or come there when its table is scrolled.
_REACHED = """const is_shown = cell => cell.offsetParent && getComputedStyle(cell).visibility == 'visible';
    return [...document.querySelectorAll('td')].filter(is_shown).map(cell => {
        cell.scrollIntoView({block: 'center', inline: 'center'});
        const words = document.createRange();
        words.selectNodeContents(cell);
        const c = words.getBoundingClientRect(), b = cell.closest('.scroll').getBoundingClientRect();
        const reached = c.left >= b.left - 1 && c.right <= b.right + 1 && b.left >= -1
            && b.right <= document.documentElement.clientWidth + 1 && c.top >= 0 && c.bottom <= window.innerHeight;
        return [cell.innerText, reached]; })"""
