"""The committed report in a browser: nothing is fetched, all is drawn, and a phone need not scroll sideways."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

webdriver = pytest.importorskip("selenium.webdriver")
EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "example_report" / "report.html"
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no browser here (Debian: chromium, chromium-driver)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(params=[(1280, "light"), (390, "light"), (390, "dark")], ids=str)
def opened(browser, request):
    width, scheme = request.param
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    for log in ("browser", "performance"):
        browser.get_log(log)  # what came before
    browser.get(EXAMPLE.as_uri())
    return browser, width


def test_nothing_is_fetched_and_nothing_is_wrong(opened):
    browser, _ = opened
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    asked = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert all(EXAMPLE.as_uri() in message for message in asked) and len(asked) <= 1
    assert browser.get_log("browser") == []


def test_every_picture_is_drawn(opened):
    browser, width = opened
    script = """return [...document.querySelectorAll('figure[data-plot]')].map(figure => {
        const box = figure.querySelector('svg').getBoundingClientRect();
        const marks = figure.querySelectorAll('svg path, svg use').length;
        return [figure.dataset.plot, box.width, box.height, marks]; })"""
    found = {name: (w, h, marks) for name, w, h, marks in browser.execute_script(script)}
    assert set(found) == {path.stem for path in EXAMPLE.parent.glob("*.svg")} >= {"bounds", "frontier", "energies"}
    assert all(w >= min(340, width - 60) and h > 200 and marks > 20 for w, h, marks in found.values())


def test_the_page_does_not_scroll_sideways_but_wide_tables_do_by_themselves(opened):
    browser, width = opened
    whole, seen = browser.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert whole == seen and width - 20 < seen <= width  # on a desk, a bar stands beside it
    script = "return [...document.querySelectorAll('.scroll')].map(box => [box.clientWidth, box.scrollWidth])"
    boxes = browser.execute_script(script)
    assert len(boxes) >= 4 and all(inner <= width for inner, _ in boxes)
    assert any(whole > inner for inner, whole in boxes) or width > 1000


def test_text_can_be_read(opened):
    browser, _ = opened
    script = """return [...document.querySelectorAll('p, li, td, th, h1, h2, figcaption, dd')].map(
        element => parseFloat(getComputedStyle(element).fontSize))"""
    assert min(browser.execute_script(script)) >= 12
    verdict = browser.find_element("id", "verdict")
    assert verdict.is_displayed() and len(verdict.text) > 40
    inks = "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
    ink, paper = browser.execute_script(inks)
    assert _contrast(ink, paper) > 7


def _contrast(one: str, other: str) -> float:
    """Of two CSS colours, as WCAG has it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
