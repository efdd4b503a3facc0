"""A record in whole numbers is watched on a page of its own, which the site's cookies are out of reach of."""

import re

from PIL import Image
from playwright.sync_api import expect

from .browser import log_in, needed
from .conftest import wait

ANN = {"name": "small", "data": "digits", "model": "cnn", "width": "0.25", "epochs": "1"}
QANN = {"name": "small", "epochs1": "1", "epochs2": "0", "activation": "s-qcfs", "source": "1"}
TEST = {"name": "small", "source": "2", "schedule": "halving", "steps": "16", "bits": "8", "test_images": "32"}


def made(started):
    """(a client, the number of a finished test in whole numbers)."""
    client = started.administrator()
    for kind, answers in (("ann", ANN), ("qann", QANN), ("test", TEST)):
        number = client.post(f"/{kind}/new", json=answers).json()["id"]
    record = wait(client, number, lambda found: found["ended"])
    assert record["state"] == "finished", record
    assert record["settings"]["bits"] == 8
    assert "network.html" in record["files"]
    return client, number


def test_only_its_owner_opens_it_and_it_is_kept_apart(started):
    client, number = made(started)
    answer = client.get(f"/record/{number}/watch")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")
    assert client.get("/record/1/watch").status_code == 404  # of real numbers
    assert started.client().get(f"/record/{number}/watch", follow_redirects=False).status_code != 200
    again = client.get(f"/test/new?again={number}").json()["answers"]
    assert int(again["bits"]) == 8


@needed
def test_an_image_is_uploaded_and_seen_to_become_exact(started, chromium, tmp_path):
    page, faults = chromium.new_context(locale="en-GB").new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    log_in(page, started.base, "boss")
    page.goto(f"{started.base}/record/3")
    page.get_by_role("link", name="Watch it").click()
    expect(page).to_have_url(re.compile("/record/3/watch$"))
    assert page.evaluate("self.origin") == "null"  # another origin than the site's
    Image.new("L", (40, 40), 0).save(tmp_path / "black.png")
    page.get_by_label("Your own image").set_input_files(tmp_path / "black.png")
    page.focus("#paper")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#pixel")).to_have_text(re.compile("16 of 16"))
    for _ in range(16):
        page.click("#step")
    expect(page.locator("#verdict.exact")).to_contain_text("Exact since step")
    assert faults == []
