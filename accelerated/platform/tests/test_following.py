"""Logs as they grow: whole lines, none lost, none doubled, wherever a reader goes on."""

import json
import random

import pytest

from accelerated.platform import following

RUNNING: dict = {"state": "running", "ended": None}
FINISHED: dict = {"state": "finished", "ended": 1.0}


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


def test_a_reader_who_comes_back_misses_nothing_and_sees_nothing_twice(tmp_path):
    whole = [f"line {i} {'ü' * (i % 7)}" for i in range(300)]
    content = "\n".join(whole).encode() + b"\nlast words"
    draw, written, offset, seen = random.Random(0), 0, 0, []
    while True:
        step = draw.randrange(0, 400)
        with (tmp_path / "log.txt").open("ab") as file:
            file.write(content[written : written + step])
        written += step
        row = FINISHED if written >= len(content) else RUNNING
        new = following.news(row, {}, tmp_path, offset, 0)
        seen += new["lines"]
        assert new["more"] == bool(new["lines"])
        offset = new["after"]
        if row is FINISHED and not new["more"]:
            break
    assert seen == [*whole, "last words"]


def test_accuracies_are_the_latest_of_each_way(tmp_path):
    (tmp_path / "run").mkdir()
    line = {"schedule": "signed", "calibration": "none", "operators": "accumulated", "of": 360}
    lines = [line | {"images": n, "accuracy": {"1": n / 360}} for n in (100, 200)]
    text = "".join(json.dumps(entry) + "\n" for entry in lines) + '{"schedule": "sig'
    (tmp_path / "run" / "simulation.jsonl").write_text(text)
    assert following.news(RUNNING, {}, tmp_path, 0, 0)["accuracy"] == [lines[-1]]


def test_epochs_come_once_and_say_how_long_it_takes(tmp_path):
    (tmp_path / "run").mkdir()
    line = {"stage": "relu", "loss": 1.0, "accuracy": 0.5, "accuracy5": 1.0, "test_loss": 1.0, "train_accuracy": 0.5,
            "train_accuracy5": 1.0, "memory": 1.0, "thresholds": {"act": 2.0}}  # fmt: skip
    epochs = [line | {"epoch": i + 1, "seconds": 2.0 * (i > 0) + 100 * (i == 0)} for i in range(4)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    settings = {"epochs": [10, 0, 0]}
    new = following.news(RUNNING, settings, tmp_path, 0, 1)
    assert [epoch["epoch"] for epoch in new["epochs"]] == [2, 3, 4]
    assert new["epochs"][0]["thresholds"] == {"act": 2.0}
    assert new["left"] == pytest.approx(12), "six epochs as long as the last three; the first was slower"
    assert 0 <= new["load"]["memory"] <= 100
    assert following.news(FINISHED, settings, tmp_path, 0, 4) | {"record": None} == {
        "record": None, "lines": [], "after": 0, "more": False, "epochs": [], "accuracy": [], "left": None,
        "load": None}  # fmt: skip
    assert following.news(RUNNING, {"epochs": [0, 0, 0]}, tmp_path / "none", 0, 0)["left"] is None
