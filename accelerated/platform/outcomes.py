"""What became of a record, read from what its run wrote."""

import json
import math
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .database import Record
from .jobs import Ended

FULL = "The disk is full: delete records that are no longer needed, and start again."
MEMORY = "The system ended it, most likely because memory ran out: choose a smaller batch, network or image size."
LOST = "It was lost: its processes ended without reporting a result, for instance because the machine was restarted."
LATE = "It was stopped: it ran longer than this server allows."
LAST = 4096  # bytes at the end of a log that may hold the reason of a failure


METRIC = ("stage", "epoch", "loss", "accuracy", "accuracy5", "test_loss", "train_accuracy", "train_accuracy5", "memory")
RESULT = ("rows", "accuracy", "test_images", "seconds", "environment", "config")


def finite(value: Any) -> Any:
    """A value read from JSON with None for NaNs and infinities, which standard JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines(text: str, keys: Iterable[str]) -> list[dict]:
    """The objects with `keys` among lines of JSON; incomplete and damaged lines are left out."""
    found = []
    for line in text.splitlines():
        try:
            value = finite(json.loads(line))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and all(value.get(key) is not None for key in keys):
            found.append(value)
    return found


def metrics(folder: Path) -> list[dict]:
    """The epochs that a run has reported."""
    try:
        return lines((folder / "run" / "metrics.jsonl").read_text(errors="replace"), METRIC)
    except OSError:
        return []


def results(folder: Path) -> dict | None:
    """results.json of a record's run, or None."""
    try:
        found = finite(json.loads((folder / "run" / "results.json").read_text()))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and all(found.get(key) is not None for key in RESULT) else None


def best(folder: Path) -> float | None:
    """The accuracy on test images that lists show: a simulation's highest at any T, a training's with the weights it
    kept; the best so far where it did not end.
    """
    found = results(folder)
    if found and found["rows"]:
        return max(row["accuracy"] for row in found["rows"])
    if found:
        return list(found["accuracy"].values())[-1] if found["accuracy"] else None
    return best_so_far(folder)


def best_so_far(folder: Path) -> float | None:
    """The highest accuracy on test images after an epoch of the current stage, or None."""
    epochs = metrics(folder)
    shares = [epoch["accuracy"] for epoch in epochs if epoch["stage"] == epochs[-1]["stage"]]
    return max((share for share in shares if isinstance(share, float | int)), default=None)


def last_lines(folder: Path) -> list[str]:
    """The end of a record's log."""
    try:
        with (folder / "log.txt").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LAST))
            return file.read().decode(errors="replace").replace("\0", "").strip().splitlines()
    except OSError:
        return []


def of(record: Record, folder: Path, end: Ended | None) -> dict:
    """The row's new values, from how the job ended (None: it left no report)."""
    values = {"ended": end.at if end else time.time(), "best": best(folder)}
    if (end and end.code == 0) or _done(folder, end):
        (folder / "run" / "resume.pt").unlink(missing_ok=True)  # as large as two copies of the weights
        return values | {"state": "finished", "request": "" if record.request == "stop" else record.request}
    if record.request:
        return values | {"state": "stopped"}
    log = last_lines(folder)
    if end is None:
        return values | {"state": "lost", "message": LOST, "detail": log[-1] if log else ""}
    return values | {"state": "failed"} | _failure(end, log)


def _done(folder, end):
    """Whether a run that was killed had written all of its results before."""
    killed = end is None or (isinstance(end.code, int) and end.code < 0)
    return killed and results(folder) is not None and (folder / "run" / "weights.safetensors").is_file()


def kept(folder: Path) -> dict | None:
    """The line of the last whole epoch of a run that did not finish, which it can go on from; or None."""
    lines = metrics(folder) if (folder / "run" / "resume.pt").is_file() else []
    return lines[-1] if lines else None


def _failure(end, log):
    """The message and the detail of a job that failed."""
    if isinstance(end.code, str):
        return {"message": "The job could not be started.", "detail": end.code}
    error = next((line for line in reversed(log) if line.startswith("error: ")), log[-1] if log else "")
    if "No space left on device" in error:
        return {"message": FULL, "detail": error}
    if end.memory or end.code in (-9, 137) or re.search("(?i)out of memory|allocate memory|MemoryError", error):
        return {"message": MEMORY, "detail": error.removeprefix("error: ")}
    if end.code == 2 and error.startswith("error: "):
        return {"message": "It could not be done.", "detail": error.removeprefix("error: ")}
    return {"message": "It ended with an error: see the log.", "detail": error}
