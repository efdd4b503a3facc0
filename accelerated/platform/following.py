"""What is new of a record: its log from a byte on, its epochs, its simulation, its state; asked for again and again.

Each answer is short and ends at once, so that any number of open pages share the few connections of a browser.
"""

from pathlib import Path
from typing import Any

import psutil

from . import outcomes

CHUNK = 64 * 1024  # bytes of a log in one answer
DRAWN = ("stage", "epoch", "loss", "accuracy", "test_loss", "train_accuracy", "thresholds")  # of an epoch
LATELY = 3  # epochs, from which the time that is left is estimated


def read_lines(path: Path, offset: int) -> tuple[list[str], int]:
    """(whole lines from a byte on, the byte after them); a line that is longer than a chunk comes in pieces."""
    piece = _read(path, offset)
    end = piece.rfind(b"\n") + 1 or (len(piece) if len(piece) == CHUNK else 0)
    return piece[:end].decode(errors="replace").splitlines(), offset + end


def remainder(path: Path, offset: int) -> tuple[list[str], int]:
    """What follows the last whole line of a log that will not grow any more, and the byte after it."""
    rest = _read(path, offset)
    return rest.decode(errors="replace").splitlines(), offset + len(rest)


def _read(path, offset):
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK)
    except OSError:
        return b""


class Simulation:
    """The progress of each kind of simulation; a look reads only what was added since the last one."""

    KEYS = ("schedule", "calibration", "operators", "images", "of", "accuracy")

    def __init__(self, folder: Path):
        self.path = folder / "run" / "simulation.jsonl"
        self.offset = 0
        self.latest: dict = {}

    def read(self) -> list[dict]:
        """[{schedule, ..., images, of, accuracy by T}], the latest of each kind."""
        while True:
            texts, after = read_lines(self.path, self.offset)
            if after == self.offset:
                return list(self.latest.values())
            self.offset = after
            for line in outcomes.lines("\n".join(texts), self.KEYS):
                self.latest[line["schedule"], line["calibration"], line["operators"]] = line


def news(row: dict, settings: dict, folder: Path, offset: int, known: int) -> dict[str, Any]:
    """What a page that has the log up to byte `offset` and `known` epochs does not know.

    {"record": its row, "lines", "after": the byte after them, "more": whether there is more now, "epochs", "accuracy":
    of simulations so far, "left": seconds until training ends, or None, "load": of the machine in %, while it runs}.
    """
    ended, log = row["ended"] is not None, folder / "log.txt"
    lines, after = read_lines(log, offset)
    if not lines and ended:
        lines, after = remainder(log, offset)
    epochs = outcomes.metrics(folder)
    running = row["state"] == "running"
    return {
        "record": row, "lines": lines, "after": after, "more": after > offset,
        "epochs": [{key: epoch.get(key) for key in DRAWN} for epoch in epochs[known:]],
        "accuracy": Simulation(folder).read(), "left": left(epochs, settings) if running else None,
        "load": {"processor": psutil.cpu_percent(), "memory": psutil.virtual_memory().percent} if running else None,
    }  # fmt: skip


def left(epochs: list[dict], settings: dict) -> float | None:
    """The seconds until a training ends, if its epochs go on to take as long; None before the first of them."""
    more = sum(settings.get("epochs", ())) - len(epochs)
    times = [epoch["seconds"] for epoch in epochs[-LATELY:] if isinstance(epoch.get("seconds"), int | float)]
    return more * sum(times) / len(times) if times and more > 0 else None
