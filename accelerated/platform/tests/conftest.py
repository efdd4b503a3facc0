"""The platform in one process, and as users start it, with a server and a worker."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import httpx
import pytest
from playwright.sync_api import sync_playwright
from sqlalchemy import select
from starlette.testclient import TestClient

from accelerated.platform import accounts, app, runner
from accelerated.platform.database import Database, User
from accelerated.platform.options import PlatformOptions, checked
from accelerated.platform.web import COOKIE

PASSWORD = "a good long password"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
JSON = {"accept": "application/json"}


class Inside:
    """The application in this process, on a database of its own, and clients of its users."""

    def __init__(self, folder, **options):
        self.options = checked(PlatformOptions(folder=str(folder), **options))
        self.database = Database(self.options.database)
        self.database.migrate()
        self.app = app.make(self.options, self.database)
        self.anonymous = self.client()

    def client(self):
        """A browser that is not logged in."""
        return TestClient(self.app, base_url="http://127.0.0.1", headers=JSON, follow_redirects=False)

    def user(self, name, administrator=False):
        """The browser of a new user."""
        with self.database.begin() as db:
            accounts.register(db, name, PASSWORD, administrator)
        client = self.client()
        assert client.post("/login", data={"name": name, "password": PASSWORD}).status_code == 200
        return client

    def session(self, name):
        """A browser in which a user, who is there already, is logged in; without the time that a password takes."""
        client = self.client()
        with self.database.begin() as db:
            user = db.scalars(select(User).where(User.name == name)).one()
            client.cookies.set(COOKIE, accounts.open_session(db, user, "test"))
        return client


@pytest.fixture
def inside(tmp_path):
    """The platform in this process, with nobody in it."""
    return Inside(tmp_path / "platform")


@pytest.fixture
def ada(inside):
    """A user's browser."""
    return inside.user("ada")


PATIENCE = 60.0  # seconds for what takes one second on an idle machine; the machine of a test may be busy


class Machinery(RuntimeError):
    """The test environment failed, not the product."""


def wait_for(holds, otherwise, seconds=PATIENCE):
    """The value of `holds()` once it is true; fails with `otherwise` if it never is."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{otherwise} (waited {seconds:g} s)"
        time.sleep(0.02)
    return found


def gone(pid):
    """Whether a process ends."""
    return wait_for(lambda: runner.began(pid) is None, f"process {pid} lives on")


def contention():
    """The factor by which other processes slow down computing on this machine now; at least 1."""
    wall = time.monotonic()
    own = time.process_time()
    while time.process_time() - own < 0.5:
        pass
    return max(1.0, (time.monotonic() - wall) / 0.5)


def free_port():
    """A free port, from a range of this test process alone, below the ports that the system assigns."""
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "0")))
    for port in range(20000 + 500 * worker, 20500 + 500 * worker):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise Machinery("no port is free")


class Started:
    """The platform, started by its command."""

    def __init__(self, folder, *arguments, environment=None):
        self.folder = folder
        self.port = free_port()
        self.arguments = arguments
        self.environment = environment
        self.output: list = []
        self.link: Any = None
        self.process: Any = None
        self.began = time.monotonic()
        self.start()

    def start(self):
        """Start it, and wait until it serves."""
        command = [sys.executable, "-m", "accelerated.platform", "--folder", str(self.folder), "--port", str(self.port)]
        self.process = subprocess.Popen([*command, *self.arguments], stdout=subprocess.PIPE, text=True,
                                        env=self.environment)  # fmt: skip
        for line in self.process.stdout:
            self.output.append(line)
            found = re.search(r"http://\S+/invitations/\S+", line)
            self.link = found.group() if found else self.link
            if "Ctrl-C" in line:
                break
        else:
            raise AssertionError(f"the platform did not start: {self.output}")
        self.base = f"http://127.0.0.1:{self.port}"

    def client(self):
        """A program's connection to it."""
        return httpx.Client(base_url=self.base, headers=JSON, timeout=60)

    def administrator(self):
        """The connection of the administrator, made with the printed link."""
        client = self.client()
        answer = client.post(self.link, json={"name": "boss", "password": PASSWORD, "again": PASSWORD})
        assert answer.status_code == 200, answer.text
        return client

    def stop(self):
        """Ctrl-C."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """The platform with server and worker, once for a module."""
    platform = Started(tmp_path_factory.mktemp("platform") / "data")
    yield platform
    platform.stop()


def wait(client, number, until, seconds=240):
    """The record once `until(record)` holds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        record = client.get(f"/record/{number}").json()["record"]
        if until(record):
            return record
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} s for record {number}: {record['state']}, {record['message']}")


@pytest.fixture(scope="module")
def chromium():
    """A real browser, without a profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, started):
    """A fresh profile; requests to other machines, and errors on a page, fail the test."""
    context = chromium.new_context(locale="en-GB", viewport={"width": 1100, "height": 900})
    page = context.new_page()
    faults: list = []

    def on_request(request):
        if not request.url.startswith(started.base):
            faults.append(request.url)

    def on_console(message):
        if message.type == "error" and "status of 4" not in message.text:
            faults.append(message.text)

    page.on("request", on_request)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", on_console)
    yield page
    context.close()
    assert faults == []
