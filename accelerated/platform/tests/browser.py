"""Steps in Chromium that several tests need. Screenshots go to $ISOSPIKE_SCREENSHOTS, if it is set."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect

from .conftest import CHROMIUM, PASSWORD

needed = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


def shot(page, name):
    """Keep a picture of the page."""
    folder = os.environ.get("ISOSPIKE_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def join(page, address, name):
    page.goto(address)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password, 8 characters or more").fill(PASSWORD)
    page.get_by_label("Repeat the password").fill(PASSWORD)
    shot(page, f"join-{name}")
    page.get_by_role("button", name="Create the account").click()
    expect(page.get_by_role("heading", name="From an ordinary network to a spiking one")).to_be_visible()


def log_in(page, base, name):
    page.goto(base)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()
