"""The way of a new user through the platform in a real Chromium."""

import re
import time

import pytest
from playwright.sync_api import expect

from .browser import join, log_in, needed, shot
from .conftest import contention

pytestmark = needed
WAIT = 240_000  # milliseconds for each step; their total is asserted below


def invited(page, chromium, started):
    """The administrator joins and invites ada; ada's page, logged out and in again."""
    join(page, started.link, "boss")
    shot(page, "home")
    page.get_by_role("link", name="Users").click()
    page.get_by_role("button", name="Make a link").click()
    link = page.locator("#link").inner_text()
    shot(page, "users")
    ada = chromium.new_context(locale="en-GB").new_page()
    join(ada, link, "ada")
    ada.get_by_role("button", name="Log out").click()
    log_in(ada, started.base, "ada")
    return ada


def run_the_example(ada, base):
    """The example to its end, with a log that grows."""
    ada.get_by_role("button", name="Start the example").click()
    expect(ada).to_have_url(re.compile(r"/record/3$"))
    expect(ada.get_by_text("Waiting for: 1 example (ANN, ")).to_be_visible()
    ada.goto(f"{base}/record/1")
    lines = ada.locator("#lines")
    expect(lines).to_contain_text("relu: epoch 1 of 12", timeout=WAIT)
    early = len(lines.inner_text().splitlines())
    expect(lines).to_contain_text("relu: epoch 12 of 12", timeout=WAIT)
    assert len(lines.inner_text().splitlines()) > early
    expect(ada.locator(".state")).to_have_text("finished", timeout=WAIT)
    shot(ada, "ann-record")

    ada.goto(f"{base}/record/3")
    expect(
        ada.get_by_text("on equal to the quantised ANN, in every bit of its output, on all 360 images").first
    ).to_be_visible(timeout=WAIT)
    expect(ada.locator("svg.figure polyline")).to_have_count(8)  # four schedules over steps, and over spikes
    expect(ada.locator(".state")).to_have_text("finished")
    expect(ada.get_by_role("table").first).to_contain_text("all bits")


def compare(ada, base):
    """A second test with COS, beside the example's."""
    ada.get_by_role("link", name="Compare it").click()
    shot(ada, "compare-one")
    ada.goto(f"{base}/test/new")
    ada.get_by_label("Record").select_option(value="2")
    ada.get_by_label("When neurons fire").select_option(value="streaming")
    ada.get_by_label("Calibration", exact=True).select_option(value="cos")
    ada.get_by_label("Time steps T").fill("8")
    shot(ada, "test-form")
    ada.get_by_role("button", name="Start the test").click()
    expect(ada.locator(".state")).to_have_text("finished", timeout=WAIT)
    ada.goto(f"{base}/compare")
    for box in ada.get_by_role("checkbox").all():
        box.check()
    ada.get_by_role("button", name="Compare").click()
    expect(ada.get_by_role("row", name=re.compile("4 .*, streaming, COS"))).to_be_visible()
    expect(ada.locator("svg.figure polyline")).to_have_count(10)
    shot(ada, "compare")


def stop_and_delete(ada, base):
    """A long training, stopped and deleted while it runs."""
    ada.goto(f"{base}/ann/new")
    shot(ada, "ann-form")
    ada.get_by_label("Epochs").fill("1000")
    ada.get_by_label("Name").fill("endless")
    ada.get_by_role("button", name="Start training").click()
    expect(ada.locator(".state")).to_have_text("running", timeout=WAIT)
    expect(ada.locator("#lines")).to_contain_text("epoch 2 of 1000", timeout=WAIT)
    ada.on("dialog", lambda dialog: dialog.accept())
    ada.get_by_role("button", name="Stop").click()
    expect(ada.locator(".state")).to_have_text("stopped", timeout=WAIT)
    ada.get_by_role("button", name="Delete").click()
    expect(ada).to_have_url(re.compile("/records/ann$"))
    expect(ada.get_by_role("link", name="endless")).to_have_count(0, timeout=WAIT)
    shot(ada, "records")


@pytest.mark.timeout(1200)
def test_a_newcomers_way(page, chromium, started, record_property):
    """First start, invitation, log in, the example to its end, compare, stop, delete."""
    ada = invited(page, chromium, started)
    run_the_example(ada, started.base)
    took = time.monotonic() - started.began
    record_property("seen", f"newcomer: from the command to accuracy over T in {took:.0f} s, without reading")
    assert took < 180 * contention(), "with two minutes to read, a person would need more than five minutes"
    shot(ada, "result")
    compare(ada, started.base)
    stop_and_delete(ada, started.base)
    page.goto(f"{started.base}/records/test")
    expect(page.get_by_role("row")).to_have_count(3)  # the administrator sees ada's records
    ada.context.close()
