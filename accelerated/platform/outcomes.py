"""What became of a record, read from what its run wrote."""

import json
import math
import re
import time

FULL = "The disk is full: delete records that are no longer needed, and start again."
MEMORY = "The system ended it, most likely because memory ran out: choose a smaller batch, network or image."
LOST = "It was lost: its processes ended without a word, for instance when the machine was restarted."
LATE = "It was stopped: it ran longer than this server allows."
LAST = 4096  # bytes at the end of a log in which its last words are


METRIC = ("stage", "epoch", "loss", "accuracy", "accuracy5", "test_loss", "train_accuracy", "train_accuracy5", "memory")
RESULT = ("rows", "accuracy", "test_images", "seconds", "environment", "config")


def finite(value):
    """A value read from JSON, its NaNs and infinities as None: JSON has none."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines(text, keys):
    """The objects with `keys` among lines of JSON; one that is being written, or is damaged, is left out."""
    found = []
    for line in text.splitlines():
        try:
            value = finite(json.loads(line))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and all(value.get(key) is not None for key in keys):
            found.append(value)
    return found


def metrics(folder):
    """The epochs that a run has told of."""
    try:
        return lines((folder / "run" / "metrics.jsonl").read_text(errors="replace"), METRIC)
    except OSError:
        return []


def results(folder):
    """results.json of a record's run, or None."""
    try:
        found = finite(json.loads((folder / "run" / "results.json").read_text()))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and all(found.get(key) is not None for key in RESULT) else None


def best(folder):
    """An accuracy on test images: of a simulation the highest at any T, of a training that of the weights it has kept;
    where it did not end, the best so far.
    """
    found = results(folder)
    if found and found["rows"]:
        return max(row["accuracy"] for row in found["rows"])
    if found:
        return list(found["accuracy"].values())[-1] if found["accuracy"] else None
    return best_so_far(folder)


def best_so_far(folder):
    """The highest accuracy on test images after an epoch of the stage that a run is in, or None."""
    told = metrics(folder)
    shares = [line["accuracy"] for line in told if line["stage"] == told[-1]["stage"]]
    return max((share for share in shares if isinstance(share, float | int)), default=None)


def last_words(folder):
    """The end of a record's log."""
    try:
        with (folder / "log.txt").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LAST))
            return file.read().decode(errors="replace").replace("\0", "").strip().splitlines()
    except OSError:
        return []


def of(record, folder, told):
    """The row's new values, from how the job ended (None: nobody saw it)."""
    values = {"ended": told.at if told else time.time(), "best": best(folder)}
    if told and told.code == 0:
        (folder / "run" / "resume.pt").unlink(missing_ok=True)  # as large as two copies of the weights
        return values | {"state": "finished", "wish": "" if record.wish == "stop" else record.wish}
    if record.wish:
        return values | {"state": "stopped"}
    words = last_words(folder)
    if told is None:
        return values | {"state": "lost", "message": LOST, "detail": words[-1] if words else ""}
    failed = values | {"state": "failed"}
    if isinstance(told.code, str):
        return failed | {"message": "The job could not be started.", "detail": told.code}
    complaint = next((line for line in reversed(words) if line.startswith("error: ")), words[-1] if words else "")
    if "No space left on device" in complaint:
        return failed | {"message": FULL, "detail": complaint}
    if told.memory or told.code in (-9, 137) or re.search("(?i)out of memory|allocate memory|MemoryError", complaint):
        return failed | {"message": MEMORY, "detail": complaint.removeprefix("error: ")}
    if told.code == 2 and complaint.startswith("error: "):
        return failed | {"message": "It could not be done.", "detail": complaint.removeprefix("error: ")}
    return failed | {"message": "It ended with an error; the log says more.", "detail": complaint}
