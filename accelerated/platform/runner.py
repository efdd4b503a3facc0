"""Runs one command as a job and writes down how it ended; started as a file, so that it needs nothing but Python.

    python runner.py FOLDER ATTEMPT COMMAND ...

It leads a process group of its own. In FOLDER it makes begun-ATTEMPT first (whoever makes that file decides what
becomes of the attempt, so nothing runs twice), log.txt, and ended-ATTEMPT, whose place on the disk is taken before the
command begins, so that a full disk cannot hide how it ended.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOM = 512  # bytes that ended-ATTEMPT takes from the beginning
PR_SET_PDEATHSIG = 1
MARK = "ISOSPIKE_JOB"  # a variable that all processes of a job inherit, wherever they go


def began(pid):
    """When a process was started, in the kernel's ticks; None where that cannot be read or the process is no more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def take(path, content):
    """Make a file that nobody has made before, with its content or not at all; False if somebody has."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with part.open("w") as writing:
            writing.write(content)
            writing.flush()
            os.fsync(writing.fileno())
        os.link(part, path)
    except FileExistsError:
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


def killed_for_memory():
    """How often the kernel has killed a process of this control group because memory ran out."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            lines = dict(line.split() for line in Path(path).read_text().splitlines())
            return int(lines["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return 0


def _as_child():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # who loses the runner ends too


def main(folder, attempt, command):
    """Run the command; its output is added to log.txt."""
    mark = os.environ.get(MARK, "")
    told = {"pid": os.getpid(), "began": began(os.getpid()), "mark": mark, "at": time.time()}
    if not take(folder / f"begun-{attempt}", json.dumps(told)):
        return
    end = os.open(folder / f"ended-{attempt}", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(end, b" " * ROOM)
    os.fsync(end)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)  # whoever reads pages comes first
    before = killed_for_memory()
    with (folder / "log.txt").open("ab") as log:
        code: int | str
        try:
            job = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_as_child)
            code = job.wait()
        except OSError as error:
            code = f"the command could not be started: {error.strerror}"
    said = {"code": code, "ended": time.time(), "memory": killed_for_memory() > before}
    os.pwrite(end, json.dumps(said).encode()[: ROOM - 1] + b"\n", 0)
    os.fsync(end)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
