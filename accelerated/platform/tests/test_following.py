"""Logs as they grow: whole lines, none lost, none doubled, wherever a reader goes on."""

import asyncio
import json
import random

from accelerated.platform import following


def test_only_whole_lines_are_sent(tmp_path):
    log = tmp_path / "log.txt"
    log.write_bytes("one\nzwö\nthr".encode())
    lines, after = following.read_lines(log, 0)
    assert (lines, after) == (["one", "zwö"], 9)
    assert following.read_lines(log, after) == ([], after)
    assert following.remainder(log, after) == (["thr"], 12)
    assert following.read_lines(tmp_path / "none", 0) == ([], 0)


def test_a_line_without_an_end_comes_in_pieces(tmp_path):
    (tmp_path / "log.txt").write_bytes(b"x" * (2 * following.CHUNK + 5))
    lines, after = following.read_lines(tmp_path / "log.txt", 0)
    assert (len(lines[0]), after) == (following.CHUNK, following.CHUNK)


def events_in(text):
    """(event, data, id) of all events in a stream."""
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "event" in fields:
            yield fields["event"], json.loads(fields["data"]), fields.get("id")


def run(tmp_path, state_of, offset=0, grow=None, leave_after=None):
    """The events that a reader gets from a byte on; `grow(i)` is called before each check that the reader is there."""
    looks = 0

    async def gone():
        nonlocal looks
        looks += 1
        if grow:
            grow(looks)
        return leave_after is not None and looks > leave_after

    async def read():
        return [piece async for piece in following.follow(state_of, tmp_path, offset, gone)]

    return list(events_in("".join(asyncio.run(read()))))


def test_a_reader_who_comes_back_misses_nothing_and_sees_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "PAUSE", 0.001)
    whole = [f"line {i} {'ü' * (i % 7)}" for i in range(300)]
    content = "\n".join(whole).encode() + b"\nlast words"
    state: dict = {"state": "running", "ended": None}
    draw = random.Random(0)
    written = 0

    def grow(_):
        nonlocal written
        step = draw.randrange(0, 400)
        with (tmp_path / "log.txt").open("ab") as file:
            file.write(content[written : written + step])
        written += step
        if written >= len(content):
            state.update(state="finished", ended=1.0)

    seen: list = []
    offset = 0
    ends = 0
    for _ in range(100):
        events = run(tmp_path, lambda: dict(state), offset, grow, leave_after=draw.randrange(1, 6))
        for name, data, number in events:
            if name == "log":
                seen += data
                offset = int(number)
            ends += name == "end"
        if ends:
            break
    assert seen == [*whole, "last words"]
    assert ends == 1


def test_accuracies_are_the_latest_of_each_way(tmp_path):
    (tmp_path / "run").mkdir()
    line = {"schedule": "signed", "calibration": "none", "operators": "accumulated", "of": 360}
    lines = [line | {"images": n, "accuracy": {"1": n / 360}} for n in (100, 200)]
    text = "".join(json.dumps(entry) + "\n" for entry in lines) + '{"schedule": "sig'
    (tmp_path / "run" / "simulation.jsonl").write_text(text)
    (tmp_path / "log.txt").write_text("x\n")
    events = run(tmp_path, lambda: {"state": "finished", "ended": 1.0})
    assert [name for name, _, _ in events] == ["log", "accuracy", "state", "end"]
    assert events[1][1] == [lines[-1]]


def test_a_record_that_is_deleted_ends_the_log(tmp_path):
    assert run(tmp_path, lambda: None) == [("end", {"state": "deleted"}, None)]
