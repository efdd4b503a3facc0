"""Every page in a real Chromium: in Chinese, on a phone, without a mouse, with labels and contrast."""

import pytest
from playwright.sync_api import expect
from safetensors.torch import save

from accelerated.models import make

from .browser import log_in, needed, shot
from .conftest import PASSWORD, wait

PATHS = ("/", "/ann/new", "/qann/new", "/test/new", "/records/ann", "/record/3", "/compare?id=3", "/account")
pytestmark = [needed, pytest.mark.usefixtures("filled")]


@pytest.fixture(scope="module")
def filled(started):
    """The platform with ada and three small records: a network that she uploads, the quantised one, its test."""
    boss = started.administrator()
    ada = started.client()
    link = boss.post("/users/invite").json()["link"]
    assert ada.post(link, json={"name": "ada", "password": PASSWORD, "again": PASSWORD}).status_code == 200
    weights = save(make("cnn", (1, 8, 8), 10, 0.25).state_dict())
    uploaded = ada.post(
        "/ann/upload", data={"data": "digits", "model": "cnn", "width": "0.25"}, files={"file": weights}
    )
    assert uploaded.status_code == 201, uploaded.text
    for kind, answers in (("qann", {"source": 1, "epochs1": 1, "epochs2": 1}),
                          ("test", {"source": 2, "steps": 2, "test_images": 50})):  # fmt: skip
        assert ada.post(f"/{kind}/new", json=answers).status_code == 201
    assert wait(ada, 3, lambda record: record["ended"])["state"] == "finished"


def test_a_wrong_answer_is_reported_beside_its_field(page, started):
    log_in(page, started.base, "ada")
    page.goto(f"{started.base}/ann/new")
    page.get_by_label("Epochs").fill("many")
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_role("alert")).to_contain_text("many is not a whole number from 0 to 1000.")
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
    expect(page.get_by_text("在全部 50 张图像上与量化 ANN 的输出逐位相同").first).to_be_visible()
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
                .filter((field) => !field.labels.length && !field.ariaLabel).map((field) => field.name)""")
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
