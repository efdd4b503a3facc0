"""What became of a record, read from what its run wrote."""

import json
import re
import time

FULL = "The disk is full: delete records that are no longer needed, and start again."
MEMORY = "The system ended it, most likely because memory ran out: choose a smaller batch, network or image."
LOST = "It was lost: its processes ended without a word, for instance when the machine was restarted."
LAST = 4096  # bytes at the end of a log in which its last words are


def lines(path):
    """The whole lines of a file of JSON lines that can be read; a line that is being written is not whole yet."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def results(folder):
    """results.json of a record's run, or None."""
    try:
        return json.loads((folder / "run" / "results.json").read_text())
    except (OSError, ValueError):
        return None


def best(folder):
    """The best accuracy on test images so far: of the simulation if there is one, else of the last stage trained."""
    found = results(folder)
    if found and found["rows"]:
        return max(row["accuracy"] for row in found["rows"])
    metrics = lines(folder / "run" / "metrics.jsonl")
    if metrics:
        return max(line["accuracy"] for line in metrics if line["stage"] == metrics[-1]["stage"])
    return list(found["accuracy"].values())[-1] if found else None


def last_words(folder):
    """The end of a record's log."""
    try:
        with (folder / "log.txt").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LAST))
            return file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return []


def of(record, folder, told):
    """The row's new values, from how the job ended (None: nobody saw it)."""
    values = {"ended": told.at if told else time.time(), "best": best(folder)}
    if told and told.code == 0:
        return values | {"state": "finished"}
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
