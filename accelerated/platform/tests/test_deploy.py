"""Behind a proxy, as a service, watched over."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from accelerated.checks import InputError
from accelerated.platform.database import Record
from accelerated.platform.options import PlatformOptions, checked

from .conftest import Inside

DEPLOY = Path(__file__).parents[3] / "deploy"


def test_under_a_path_every_address_lies_there(tmp_path):
    inside = Inside(tmp_path / "platform", path="/spikes")
    boss = inside.user("boss", administrator=True)
    number = boss.post("/ann/new", json={}).json()["id"]
    with inside.database.begin() as db:
        db.get_one(Record, number).name = 'a href="/elsewhere"'
    for path in ("/", "/ann/new", "/records/ann", f"/record/{number}", "/users", "/account", "/compare", "/record/9"):
        text = boss.get(path, headers={"accept": "text/html"}).text
        found = re.findall(r'(?:href|src|action|data-news)="(/[^"]*)"', text)
        assert found, path
        assert all(address.startswith("/spikes/") for address in found), (path, found)
        assert "/spikes/elsewhere" not in text
    answer = boss.post("/ann/new", data={"name": "x"}, headers={"accept": "text/html"})
    assert answer.headers["location"] == "/spikes/record/2"
    assert boss.post("/users/invite", json={}).json()["link"].startswith("http://127.0.0.1/spikes/invitations/")
    headers = {"accept": "text/html", "referer": "http://127.0.0.1/spikes/records/ann"}
    assert boss.post("/language/zh", headers=headers).headers["location"] == "/spikes/records/ann"
    answer = inside.anonymous.get("/compare", headers={"accept": "text/html"})
    assert answer.headers["location"] == "/spikes/login?back=/compare"


@pytest.mark.parametrize("path", ["spikes", "/", "/a/", "/a b", '/"', "/a//b"])
def test_a_path_that_is_none_is_refused(tmp_path, path):
    with pytest.raises(InputError, match="path must be like /spikes"):
        checked(PlatformOptions(folder=str(tmp_path / "x"), path=path))
    assert not (tmp_path / "x").exists()


def test_its_health_can_be_asked_by_anyone(inside):
    assert inside.anonymous.get("/health").json() == {"healthy": True}
    inside.database.engine.dispose()
    (inside.options.home / "isospike.db").write_bytes(b"damaged" * 1000)
    assert inside.anonymous.get("/health").status_code == 503


def test_an_error_that_nobody_foresaw_gets_the_sites_own_page(inside, ada, monkeypatch):
    monkeypatch.setattr("accelerated.platform.records.visible", lambda *_: 1 / 0)
    client = TestClient(inside.app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    client.cookies = ada.cookies
    answer = client.get("/", headers={"accept": "text/html"})
    assert answer.status_code == 500
    assert "the log of the server says what" in answer.text
    assert "ZeroDivisionError" not in answer.text
    assert "<header>" in answer.text


def test_the_service_is_understood(tmp_path):
    """With the interpreter of the test, since the one of the example is not here."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd on this machine")
    text = (DEPLOY / "isospike.service").read_text().replace("/srv/isospike/venv/bin/python", sys.executable)
    (tmp_path / "isospike.service").write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / "isospike.service"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "KillMode=process" in text, "stopping the service leaves jobs alive"


def test_the_examples_name_options_that_there_are():
    names = {f"--{name.replace('_', '-')}" for name in PlatformOptions.__dataclass_fields__}
    for path in DEPLOY.iterdir():
        assert set(re.findall(r"--(?:folder|names|path|host|upload-limit|port)\b", path.read_text())) <= names
        for name in re.findall(r"accelerated\.platform[^\n]*", path.read_text()):
            assert set(re.findall(r"--[a-z-]+", name)) <= names, path
