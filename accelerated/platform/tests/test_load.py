"""Many readers at once, while a job trains."""

import itertools
import statistics
import threading
import time

import httpx
import pytest

from .conftest import Started, wait

SLOWEST = 20.0  # seconds that no answer may take; catches only a standstill, since the measured times are reported


class Readers:
    """Users of one record: each follows its live log, and lists and opens pages all the time."""

    def __init__(self, base, cookies, number, count):
        self.base = base
        self.cookies = cookies
        self.number = number
        self.times: list = []
        self.lines = [0] * count
        self.faults: list = []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.follow, args=(i,), daemon=True) for i in range(count)]
        self.threads += [threading.Thread(target=self.browse, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def follow(self, i):
        address, after = f"/record/{self.number}/news", 0
        with httpx.Client(base_url=self.base, cookies=self.cookies, timeout=30) as client:
            while not self.stop.is_set():
                answer = client.get(address, params={"after": after})
                if answer.status_code != 200:
                    self.faults.append(answer.status_code)
                    return
                self.lines[i] += len(answer.json()["lines"])
                after = answer.json()["after"]
                time.sleep(1)  # as pages do

    def browse(self):
        paths = itertools.cycle(("/records/ann", f"/record/{self.number}", "/"))
        with httpx.Client(base_url=self.base, cookies=self.cookies, timeout=30) as client:
            while not self.stop.is_set():
                began = time.perf_counter()
                answer = client.get(next(paths), headers={"accept": "text/html"})
                self.times.append(time.perf_counter() - began)
                if answer.status_code != 200:
                    self.faults.append(answer.status_code)
                time.sleep(1)  # a person reads

    def leave(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(30)


def load(folder, readers, seconds):
    """Slowest and median time, and number of the answers to many readers while a job trains."""
    platform = Started(folder)
    try:
        client = platform.administrator()
        number = client.post("/ann/new", json={"name": "long", "epochs": 1000}).json()["id"]
        wait(client, number, lambda record: record["epochs"])
        crowd = Readers(platform.base, dict(client.cookies), number, readers)
        time.sleep(seconds)
        before = client.get(f"/record/{number}").json()["record"]
        crowd.leave()
        client.post(f"/record/{number}/stop")
        wait(client, number, lambda record: record["ended"])
    finally:
        platform.stop()
    assert crowd.faults == []
    assert min(crowd.lines) > 0, "a reader's log did not grow"
    assert before["state"] == "running"
    return {"readers": readers, "answers": len(crowd.times), "median": round(statistics.median(crowd.times), 3),
            "slowest": round(max(crowd.times), 3), "epochs": len(before["epochs"])}  # fmt: skip


def test_ten_readers_at_once(tmp_path, record_property):
    seen = load(tmp_path / "data", 10, 5)
    record_property("seen", f"load: {seen}")
    assert seen["slowest"] < SLOWEST


@pytest.mark.long
def test_fifty_readers_at_once(tmp_path, record_property):
    seen = load(tmp_path / "data", 50, 45)
    record_property("seen", f"load: {seen}")
    assert seen["answers"] > 200
    assert seen["slowest"] < SLOWEST
