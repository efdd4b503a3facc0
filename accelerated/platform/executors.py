"""Where jobs run: on this machine, or as jobs of Slurm on others, which see the same folder under the same path.

Both run runner.py, and tell from its files how a job began and ended; Slurm knows what became of one without a report.
"""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import InputError, one_of
from ..runs.cluster import library, slurm_executor
from . import jobs, outcomes, runner
from .options import PlatformOptions

EXECUTORS = ("here", "slurm")
LOOK = 5.0  # seconds between two questions to Slurm
UNKNOWN = 120.0  # seconds after which a job of which Slurm knows nothing has ended
BROKE_DOWN = ("NODE_FAIL", "PREEMPTED", "BOOT_FAIL")  # not the job's own end
LIVES = ("PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED", "COMPLETING", "CONFIGURING")


class Here:
    """Processes of this machine."""

    def start(self, folder: Path, attempt: int, command: Sequence[str], variables: dict) -> Any:
        """Start an attempt; something to ask for it with `pending`."""
        return jobs.start(folder, attempt, command, variables)

    def pending(self, started: Any, folder: Path, attempt: int) -> bool:
        """Whether an attempt that has not begun may still begin; `started` is None after another worker's start."""
        return started is not None and started.poll() is None

    def alive(self, leader: dict, folder: Path, attempt: int) -> bool:
        """Whether the runner of an attempt still lives."""
        return jobs.alive(leader)

    def end(self, leader: dict, folder: Path, attempt: int, wait: float = jobs.GRACE) -> bool:
        """End an attempt; True if nothing of it is left."""
        return jobs.end(leader, wait)

    def broke_down(self, leader: dict, folder: Path, attempt: int) -> bool:
        """Whether the machine ended with the job on it."""
        return leader.get("boot") not in (None, runner.boot())

    def reason(self, folder: Path, attempt: int) -> dict:
        """What is known of a job that left no report, as values of its row."""
        return {}


@dataclass
class Task:
    """An attempt as Slurm's job."""

    folder: Path
    attempt: int
    command: list[str]
    variables: dict

    def __call__(self):
        import os

        os.environ.update(self.variables | {runner.MARK: f"{self.folder}:{self.attempt}"})
        os.chdir(self.folder)
        runner.main(self.folder, str(self.attempt), self.command)


class Slurm:
    """Jobs of Slurm, through submitit."""

    def __init__(self, options: PlatformOptions):
        self.options = options
        self.states: dict[str, str] = {}
        self.asked = 0.0

    def start(self, folder: Path, attempt: int, command: Sequence[str], variables: dict) -> str:
        """Submit an attempt; the number of its job, which is also in the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        executor = slurm_executor(folder / "slurm", self.options.slurm, "executor 'slurm'")
        given = {key: value for key, value in jobs.environment().items() if key in ("PYTHONPATH", "PYTHONUNBUFFERED")}
        try:
            job = executor.submit(Task(folder, attempt, list(command), given | variables))
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            raise OSError(0, f"Slurm refused it: {str(error).strip().splitlines()[-1]}") from error
        runner.take(self._number(folder, attempt), job.job_id)
        return job.job_id

    def pending(self, started: Any, folder: Path, attempt: int) -> bool:
        """Whether an attempt that has not begun may still begin."""
        return self._state(folder, attempt) in LIVES

    def alive(self, leader: dict, folder: Path, attempt: int) -> bool:
        """Whether Slurm still has the job."""
        return self._state(folder, attempt) in LIVES

    def end(self, leader: dict, folder: Path, attempt: int, wait: float = jobs.GRACE) -> bool:
        """Cancel the job of an attempt; True if Slurm no longer has it."""
        if self._state(folder, attempt) not in LIVES:
            return True
        if jobs.ended(folder, attempt) is None:
            subprocess.run(["scancel", self._number(folder, attempt).read_text()], capture_output=True)
            self.asked = 0.0
        return self._state(folder, attempt) not in LIVES

    def broke_down(self, leader: dict, folder: Path, attempt: int) -> bool:
        """Whether a node failed, or made way for another job."""
        return self._state(folder, attempt) in BROKE_DOWN

    def reason(self, folder: Path, attempt: int) -> dict:
        """What Slurm says of a job that left no report."""
        state = self._state(folder, attempt)
        if state == "OUT_OF_MEMORY":
            return {"state": "failed", "message": outcomes.MEMORY}
        return {"state": "stopped", "message": outcomes.LATE} if state == "TIMEOUT" else {"detail": f"Slurm: {state}"}

    @staticmethod
    def _number(folder, attempt):
        return folder / f"slurm-{attempt}"

    def _state(self, folder, attempt):
        """Slurm's word for the state of a job; it is asked for all of them at once, and not all the time."""
        path = self._number(folder, attempt)
        if not path.exists():
            return "NONE"
        number = path.read_text()
        if number not in self.states or (self.states[number] in LIVES and time.monotonic() - self.asked > LOOK):
            self._ask({number, *(known for known, state in self.states.items() if state in LIVES)})
        if number not in self.states:
            return "PENDING" if time.time() - path.stat().st_mtime < UNKNOWN else "UNKNOWN"
        return self.states[number]

    def _ask(self, numbers):
        self.asked = time.monotonic()
        command = ["sacct", "-n", "-X", "-P", "-o", "JobID,State", "-j", ",".join(sorted(numbers))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return  # what was known stays
        for line in done.stdout.splitlines():
            number, _, state = line.partition("|")
            self.states[number] = state.split()[0] if state.split() else "UNKNOWN"  # "CANCELLED by 1000"


def executor_of(options: PlatformOptions) -> Here | Slurm:
    """Where the jobs of a platform run; InputError if that cannot be."""
    one_of(options.executor, EXECUTORS, "executor")
    if options.executor == "here":
        if options.slurm:
            raise InputError("slurm options are for --executor slurm")
        return Here()
    library("executor 'slurm'")
    slurm_executor(options.home / "slurm", options.slurm, "executor 'slurm'")  # refuses options that are none
    return Slurm(options)
