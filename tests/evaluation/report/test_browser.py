"""The page of a committed result in a real browser."""

import json
import shutil
from contextlib import contextmanager

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
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_a_browser_and_fetches_nothing(width, tmp_path):
    example = DOCS / "example_report"
    result = json.loads((example / "results.json").read_text())
    write_report(result, {plot.stem: plot.read_text() for plot in example.glob("*.svg")}, tmp_path / "report.html")
    with opened(tmp_path / "report.html", width, tmp_path) as browser:
        plots = browser.execute_script(_PLOTS)
        assert {name for name, *_ in plots} == {plot.stem for plot in example.glob("*.svg")}
        assert all(w >= min(340, width - 60) and h > 150 and marks > 20 for _, w, h, marks in plots)
        cells = browser.execute_script(_REACHED)
        assert len(cells) == 7 * len(result["settings"]) and all(reached for _, reached in cells)
        text = " ".join(words for words, _ in cells)
        assert all(f"{s['bound_nats_per_token']:.3f} ± {s['bound_stderr']:.3f}" in text for s in result["settings"])


_PLOTS = """return [...document.querySelectorAll('figure[data-plot]')].map(figure => {
    const box = figure.querySelector('svg').getBoundingClientRect();
    return [figure.dataset.plot, box.width, box.height, figure.querySelectorAll('svg path, svg use').length]; })"""
# Scrolls the first table to each cell: is the cell then within its box, and the box within the window?
_REACHED = """const box = document.querySelector('.scroll');
    return [...box.querySelectorAll('td')].map(cell => {
        cell.scrollIntoView({block: 'center', inline: 'center'});
        const c = cell.getBoundingClientRect(), b = box.getBoundingClientRect();
        const reached = c.left >= b.left - 1 && c.right <= b.right + 1 && b.left >= -1
            && b.right <= document.documentElement.clientWidth + 1 && c.top >= 0 && c.bottom <= window.innerHeight;
        return [cell.innerText, reached]; })"""
