"""The worker: takes queued records one after another, starts their jobs, and keeps the table true to what happens.

Only one is at work in a folder (a lock says so). It may die at any moment: what it needs to know is in the table and in
the jobs' files, and the next one goes on from there.
"""

import fcntl
import os
import shutil
import sys
import time
from contextlib import contextmanager

from sqlalchemy import func, select, update

from . import disk, jobs, outcomes
from .commands import command, environment
from .database import Database, Record, Unreachable
from .records import ACTIVE, ENDED

PAUSE = 0.3  # seconds between two looks
LISTEN = 2  # seconds between two looks at what a job that runs has reached
ATTEMPTS = 5  # to begin a job at all
BROKEN = set(ENDED) - {"finished"}


@contextmanager
def alone(options):
    """Hold the folder's lock; wait for it as long as the server lives."""
    with (options.home / "worker.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if orphaned(options):
                    sys.exit(0)
                time.sleep(PAUSE)
        yield


def orphaned(options):
    """Whether the server that started this worker is no more; it may have died before the worker looked for it."""
    return os.getppid() != options.worker


class Worker:
    """What one worker knows; `step` is one look at everything."""

    def __init__(self, options, database):
        self.options, self.database, self.started = options, database, {}
        self.heard: dict = {}  # record: (when it was last listened to, how long its list of epochs was then)

    def step(self):
        """Look at all active records, then start what may start."""
        with self.database.begin() as db:
            active = db.scalars(select(Record).where(Record.state.in_(ACTIVE))).all()
        trouble = None
        for record in active:
            try:
                self.look(record)
            except Unreachable:
                raise
            except OSError as error:  # passes, for instance once there is room again: the next look sees the same
                trouble = error
            except Exception as error:  # of one record, whatever its files hold; the others go on
                print(f"worker: record {record.id}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                self.change(record, state="failed", ended=time.time(), message="Its files are damaged.",
                            detail=f"{type(error).__name__}: {error}"[:500].replace("\0", ""))  # fmt: skip
        if trouble:
            raise trouble
        with self.database.begin() as db:
            doomed = db.scalars(select(Record).where(Record.wish == "delete", Record.state.in_(ENDED))).all()
        for record in doomed:
            self.remove(record)
        while (record := self.claim()) is not None:
            self.start(record)

    def change(self, record, **values):
        """Write values into a record's row."""
        with self.database.begin() as db:
            db.execute(update(Record).where(Record.id == record.id).values(**values))

    def look(self, record):
        """What became of an active record."""
        folder, attempt = self.options.record(record.id), record.attempt
        leader = jobs.begun(folder, attempt)
        process = self.started.get((record.id, attempt))
        if process is not None:
            process.poll()
        if leader is None:
            if process is not None and process.returncode is None:
                return  # it is about to begin
            jobs.forestall(folder, attempt)  # whoever was to start it died in between, or it could not begin
            leader = jobs.begun(folder, attempt)
        if leader is None or not leader["pid"]:
            self.never_began(record, process)
            return
        if record.state == "starting":
            self.change(record, state="running", began=leader["at"])
        late = self.options.hours and time.time() - leader["at"] > 3600 * self.options.hours
        if (record.wish or late) and jobs.ended(folder, attempt) is None:
            jobs.end(leader)
        lives = jobs.alive(leader)  # asked before its last words are read, so that none are missed
        told = jobs.ended(folder, attempt)
        if told is None and lives:
            self.listen(record, folder)
            return
        if jobs.end(leader, wait=0 if told is None else jobs.GRACE):
            values = outcomes.of(record, folder, told)
            if late and values["state"] != "finished":
                values |= {"state": "stopped", "message": outcomes.LATE}
            self.change(record, **{"began": leader["at"]} | values)
            self.started.pop((record.id, attempt), None)
            self.heard.pop(record.id, None)

    def listen(self, record, folder):
        """Keep the best accuracy so far of a job that runs; lists show it."""
        (when, size), now, told = self.heard.get(record.id, (0, 0)), time.time(), folder / "run" / "metrics.jsonl"
        if now - when > LISTEN:
            length = told.stat().st_size if told.exists() else 0
            self.heard[record.id] = now, length
            best = outcomes.best_so_far(folder) if length != size else None
            if best is not None:
                self.change(record, best=best)

    def never_began(self, record, process):
        """A record whose attempt certainly never began: as it was before, or failed after many."""
        if record.wish:
            self.change(record, state="stopped", ended=time.time())
        elif process is None and record.attempt < ATTEMPTS:
            self.change(record, state="queued")
        else:
            self.change(record, state="failed", ended=time.time(), message="The job could not be started.")

    def remove(self, record):
        """Delete a record and all its files."""
        shutil.rmtree(self.options.record(record.id), ignore_errors=True)
        with self.database.begin() as db:
            if found := db.get(Record, record.id):
                db.delete(found)

    def claim(self):
        """The next record to start, marked as starting; None if there is none or no room."""
        with self.database.begin() as db:
            busy = dict(db.execute(select(Record.user_id, func.count()).where(Record.state.in_(ACTIVE))
                                   .group_by(Record.user_id)).all())  # fmt: skip
            if sum(busy.values()) >= self.options.jobs:
                return None
            waiting = db.scalars(select(Record).where(Record.state == "queued").order_by(Record.id)).all()
            for record in sorted(waiting, key=lambda r: busy.get(r.user_id, 0)):  # fairly among users
                source = record.source
                if record.wish:
                    record.state, record.ended = "stopped", time.time()
                elif record.settings.get("start") == "source" and (source is None or source.state in BROKEN):
                    record.state, record.ended = "failed", time.time()
                    record.message = "The record that it begins with did not finish, or was deleted."
                elif busy.get(record.user_id, 0) < self.options.jobs_per_user and (
                    source is None or source.state == "finished"
                ):
                    done = db.execute(update(Record).where(Record.id == record.id, Record.state == "queued")
                                      .values(state="starting", attempt=Record.attempt + 1))  # fmt: skip
                    if done.rowcount:
                        db.flush()
                        db.refresh(record)
                        return record
        return None

    def start(self, record):
        """Start a claimed record's job; the row says "starting" already, so that a restart knows of it."""
        folder = self.options.record(record.id)
        shutil.rmtree(folder / "run", ignore_errors=True)  # of an attempt that never began there is nothing; be sure
        try:
            words, variables = command(record, self.options), environment(record)
            self.started[record.id, record.attempt] = jobs.start(folder, record.attempt, words, variables)
        except OSError as error:
            self.change(record, state="failed", ended=time.time(), message=outcomes.FULL if error.errno == 28
                        else "The job could not be started.", detail=str(error))  # fmt: skip


def serve(options):
    """Work until the server is no more. A database that goes away is waited for."""
    with alone(options):
        worker, quiet = Worker(options, Database(options.database)), True
        while not orphaned(options):
            try:
                worker.step()
                disk.ballast(options)
                quiet = True
            except Unreachable as error:
                if quiet:
                    print(f"worker: the database does not answer, waiting: {str(error.orig).splitlines()[0]}",
                          file=sys.stderr, flush=True)  # fmt: skip
                quiet = False
                time.sleep(2)
            except OSError as error:
                if quiet:
                    print(f"worker: {error}; trying again", file=sys.stderr, flush=True)
                quiet = False
                time.sleep(2)
            time.sleep(PAUSE)
