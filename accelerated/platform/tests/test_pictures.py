"""Every page in both languages, on a desktop and on a phone: none is wider than the screen, and none has an error.

With ISOSPIKE_SCREENSHOTS=FOLDER pictures of all of them are kept, to be looked at.
"""

import pytest

from .browser import log_in, needed, shot
from .conftest import Started, wait

pytestmark = [needed, pytest.mark.long, pytest.mark.timeout(900)]

PAGES = {
    "home": "/", "ann": "/ann/new", "qann": "/qann/new", "test": "/test/new", "upload": "/ann/upload",
    "expected": "/ann/upload/expected?data=digits&model=cnn", "records": "/records/ann",
    "none": "/records/test?q=nothing",
    "trained": "/record/1", "quantised": "/record/2", "tested": "/record/3", "stopped": "/record/4",
    "failed": "/record/5",
    "waits": "/record/7", "compare": "/compare?id=3", "zoomed": "/compare?id=3&zoom=1", "users": "/users",
    "account": "/account", "missing": "/record/99",
}  # fmt: skip
SCREENS = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory):
    """A platform with records in all states, and two users."""
    platform = Started(tmp_path_factory.mktemp("lived in") / "data")
    boss = platform.administrator()
    boss.post("/example")
    assert wait(boss, 3, lambda record: record["ended"])["state"] == "finished"
    stopped = boss.post("/ann/new", json={"name": "stopped", "epochs": 500}).json()["id"]
    wait(boss, stopped, lambda record: record["epochs"])
    boss.post(f"/record/{stopped}/stop")
    wait(boss, stopped, lambda record: record["ended"])
    failed = boss.post("/ann/new", json={"name": "failed", "lr": 10, "epochs": 2}).json()["id"]
    wait(boss, failed, lambda record: record["ended"])
    for name in ("runs", "waits"):
        boss.post("/ann/new", json={"name": name, "epochs": 1000})
    boss.post("/record/1/tags", json={"tags": "course week-1"})
    boss.post("/users/invite", json={"uses": 30})
    yield platform
    platform.stop()


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("language", ["en-GB", "zh-CN"])
def test_every_page(lived_in, chromium, screen, language):
    context = chromium.new_context(locale=language, viewport=SCREENS[screen])
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(lived_in.base)
    shot(page, f"{screen}-{language}-login")
    page.context.add_cookies([{"name": "language", "value": "en", "url": lived_in.base}])
    log_in(page, lived_in.base, "boss")
    page.context.clear_cookies(name="language")
    for name, address in PAGES.items():
        page.goto(lived_in.base + address)
        page.wait_for_timeout(300)
        shot(page, f"{screen}-{language}-{name}")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is {wide} pixels wider than the {screen}"
    context.close()
    assert faults == []
