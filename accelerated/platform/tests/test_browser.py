"""A newcomer's way through the platform in a real Chromium. Screenshots go to $ISOSPIKE_SCREENSHOTS, if it is set."""

import os
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from .conftest import PASSWORD

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PATHS = ("/", "/ann/new", "/qann/new", "/test/new", "/records/ann", "/record/3", "/compare?id=3", "/account")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
              pytest.mark.xdist_group("browser")]  # fmt: skip


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, started):
    """A fresh profile; whatever a page asks another machine for, or complains about, fails the test."""
    context = chromium.new_context(locale="en-GB", viewport={"width": 1100, "height": 900})
    page, odd = context.new_page(), []
    page.on("request", lambda request: odd.append(request.url) if not request.url.startswith(started.base) else None)
    page.on("pageerror", lambda error: odd.append(str(error)))
    page.on(
        "console",
        lambda said: odd.append(said.text) if said.type == "error" and "status of 4" not in said.text else None,
    )
    yield page
    context.close()
    assert odd == []


def shot(page, name):
    """Keep a picture of the page."""
    folder = os.environ.get("ISOSPIKE_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def join(page, address, name):
    page.goto(address)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password, 8 letters or more").fill(PASSWORD)
    page.get_by_label("The password again").fill(PASSWORD)
    shot(page, f"join-{name}")
    page.get_by_role("button", name="Make the account").click()
    expect(page.get_by_role("heading", name="From an ordinary network to a spiking one")).to_be_visible()


def log_in(page, base, name):
    page.goto(base)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


@pytest.mark.timeout(400)
def test_a_newcomers_way(page, chromium, started):
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
    other.goto(f"{started.base}/record/1")
    lines = other.locator("#lines")
    expect(lines).to_contain_text("relu: epoch 1 of 12", timeout=60_000)
    early = len(lines.inner_text().splitlines())
    expect(lines).to_contain_text("relu: epoch 12 of 12", timeout=60_000)
    assert len(lines.inner_text().splitlines()) > early
    expect(other.locator(".state")).to_have_text("finished", timeout=30_000)
    shot(other, "ann-record")

    other.goto(f"{started.base}/record/3")
    expect(other.get_by_text("equal to the quantised ANN on 360 of 360 images").first).to_be_visible(timeout=150_000)
    expect(other.locator("svg.figure polyline")).to_have_count(3)
    expect(other.locator(".state")).to_have_text("finished")
    expect(other.get_by_role("table").first).to_contain_text("all bits")
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
    expect(other.locator(".state")).to_have_text("finished", timeout=90_000)
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
    expect(other.locator(".state")).to_have_text("running", timeout=30_000)
    expect(other.locator("#lines")).to_contain_text("epoch 2 of 1000", timeout=60_000)
    other.get_by_role("button", name="Stop").click()
    expect(other.locator(".state")).to_have_text("stopped", timeout=30_000)
    other.on("dialog", lambda dialog: dialog.accept())
    other.get_by_role("button", name="Delete").click()
    expect(other).to_have_url(re.compile("/records/ann$"))
    expect(other.get_by_role("link", name="endless")).to_have_count(0, timeout=20_000)
    shot(other, "records")
    page.goto(f"{started.base}/records/test")
    expect(page.get_by_role("row")).to_have_count(3)  # the administrator sees ada's
    other.context.close()


def test_a_wrong_answer_is_said_beside_its_field(page, started):
    log_in(page, started.base, "ada")
    page.goto(f"{started.base}/ann/new")
    page.get_by_label("Epochs").fill("many")
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_role("alert")).to_contain_text("This must be a whole number from 0 to 1000.")
    expect(page.get_by_label("Epochs")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Epochs")).to_have_value("many")
    shot(page, "refused")


def test_a_chinese_browser_gets_chinese_pages(chromium, started):
    context = chromium.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(started.base)
    page.get_by_label("名称").fill("ada")
    page.get_by_label("密码").fill(PASSWORD)
    page.get_by_role("button", name="登录").click()
    expect(page.get_by_role("heading", name="从普通网络到脉冲网络")).to_be_visible()
    page.goto(f"{started.base}/record/3")
    expect(page.get_by_text("360 张图像中有 360 张").first).to_be_visible()
    shot(page, "chinese")
    context.close()


def test_all_can_be_done_without_a_mouse(page, started):
    log_in(page, started.base, "ada")
    page.goto(f"{started.base}/ann/new")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
    assert {"name", "data", "model", "optimiser", "lr", "epochs", "batch", "seed", "Start training"} <= reached


def test_pages_fit_a_phone(chromium, started, page):
    log_in(page, started.base, "ada")
    page.set_viewport_size({"width": 360, "height": 740})
    for path in PATHS:
        page.goto(started.base + path)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, f"{path} is {width} wide"
    page.goto(f"{started.base}/record/3")
    shot(page, "phone")


def test_every_field_has_a_label_and_every_text_enough_contrast(page, started):
    log_in(page, started.base, "ada")
    for path in (*PATHS, "/ann/upload", "/records/test"):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.goto(started.base + path)
            bare = page.evaluate("""() => [...document.querySelectorAll("input:not([type=hidden]), select")]
                .filter((field) => !field.labels.length).map((field) => field.name)""")
            assert bare == [], path
            assert page.evaluate(CONTRAST) == [], (path, scheme)


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const c = parse(getComputedStyle(node).backgroundColor);
      if (c.length === 3 || c[3] > 0.99) return c;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest(".skip, option, script")) continue;
    const style = getComputedStyle(node), svg = node.namespaceURI.endsWith("svg");
    const ink = light(parse(svg ? style.fill : style.color)), paper = light(behind(node));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) bad.push(`${node.tagName} ${node.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return bad;
}"""
