"""The worker: starts the jobs of queued records, one after another, and keeps the table up to date.

A lock lets only one work in a folder. It may die at any moment: everything it needs is in the table and in the jobs'
files, and the next worker continues from there.
"""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from sqlalchemy import delete, exists, orm, select, update

from ..checks import first_line
from . import disk, jobs, outcomes, runner, turns
from .commands import command, environment
from .database import Database, Record, Unreachable, User, changed
from .executors import executor_of
from .options import PlatformOptions
from .records import ACTIVE, BROKEN, ENDED, waits_for

PAUSE = 0.3  # seconds between two looks
RETRY = 2  # seconds until the next try after an error of the database or the disk
READ_EVERY = 2  # seconds between two readings of a running job's epochs
ATTEMPTS = 5  # to begin a job at all


@contextmanager
def alone(options: PlatformOptions) -> Iterator[None]:
    """Hold the folder's lock; wait for it as long as the server lives."""
    with (options.home / "worker.lock").open("w") as file:
        while not _locked(file):
            if orphaned(options):
                sys.exit(0)
            time.sleep(PAUSE)
        yield


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def orphaned(options: PlatformOptions) -> bool:
    """Whether the server that started this worker has ended, even if it ended before this worker first looked."""
    return os.getppid() != options.worker


class Worker:
    """A worker's state; `step` is one look at everything."""

    def __init__(self, options: PlatformOptions, database: Database):
        self.options = options
        self.database = database
        self.executor = executor_of(options)
        self.started: dict[tuple[int, int], Any] = {}  # by record and attempt, what the executor returned
        self.given: dict[tuple[int, int], list[str]] = {}  # the GPUs of those
        self.progress: dict[int, tuple[float, int]] = {}  # by record: when its epochs were read, their bytes then

    def step(self) -> None:
        """Look at all active records, delete those that are to be deleted, then start what may start."""
        with self.database.begin() as db:
            active = db.scalars(select(Record).where(Record.state.in_(ACTIVE))).all()
        trouble = None
        for record in active:
            try:
                self.look(record)
            except Unreachable:
                raise
            except OSError as error:  # temporary, for instance a full disk: the next look tries again
                trouble = error
            except Exception as error:  # caused by the files of one record; the others go on
                print(f"worker: record {record.id}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                self.change(record, state="failed", ended=time.time(), message="Its files are damaged.",
                            detail=f"{type(error).__name__}: {error}"[:500].replace("\0", ""))  # fmt: skip
        if trouble:
            raise trouble
        with self.database.begin() as db:
            doomed = db.scalars(select(Record).where(Record.request == "delete", Record.state.in_(ENDED))).all()
        for record in doomed:
            self.remove(record)
        with self.database.begin() as db:
            db.execute(delete(User).where(User.leaving, ~exists().where(Record.user_id == User.id)))
        while (claimed := self.claim()) is not None:
            self.start(claimed)

    def change(self, record: Record, **values: Any) -> None:
        """Write values into a record's row."""
        with self.database.begin() as db:
            db.execute(update(Record).where(Record.id == record.id).values(**values))

    def look(self, record: Record) -> None:
        """Update an active record from its processes and files."""
        folder = self.options.record(record.id)
        attempt = record.attempt
        process = self.started.get((record.id, attempt))
        leader = self.leader(folder, attempt, process)
        if leader is None:
            return
        if not leader["pid"]:
            self.never_began(record, process)
            return
        if record.state == "starting":
            self.change(record, state="running", began=leader["at"])
        late = self.options.hours and time.time() - leader["at"] > 3600 * self.options.hours
        if (record.request or late) and jobs.ended(folder, attempt) is None:
            self.executor.end(leader, folder, attempt)
        # before its report is read, so that a report written just now is not missed
        lives = self.executor.alive(leader, folder, attempt)
        end = jobs.ended(folder, attempt)
        if end is None and lives:
            self.read_progress(record, folder)
            return
        if self.executor.end(leader, folder, attempt, wait=0 if end is None else jobs.GRACE):
            values = outcomes.of(record, folder, end)
            if values["state"] == "lost":
                values |= self.executor.reason(folder, attempt)
            if late and values["state"] != "finished":
                values |= {"state": "stopped", "message": outcomes.LATE}
            if values["state"] == "lost" and self.goes_on(record, self.executor.broke_down(leader, folder, attempt)):
                values = {"state": "queued"}
            self.change(record, **{"began": leader["at"]} | values)
            self.started.pop((record.id, attempt), None)
            self.given.pop((record.id, attempt), None)
            self.progress.pop(record.id, None)

    @staticmethod
    def goes_on(record: Record, broke_down: bool) -> bool:
        """Whether a job that ended with its machine is to go on by itself; not for ever, in case it ended it."""
        return broke_down and record.settings.get("after_restart") != "wait" and record.attempt < ATTEMPTS

    def leader(self, folder: Path, attempt: int, process: Any) -> dict | None:
        """The runner of an attempt, with pid 0 if it will never begin; None while it is about to begin."""
        pending = self.executor.pending(process, folder, attempt)  # before the look: it may begin just now
        leader = jobs.begun(folder, attempt)
        if leader is not None or pending:
            return leader
        jobs.prevent(folder, attempt)  # the worker that was to start it died, or the runner could not begin
        return jobs.begun(folder, attempt) or {"pid": 0}

    def read_progress(self, record: Record, folder: Path) -> None:
        """Keep the best accuracy so far of a running job, which lists show."""
        when, size = self.progress.get(record.id, (0, 0))
        now = time.time()
        if now - when <= READ_EVERY:
            return
        path = folder / "run" / "metrics.jsonl"
        length = path.stat().st_size if path.exists() else 0
        self.progress[record.id] = now, length
        best = outcomes.best_so_far(folder) if length != size else None
        if best is not None:
            self.change(record, best=best)

    def never_began(self, record: Record, process: Any) -> None:
        """An attempt that never began: queued again, or failed after many attempts."""
        if record.request:
            self.change(record, state="stopped", ended=time.time())
        elif process is None and record.attempt < ATTEMPTS:
            self.change(record, state="queued")
        else:
            self.change(record, state="failed", ended=time.time(), message="The job could not be started.")

    def remove(self, record: Record) -> None:
        """Delete a record and all its files; a file that cannot be deleted now is tried again at the next look."""
        folder = self.options.record(record.id)
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            return
        with self.database.begin() as db:
            if found := db.get(Record, record.id):
                db.delete(found)

    def claim(self) -> Record | None:
        """The next record to start, marked as starting; None if there is none or no room."""
        with self.database.begin() as db:
            queue, busy = turns.waiting(db)
            if busy.total() >= self.options.jobs or self.devices(db) is None:
                return None
            for record in queue:
                free = busy[record.user_id] < self.options.jobs_per_user
                source = waits_for(record)
                if _given_up(record) or not free or (source and source.state != "finished"):
                    continue
                if _marked_starting(db, record):
                    return record
        return None

    def devices(self, db: orm.Session, but: int = 0) -> list[str] | None:
        """GPUs for one more job, none on a machine without; None if too few are free. `but`: the record it is for."""
        if not self.options.devices:
            return []
        taken: set = set()
        for active in db.scalars(select(Record).where(Record.state.in_(ACTIVE), Record.id != but)):
            leader = jobs.begun(self.options.record(active.id), active.attempt) or {}
            taken.update(self.given.get((active.id, active.attempt)) or leader.get("devices", "").split(","))
        free = [number for number in map(str, range(self.options.devices)) if number not in taken]
        return free[: self.options.processes] if len(free) >= self.options.processes else None

    def start(self, record: Record) -> None:
        """Start a claimed record's job; its state is "starting" already, so that another worker knows of it."""
        folder, variables = self.options.record(record.id), environment(record, self.options)
        with self.database.begin() as db:
            if devices := self.devices(db, but=record.id):
                self.given[record.id, record.attempt] = devices
                variables |= {runner.DEVICES: ",".join(devices)}
        try:
            if not (folder / "run" / "config.json").exists():  # nothing to go on from
                disk.set_aside(self.options, folder / "run")
            process = self.executor.start(folder, record.attempt, command(record, self.options), variables)
        except OSError as error:
            self.change(record, state="failed", ended=time.time(), message=outcomes.FULL if error.errno == 28
                        else "The job could not be started.", detail=str(error))  # fmt: skip
            return
        self.started[record.id, record.attempt] = process


def _given_up(record):
    """End a queued record that was stopped or whose source is not usable; whether it was ended."""
    source = record.source
    if record.request:
        record.state = "stopped"
    elif record.settings.get("start") == "source" and (source is None or source.state in BROKEN):
        record.state = "failed"
        record.message = "The record that it starts from did not finish, or was deleted."
    else:
        return False
    record.ended = time.time()
    return True


def _marked_starting(db, record):
    """Mark a queued record as starting; False if another worker was faster."""
    queued = update(Record).where(Record.id == record.id, Record.state == "queued")
    if not changed(db, queued.values(state="starting", attempt=Record.attempt + 1)):
        return False
    record.user.turn = time.time()
    db.flush()
    db.refresh(record)
    return True


def _step(worker):
    """One look at everything; returns the error of the database or the disk that interrupted it, or an empty text."""
    try:
        worker.step()
        disk.make_reserve(worker.options)
    except Unreachable as error:
        return f"the database does not answer, waiting: {first_line(error.orig)}"
    except OSError as error:
        return f"{error}; trying again"
    return ""


def serve(options: PlatformOptions) -> None:
    """Work until the server ends, and wait while the database or the disk fails."""
    with alone(options):
        worker = Worker(options, Database(options.database))
        failing = False
        while not orphaned(options):
            trouble = _step(worker)
            if trouble and not failing:
                print(f"worker: {trouble}", file=sys.stderr, flush=True)
            failing = bool(trouble)
            time.sleep(PAUSE + RETRY if trouble else PAUSE)
