"""Many readers at once, while a job trains."""

import statistics
import threading
import time

import httpx
import pytest

from .conftest import Started, wait

SLOWEST = 20.0  # seconds that no answer may take; what was measured is reported, this only catches a standstill


def load(folder, readers, seconds):
    """Slowest, median and number of answers; each reader follows a live log and lists records all the time."""
    platform, times, lines, stop = Started(folder), [], [0] * readers, threading.Event()
    faults: list = []
    try:
        client = platform.administrator()
        number = client.post("/ann/new", json={"name": "long", "epochs": 1000}).json()["id"]
        wait(client, number, lambda record: record["epochs"])
        cookies = dict(client.cookies)

        def follow(i):
            try:
                with httpx.stream(
                    "GET", f"{platform.base}/record/{number}/events", cookies=cookies, timeout=30
                ) as answer:
                    for line in answer.iter_lines():
                        lines[i] += line.startswith("event: log")
                        if stop.is_set():
                            return
            except httpx.HTTPError as error:
                faults.append(error)

        def browse():
            with httpx.Client(base_url=platform.base, cookies=cookies, timeout=30) as own:
                while not stop.is_set():
                    for path in ("/records/ann", f"/record/{number}", "/"):
                        began = time.perf_counter()
                        answer = own.get(path, headers={"accept": "text/html"})
                        times.append(time.perf_counter() - began)
                        faults.extend([answer.status_code] if answer.status_code != 200 else [])
                        time.sleep(1)  # a person reads

        threads = [threading.Thread(target=follow, args=(i,), daemon=True) for i in range(readers)]
        threads += [threading.Thread(target=browse, daemon=True) for _ in range(readers)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        before = client.get(f"/record/{number}").json()["record"]
        stop.set()
        for thread in threads:
            thread.join(30)
        client.post(f"/record/{number}/stop")
        wait(client, number, lambda record: record["ended"])
    finally:
        platform.stop()
    assert faults == []
    assert min(lines) > 0, "somebody's log did not grow"
    assert before["state"] == "running"
    return {"readers": readers, "answers": len(times), "median": round(statistics.median(times), 3),
            "slowest": round(max(times), 3), "epochs": len(before["epochs"])}  # fmt: skip


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
