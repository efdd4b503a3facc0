"""One attempt at a record, as its processes and files show it: start, look, end. Nothing here knows the database."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from . import runner

ROOT = Path(__file__).parents[2]  # the folder that holds `accelerated`
GRACE = 5.0  # seconds between SIGTERM and SIGKILL
KILLING = 10.0  # seconds until SIGKILL counts as failed and is tried again later


class Ended(NamedTuple):
    """How a job ended: exit code, negative for a signal (a sentence if it could not start); when; out of memory?"""

    code: int | str
    at: float
    memory: bool


def start(folder: Path, attempt: int, command: Sequence[str], variables: dict | None = None) -> subprocess.Popen:
    """Start the runner of an attempt in a process group of its own and in the record's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, str(Path(runner.__file__)), str(folder), str(attempt), *command]
    given = environment() | {runner.MARK: f"{folder}:{attempt}"} | (variables or {})
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            start_new_session=True, env=given, cwd=folder)  # fmt: skip


def environment() -> dict[str, str]:
    """The variables of a process that runs this package for a user, without the password of the database."""
    found = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}
    paths = [str(ROOT), *filter(None, [found.get("PYTHONPATH")])]
    return found | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(paths)}


def begun(folder: Path, attempt: int) -> dict | None:
    """{"pid", "began", "mark", "at", "boot", "place"} of an attempt's runner; None if it has not begun.

    Pid 0: it was prevented; -1: it began before the machine was restarted, or in the folder of which this is a copy,
    so that no process here belongs to it.
    """
    try:
        leader = json.loads((folder / f"begun-{attempt}").read_text())
        here = leader.get("boot") in (None, runner.boot()) and leader.get("place") in (None, runner.place(folder))
    except (OSError, ValueError):
        return None
    return leader if here or not leader["pid"] else leader | {"pid": -1, "began": None, "mark": ""}


def ended(folder: Path, attempt: int) -> Ended | None:
    """How an attempt ended, as its runner reported; None if there is no report."""
    try:
        report = json.loads((folder / f"ended-{attempt}").read_text())
        return Ended(report["code"], report["ended"], report["memory"])
    except (OSError, ValueError, KeyError):
        return None


def prevent(folder: Path, attempt: int) -> bool:
    """Make sure that an attempt never begins; False if it has."""
    folder.mkdir(parents=True, exist_ok=True)
    return runner.take(folder / f"begun-{attempt}", json.dumps({"pid": 0, "began": None, "mark": "", "at": 0.0}))


def alive(leader: dict | None) -> bool:
    """Whether the runner still lives, and is not another process with the same number."""
    return bool(leader and leader["pid"] and leader["began"] == runner.began(leader["pid"]) is not None)


def members(leader: dict) -> set[psutil.Process]:
    """All processes of a job: its group, and those with its mark (torchrun's workers lead groups of their own)."""
    pid = leader["pid"]
    found: set = set()
    if pid <= 0:
        return found
    ours = runner.began(pid) in (None, leader["began"])  # else the number now belongs to another process
    for process in psutil.process_iter():
        try:
            grouped = ours and os.getpgid(process.pid) == pid and os.getsid(process.pid) == pid
            if grouped or (leader.get("mark") and process.environ().get(runner.MARK) == leader["mark"]):
                found.add(process)
        except (psutil.Error, OSError):
            continue
    return {process for process in found if process.pid != os.getpid() and _lives(process)}


def end(leader: dict, wait: float = GRACE) -> bool:
    """End all processes of a job: SIGTERM, then SIGKILL after `wait` seconds; True if none is left.

    The runner ignores SIGTERM, so that it can still write down how the job ended.
    """
    deadline = time.monotonic() + wait
    send(members(leader), signal.SIGTERM)
    while left := members(leader):
        over = time.monotonic() - deadline
        if over > KILLING:
            return False
        if over > 0:
            send(left, signal.SIGKILL)
        time.sleep(0.05)
    return True


def send(processes: Iterable[psutil.Process], number: int) -> None:
    """A signal to each process that still lives."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue


def _lives(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
