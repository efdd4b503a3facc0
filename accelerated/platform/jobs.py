"""One attempt at a record, as its processes and files show it: start, look, end. Nothing here knows the database."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from . import runner

ROOT = Path(__file__).parents[2]  # where `accelerated` is found, from any folder
GRACE, KILLING = 5.0, 10.0  # seconds between asking a job to end and ending it; and until that is tried again


class Ended(NamedTuple):
    """How a job ended: exit code, negative for a signal (a sentence if it could not begin); when; out of memory?"""

    code: int | str
    at: float
    memory: bool


def start(folder, attempt, command, variables=None):
    """Start the runner of an attempt in a process group of its own, at work in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, str(Path(runner.__file__)), str(folder), str(attempt), *command]
    environment = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}  # not a job's business
    paths = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    environment |= {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(paths), runner.MARK: f"{folder}:{attempt}"}
    environment |= variables or {}
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            start_new_session=True, env=environment, cwd=folder)  # fmt: skip


def begun(folder, attempt):
    """{"pid", "began", "mark", "at"} of an attempt's runner, pid 0 if it never will begin; None if it has not begun."""
    try:
        return json.loads((folder / f"begun-{attempt}").read_text())
    except (OSError, ValueError):
        return None


def ended(folder, attempt):
    """How an attempt ended, in its runner's own words; None if the runner has not said."""
    try:
        told = json.loads((folder / f"ended-{attempt}").read_text())
        return Ended(told["code"], told["ended"], told["memory"])
    except (OSError, ValueError, KeyError):
        return None


def forestall(folder, attempt):
    """Make sure that an attempt never begins; False if it has."""
    folder.mkdir(parents=True, exist_ok=True)
    return runner.take(folder / f"begun-{attempt}", json.dumps({"pid": 0, "began": None, "mark": "", "at": 0.0}))


def alive(leader):
    """Whether the runner still lives, and is no other process that was given its number."""
    return bool(leader and leader["pid"] and leader["began"] == runner.began(leader["pid"]) is not None)


def members(leader):
    """All processes of a job: its group, and what carries its mark (torchrun's workers lead groups of their own)."""
    pid, found = leader["pid"], set()
    if not pid:
        return found
    ours = runner.began(pid) in (None, leader["began"])  # else the number is another's by now, and the group is gone
    for process in psutil.process_iter():
        try:
            grouped = ours and os.getpgid(process.pid) == pid and os.getsid(process.pid) == pid
            if grouped or (leader.get("mark") and process.environ().get(runner.MARK) == leader["mark"]):
                found.add(process)
        except (psutil.Error, OSError):
            continue
    return {process for process in found if process.pid != os.getpid() and _lives(process)}


def end(leader, wait=GRACE):
    """End all processes of a job: ask, wait, end; True if none is left.

    The runner lives on until it has written down how that went, or until the wait is over.
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


def send(processes, number):
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
