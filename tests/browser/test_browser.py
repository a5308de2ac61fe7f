"""The report and the site in a real browser. Skipped where there is no Chromium; the site is only tested where it was built."""

from __future__ import annotations

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import sb3_forecast as sf
from sb3_forecast.statistics.words import probability_in_words

webdriver = pytest.importorskip("selenium.webdriver")
ROOT = Path(__file__).parent.parent.parent
SITE = os.environ.get("SB3_FORECAST_SITE")


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def scores():
    return np.random.default_rng(0).gumbel(-2.0, 0.4, 300)


@pytest.fixture
def report(browser, scores, tmp_path):
    sf.write_html(tmp_path / "report.html", "A report", scores=scores)
    browser.get((tmp_path / "report.html").as_uri())
    return browser


def errors(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def text(browser, name):
    return browser.find_element("id", name).text


def test_the_slider_moves_the_numbers_to_those_of_the_library(report, scores):
    tail = sf.GumbelTail.fit(scores)
    slider = report.find_element("id", "size")
    shown = []
    for key in ("\ue011", "\ue014", "\ue014", "\ue010"):  # home, right, right, end
        slider.send_keys(key)
        n = float(text(report, "size-text").replace(",", ""))
        shown.append(n)
        assert text(report, "forecast") == probability_in_words(float(sf.failure_probability(tail.forecast(n))))
        assert text(report, "limit") == probability_in_words(float(sf.failure_probability(tail.interval(int(n), 0.9)[1])))
        assert slider.get_attribute("aria-valuetext") == f"{n:,.0f} tasks"
        mark = report.find_element("id", "mark")
        assert mark.get_attribute("x1") == mark.get_attribute("x2") != "0"
    assert shown == [500.0, 1000.0, 2000.0, 1e9]
    assert errors(report) == []


def test_a_phone_shows_it_without_scrolling_sideways(report):
    report.set_window_size(500, 900)  # the narrowest that Chromium makes
    inside, window = report.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert inside <= window
    report.set_window_size(1200, 900)


def test_dark_mode_changes_the_page(report):
    def page_colour():
        return report.execute_script("return getComputedStyle(document.body).backgroundColor")

    light = page_colour()
    report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    assert page_colour() != light
    report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


needs_site = pytest.mark.skipif(SITE is None, reason="needs the site: `make test-browser` builds it")


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address():
    """The site, served on this machine: pages that are opened as files may not search."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(ROOT / SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@needs_site
@pytest.mark.parametrize(
    "name",
    [
        "index.html",
        "auto_tutorials/01_scores.html",
        "api/training.html",
        "method.html",
        "trust.html",
        "splitting.html",
        "results.html",
    ],
)
def test_pages_load_whole(browser, address, name):
    browser.get(address + name)
    broken = browser.execute_script(
        "return [...document.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => i.src)"
    )
    assert broken == []
    assert errors(browser) == []
    assert browser.find_element("tag name", "h1").text
    outside = browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
        ".filter(name => !name.startsWith(arguments[0]) && !name.startsWith('data:'))",
        address,
    )
    assert outside == []


@needs_site
def test_search_finds_a_page(browser, address):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(f"{address}search.html?q=splitting")
    WebDriverWait(browser, 20).until(lambda b: b.find_elements("css selector", "#search-results li a"))
    assert errors(browser) == []


@needs_site
def test_equations_are_drawn(browser, address):
    browser.get(address + "method.html")
    assert len(browser.find_elements("css selector", "math")) > 100


@needs_site
def test_every_public_name_is_in_the_reference():
    import importlib

    for package, pages in {
        "sb3_forecast": ("training", "measuring", "scorers", "statistics", "baselines"),
        "sb3_forecast_envs": ("sb3_forecast_envs",),
        "sb3_forecast.lm": ("sb3_forecast.lm",),
        "sb3_forecast.cluster": ("sb3_forecast.cluster",),
    }.items():
        texts = "".join((ROOT / SITE / "api" / f"{page}.html").read_text(encoding="utf-8") for page in pages)
        names = [name for name in importlib.import_module(package).__all__ if not name.startswith("__")]
        assert [name for name in names if f'id="{package}.{name}"' not in texts and f">{name}<" not in texts] == []
