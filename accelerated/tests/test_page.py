"""The page with a whole network, in a real browser, opened as a file: drawn, run, seen to become exact."""

import shutil
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is seen by a browser: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
PAGE = (Path(__file__).parents[2] / "docs" / "_static" / "network.html").as_uri()
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.fixture(scope="module")
def chromium():
    """A real browser, without a profile."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """The page in a fresh profile, without a network; errors fail the test."""
    context, faults = chromium.new_context(viewport={"width": 1000, "height": 1300}, offline=True), []
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith("file:") else faults.append(request.url))
    page.goto(PAGE)
    yield page
    context.close()
    assert faults == []


def drawn(page, points):
    """Draw a line through pixels (column, row)."""
    box = page.locator("#paper").bounding_box()
    places = [(box["x"] + (x + 0.5) * box["width"] / 8, box["y"] + (y + 0.5) * box["height"] / 8) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


@pytest.mark.parametrize("schedule", ["signed", "halving"])
def test_a_drawn_digit_is_seen_to_become_exact(page, schedule):
    page.click("#clear")
    drawn(page, [(4, 0), (4, 7)])
    page.check(f"[value={schedule}]")
    assert page.inner_text("#verdict") == "Nothing has fired. The quantised network says 1."
    page.click("#step")
    assert "Not exact yet." in page.inner_text("#verdict")
    page.click("#play")
    page.wait_for_selector("#verdict.exact")
    page.wait_for_selector("#play[aria-pressed=false]")
    said = page.inner_text("#verdict")
    assert "the spiking network says 1, the quantised one 1. Exact since step" in said
    assert page.locator("td.differs").count() == 0
    page.hover("#layer-relu", position={"x": 103, "y": 21})
    assert "level of the quantised network" in page.inner_text("#neuron")


def test_streaming_does_not_become_exact(page):
    page.check("[value=streaming]")
    for _ in range(8):
        page.click("#step")
    assert "Counts are not the levels" in page.inner_text("#verdict")
    assert page.locator("td.differs").count() > 0


def test_it_is_drawn_and_stepped_by_keyboard(page):
    page.click("#clear")
    page.focus("#paper")
    for key in ("ArrowDown", " ", " ", " ", " ", "ArrowRight", " "):
        page.keyboard.press(key)
    assert page.inner_text("#pixel") == "Row 5, column 5: 4 of 16."
    page.focus("#step")
    page.keyboard.press("Enter")
    assert page.inner_text("#verdict").startswith("Step 1, ")
    page.focus("#layer-relu")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#neuron").startswith("relu, channel 0, row 0, column 1: membrane")


def test_it_fits_a_phone(chromium):
    page = chromium.new_page(viewport={"width": 360, "height": 740})
    page.goto(PAGE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()
