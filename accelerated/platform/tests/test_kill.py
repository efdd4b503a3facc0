"""Server, worker, runner and job are killed at random moments: nothing is lost, nothing doubled, nothing runs twice."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest

from accelerated.platform import jobs

from .conftest import Started, wait, wait_for

EPOCHS = 40
TARGETS = ("server", "worker", "job", "runner")


class Reader:
    """A browser that reads a record's log, and reconnects and continues whenever the connection breaks."""

    def __init__(self, platform, cookies, number):
        self.platform = platform
        self.cookies = cookies
        self.number = number
        self.lines: list = []
        self.offset = 0
        self.ended = None
        self.broken = 0  # how often the connection broke
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while self.ended is None:
            with contextlib.suppress(httpx.HTTPError):
                self.read()
            self.broken += 1
            time.sleep(0.2)

    def read(self):
        address = f"{self.platform.base}/record/{self.number}/news"
        with httpx.Client(cookies=self.cookies, timeout=30) as client:
            while True:
                new = client.get(address, params={"after": self.offset}).raise_for_status().json()
                self.lines += new["lines"]
                self.offset = new["after"]
                if new["record"]["ended"] and not new["more"]:
                    self.ended = new["record"]["state"]
                    return
                time.sleep(0.2)


def of(folder):
    """The command lines of all processes that mention a platform's folder."""
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(folder) in line]


def processes(platform, number):
    """{name: process} of a platform and the job of a record, those that are running now."""
    found = {"server": psutil.Process(platform.process.pid)}
    for child in found["server"].children():
        with contextlib.suppress(psutil.Error):
            if "--worker" in child.cmdline():
                found["worker"] = child
    leader = jobs.begun(platform.folder / "records" / str(number), 1)
    if leader:
        with contextlib.suppress(psutil.Error):
            found["runner"] = psutil.Process(leader["pid"])
            found.update(zip(["job"], found["runner"].children(), strict=False))
    return found


def kill_rounds(folder, rounds, seed, epochs=EPOCHS, latest=6.0):
    """Kill each round's targets, each at most `latest` seconds after the one before; returns counts, all checked.

    What a kill ended is gone on with: all rounds have the same settings, and end with the same weights.
    """
    draw = random.Random(seed)
    platform = Started(folder, environment=os.environ | {"OMP_NUM_THREADS": "1"})  # before the first epoch, too
    seen: dict = {"kills": 0, "reconnections": 0, "gone on with": 0, "states": []}
    try:
        client = platform.administrator()
        answers = {"name": "whole", "epochs": epochs, "width": 0.5}
        number = client.post("/ann/new", json=answers).json()["id"]
        wait(client, number, lambda record: record["state"] == "finished")
        whole = weights_of(platform, number)
        for targets in rounds:
            number = client.post("/ann/new", json=answers | {"name": f"kill-{'-'.join(targets)}"}).json()["id"]
            reader = Reader(platform, dict(client.cookies), number)
            learnt = {"job", "runner"} & set(targets)  # what these end has learnt something before
            wait(client, number, lambda record, learnt=learnt: record["epochs" if learnt else "began"])
            hit = [target for target in targets if kill(platform, number, target, draw, latest)]
            seen["kills"] += len(hit)
            client.base_url = platform.base
            record = wait(client, number, lambda record: record["ended"])
            reader.thread.join(30)
            check(platform.folder / "records" / str(number), record, reader, hit, epochs)
            seen["states"].append(record["state"])
            if record["state"] != "finished":
                seen["gone on with"] += record["kept"] is not None
                assert client.post(f"/record/{number}/resume").status_code == 202
                wait(client, number, lambda record: record["state"] == "finished")
                shown = client.get(f"/record/{number}").json()["record"]["epochs"]
                assert [line["epoch"] for line in shown] == [*range(1, epochs + 1)]
            assert weights_of(platform, number) == whole, "the kill changed what was learnt"
            seen["reconnections"] += reader.broken - 1
        assert not [line for line in of(folder) if "accelerated.run" in line], "a job outlived its record"
    finally:
        platform.stop()
    wait_for(lambda: not of(folder), "a process outlived the platform")
    return seen


def weights_of(platform, number):
    """The bytes of a record's weights."""
    return (platform.folder / "records" / str(number) / "run" / "weights.safetensors").read_bytes()


def kill(platform, number, target, draw, latest):
    """Kill a target some seconds later; False if it had ended by then."""
    time.sleep(draw.uniform(0, latest))
    victim = processes(platform, number).get(target)
    if victim is not None:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:  # it ended just now
            victim = None
    if target == "server":
        platform.process.wait()
        time.sleep(draw.uniform(0, latest / 2))
        platform.process.stdout.close()
        platform.start()
    return victim is not None


def check(folder, record, reader, hit, epochs):
    """Check one round's record: its state, that it ran once, and that its log was read completely."""
    log = (folder / "log.txt").read_text()
    assert reader.ended == record["state"]
    assert reader.lines == log.splitlines(), "a line was lost or doubled"
    begun = [json.loads(path.read_text())["pid"] for path in folder.glob("begun-*")]  # 0: prevented
    assert len([pid for pid in begun if pid]) == 1, "it ran twice"
    epochs_done = re.findall(r"relu: epoch (\d+) of \d+, lr", log)
    assert epochs_done == [str(i + 1) for i in range(len(epochs_done))], "an epoch is missing or was done twice"
    if not {"job", "runner"} & set(hit):
        assert (record["state"], len(epochs_done)) == ("finished", epochs)
    else:
        assert record["state"] in ("lost", "failed", "finished")  # finished: it ended before the signal came
        assert record["state"] == "finished" or record["message"]


def test_a_worker_whose_server_died_before_it_looked_ends(tmp_path):
    """A worker takes seconds to start; by then its parent may be another process than its server."""
    server = subprocess.Popen(["true"])
    server.wait()
    command = [sys.executable, "-m", "accelerated.platform", "--worker", str(server.pid), "--folder", str(tmp_path)]
    assert subprocess.run(command, timeout=60).returncode == 0


def test_nothing_is_lost_when_something_is_killed(tmp_path, record_property):
    """The short form: server and worker, then job and server; test_jobs.py covers the runner."""
    seen = kill_rounds(tmp_path / "data", [("worker", "server"), ("job", "server")], seed=1, epochs=30, latest=2)
    record_property("seen", f"kill: {seen}")
    assert seen["kills"] >= 3
    assert seen["reconnections"] >= 1, "the reader never had to come back"
    assert seen["gone on with"] >= 1, "nothing had to go on"


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_nothing_is_lost_in_twenty_rounds(tmp_path, record_property):
    draw = random.Random(2)
    seen = kill_rounds(tmp_path / "data", [(draw.choice(TARGETS),) for _ in range(20)], seed=3)
    record_property("seen", f"kill: {seen}")
    assert seen["kills"] >= 15
