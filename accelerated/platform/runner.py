"""Runs one command as a job and writes down how it ended; started as a file, because it needs only Python.

    python runner.py FOLDER ATTEMPT COMMAND ...

It leads a process group of its own. In FOLDER it makes begun-ATTEMPT first (only the process that makes this file may
run or prevent the attempt, so nothing runs twice), log.txt, and ended-ATTEMPT, whose space on the disk is reserved
before the command starts, so that its end is recorded on a full disk too.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOM = 512  # bytes that are reserved for ended-ATTEMPT
PR_SET_PDEATHSIG = 1
MARK = "ISOSPIKE_JOB"  # an environment variable that all processes of a job inherit
DEVICES = "CUDA_VISIBLE_DEVICES"  # the numbers of the GPUs that a job has
MEMORY = "ISOSPIKE_MEMORY"  # another: the MiB of data that each of them may have; none: as many as there are


def began(pid: int) -> int | None:
    """When a process was started, in the kernel's ticks; None if it has ended or cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def boot() -> str:
    """This start of the machine: process numbers mean nothing after another."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def place(folder: Path) -> str:
    """A folder on this machine: moved, it stays the same, and a copy of it is another."""
    found = folder.stat()
    return f"{found.st_dev}:{found.st_ino}"


def take(path: Path, content: str) -> bool:
    """Make a new file, with its whole content or not at all; False if it exists."""
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


def killed_for_memory() -> int:
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
    if most := int(os.environ.get(MEMORY, "0")) * 2**20:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with contextlib.suppress(AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the job dies with its runner


def main(folder: Path, attempt: str, command: list[str]) -> None:
    """Run the command; its output is added to log.txt."""
    mark = os.environ.get(MARK, "")
    start = {"pid": os.getpid(), "began": began(os.getpid()), "mark": mark, "at": time.time(),
             "boot": boot(), "place": place(folder), "devices": os.environ.get(DEVICES, "")}  # fmt: skip
    if not take(folder / f"begun-{attempt}", json.dumps(start)):
        return
    end = os.open(folder / f"ended-{attempt}", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(end, b" " * ROOM)
    os.fsync(end)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)  # the server comes first
    before = killed_for_memory()
    with (folder / "log.txt").open("ab") as log:
        code: int | str
        try:
            job = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_as_child)
            code = job.wait()
        except OSError as error:
            code = f"the command could not be started: {error.strerror}"
    report = {"code": code, "ended": time.time(), "memory": killed_for_memory() > before}
    os.pwrite(end, json.dumps(report).encode()[: ROOM - 1] + b"\n", 0)
    os.fsync(end)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
