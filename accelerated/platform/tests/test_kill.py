"""Server, worker, runner and job are killed at random moments: nothing is lost, nothing doubled, nothing runs twice."""

import contextlib
import json
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
    """A browser that reads a record's log, comes back whenever the connection breaks, and goes on where it was."""

    def __init__(self, platform, cookies, number):
        self.platform, self.cookies, self.number, self.lines, self.offset = platform, cookies, number, [], "0"
        self.ended, self.broken = None, 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while self.ended is None:
            with contextlib.suppress(httpx.HTTPError):
                self.read()
            self.broken += 1
            time.sleep(0.2)

    def read(self):
        headers = {"last-event-id": self.offset}
        address = f"{self.platform.base}/record/{self.number}/events"
        with httpx.stream("GET", address, headers=headers, cookies=self.cookies, timeout=30) as answer:
            event = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if line and not line.startswith(":"):
                    event[name] = value
                elif event.get("event") == "log":  # taken as a whole, as browsers do, or not at all
                    self.lines, self.offset = [*self.lines, *json.loads(event["data"])], event["id"]
                    event = {}
                elif event.get("event") == "end":
                    self.ended = json.loads(event["data"])["state"]
                    return
                else:
                    event = {}


def of(folder):
    """The command lines of all processes that have to do with a platform's folder."""
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(folder) in line]


def processes(platform, number):
    """{what: process} of a platform and the job of a record, those that live: each may begin or end as we look."""
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
    """Kill a round's targets, each at most `latest` seconds after the one before; returns what was seen, checked."""
    draw, platform = random.Random(seed), Started(folder)
    seen: dict = {"kills": 0, "reconnections": 0, "states": []}
    try:
        client = platform.administrator()
        for targets in rounds:
            answers = {"name": f"kill-{'-'.join(targets)}", "epochs": epochs, "width": 0.5}
            number = client.post("/ann/new", json=answers).json()["id"]
            reader = Reader(platform, dict(client.cookies), number)
            wait(client, number, lambda record: record["state"] == "running")
            hit = [target for target in targets if kill(platform, number, target, draw, latest)]
            seen["kills"] += len(hit)
            client.base_url = platform.base
            record = wait(client, number, lambda record: record["ended"])
            reader.thread.join(30)
            check(platform.folder / "records" / str(number), record, reader, hit, epochs)
            seen["states"].append(record["state"])
            seen["reconnections"] += reader.broken - 1
        assert not [line for line in of(folder) if "accelerated.run" in line], "a job outlived its record"
    finally:
        platform.stop()
    wait_for(lambda: not of(folder), "a process outlived the platform")
    return seen


def kill(platform, number, target, draw, latest):
    """Whether a target lived, some seconds later, to be killed: a job may be over by then."""
    time.sleep(draw.uniform(0, latest))
    victim = processes(platform, number).get(target)
    if victim is not None:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:  # it ended as we looked
            victim = None
    if target == "server":
        platform.process.wait()
        time.sleep(draw.uniform(0, latest / 2))
        platform.process.stdout.close()
        platform.start()
    return victim is not None


def check(folder, record, reader, hit, epochs):
    """One round's record: its state, one execution, and its log as it was read."""
    log = (folder / "log.txt").read_text()
    assert reader.ended == record["state"]
    assert reader.lines == log.splitlines(), "a line was lost or doubled"
    begun = [json.loads(path.read_text())["pid"] for path in folder.glob("begun-*")]  # 0: it never will
    assert len([pid for pid in begun if pid]) == 1, "it ran twice"
    told = re.findall(r"relu: epoch (\d+) of \d+, lr", log)
    assert told == [str(i + 1) for i in range(len(told))], "an epoch is missing or was done twice"
    if not {"job", "runner"} & set(hit):
        assert (record["state"], len(told)) == ("finished", epochs)
    else:
        assert record["state"] in ("lost", "failed", "finished")  # finished: it was over as the signal came
        assert record["state"] == "finished" or record["message"]


def test_a_worker_whose_server_died_before_it_looked_ends(tmp_path):
    """It takes seconds to begin; whoever is its parent by then is not its server."""
    server = subprocess.Popen(["true"])
    server.wait()
    command = [sys.executable, "-m", "accelerated.platform", "--worker", str(server.pid), "--folder", str(tmp_path)]
    assert subprocess.run(command, timeout=60).returncode == 0


def test_nothing_is_lost_when_something_is_killed(tmp_path, record_property):
    """The short form: server and worker, then server and job; the runner's death test_jobs.py sees."""
    seen = kill_rounds(tmp_path / "data", [("worker", "server"), ("server", "job")], seed=1, epochs=30, latest=2)
    record_property("seen", f"kill: {seen}")
    assert seen["kills"] >= 3
    assert seen["reconnections"] >= 1, "the reader never had to come back"


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_nothing_is_lost_in_twenty_rounds(tmp_path, record_property):
    draw = random.Random(2)
    seen = kill_rounds(tmp_path / "data", [(draw.choice(TARGETS),) for _ in range(20)], seed=3)
    record_property("seen", f"kill: {seen}")
    assert seen["kills"] >= 15
