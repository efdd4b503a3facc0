"""A newcomer's way through the platform in a real Chromium."""

import re
import time

import pytest
from playwright.sync_api import expect

from .browser import join, log_in, needed, shot
from .conftest import contention

pytestmark = needed
WAIT = 240_000  # milliseconds for each step; what they take in all is asserted


@pytest.mark.timeout(1200)
def test_a_newcomers_way(page, chromium, started, record_property):
    """First start, invitation, log in, the example to its end, a log that grows, stop, delete, compare."""
    join(page, started.link, "boss")
    shot(page, "home")
    page.get_by_role("link", name="Users").click()
    page.get_by_role("button", name="Invite somebody").click()
    link = page.locator("#link").inner_text()
    shot(page, "users")

    other = chromium.new_context(locale="en-GB").new_page()
    join(other, link, "ada")
    other.get_by_role("button", name="Log out").click()
    log_in(other, started.base, "ada")

    other.get_by_role("button", name="Start the example").click()
    expect(other).to_have_url(re.compile(r"/record/3$"))
    expect(other.get_by_text("Before it come: 1 example (ANN, ")).to_be_visible()
    other.goto(f"{started.base}/record/1")
    lines = other.locator("#lines")
    expect(lines).to_contain_text("relu: epoch 1 of 12", timeout=WAIT)
    early = len(lines.inner_text().splitlines())
    expect(lines).to_contain_text("relu: epoch 12 of 12", timeout=WAIT)
    assert len(lines.inner_text().splitlines()) > early
    expect(other.locator(".state")).to_have_text("finished", timeout=WAIT)
    shot(other, "ann-record")

    other.goto(f"{started.base}/record/3")
    expect(other.get_by_text("equal to the quantised ANN on 360 of 360 images").first).to_be_visible(timeout=WAIT)
    expect(other.locator("svg.figure polyline")).to_have_count(3)
    expect(other.locator(".state")).to_have_text("finished")
    expect(other.get_by_role("table").first).to_contain_text("all bits")
    took = time.monotonic() - started.began
    record_property("seen", f"newcomer: from the command to accuracy over T in {took:.0f} s, without reading")
    assert took < 180 * contention(), "nobody would be done in five minutes, reading for two"
    shot(other, "result")

    other.get_by_role("link", name="Compare it").click()
    shot(other, "compare-one")
    other.goto(f"{started.base}/test/new")
    other.get_by_label("Record").select_option(value="2")
    other.get_by_label("When neurons fire").select_option(value="streaming")
    other.get_by_label("Calibration", exact=True).select_option(value="cos")
    other.get_by_label("Time steps T").fill("8")
    shot(other, "test-form")
    other.get_by_role("button", name="Start the test").click()
    expect(other.locator(".state")).to_have_text("finished", timeout=WAIT)
    other.goto(f"{started.base}/compare")
    for box in other.get_by_role("checkbox").all():
        box.check()
    other.get_by_role("button", name="Compare").click()
    expect(other.get_by_role("row", name=re.compile("4 .*, streaming, COS"))).to_be_visible()
    expect(other.locator("svg.figure polyline")).to_have_count(4)
    shot(other, "compare")

    other.goto(f"{started.base}/ann/new")
    shot(other, "ann-form")
    other.get_by_label("Epochs").fill("1000")
    other.get_by_label("Name").fill("endless")
    other.get_by_role("button", name="Start training").click()
    expect(other.locator(".state")).to_have_text("running", timeout=WAIT)
    expect(other.locator("#lines")).to_contain_text("epoch 2 of 1000", timeout=WAIT)
    other.on("dialog", lambda dialog: dialog.accept())
    other.get_by_role("button", name="Stop").click()
    expect(other.locator(".state")).to_have_text("stopped", timeout=WAIT)
    other.get_by_role("button", name="Delete").click()
    expect(other).to_have_url(re.compile("/records/ann$"))
    expect(other.get_by_role("link", name="endless")).to_have_count(0, timeout=WAIT)
    shot(other, "records")
    page.goto(f"{started.base}/records/test")
    expect(page.get_by_role("row")).to_have_count(3)  # the administrator sees ada's
    other.context.close()
