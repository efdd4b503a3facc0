"""Records: what was asked for, from the moment it is asked until it is deleted."""

import shutil
import time

from sqlalchemy import func, select, update

from . import disk
from .database import Record
from .refusals import NotHere, Refused

KINDS = {"ann": "ANN pre-training", "qann": "QANN training", "test": "Test"}
ACTIVE = ("starting", "running")
ENDED = ("finished", "failed", "stopped", "lost")
STATES = ("queued", *ACTIVE, *ENDED)


def visible(user, kind=None):
    """The query for all records that a user may see, newest first; those that are about to be deleted are not shown."""
    query = select(Record).where(Record.wish != "delete").order_by(Record.id.desc())
    if not user.administrator:
        query = query.where(Record.user_id == user.id)
    return query.where(Record.kind == kind) if kind else query


def one(db, user, number):
    """A record that a user may see; NotHere for all others, whether they exist or not."""
    found = db.get(Record, number) if number and 0 < number < 2**31 else None
    if found is None or not (user.administrator or found.user_id == user.id):
        raise NotHere
    return found


def create(db, user, options, kind, name, settings, source=None, more=0):
    """A new record that waits for its turn, and will have `more` bytes at once; its number has no folder yet."""
    waiting = db.scalar(select(func.count()).select_from(Record).where(
        Record.user_id == user.id, Record.state == "queued"))  # fmt: skip
    if waiting >= options.queue_per_user:
        raise Refused("You have too many runs waiting: stop some, or come back later.", status=429)
    mine = db.scalars(select(Record.id).where(Record.user_id == user.id)).all()
    disk.room(options, map(options.record, mine), more)
    settings = settings | options.shared
    record = Record(user_id=user.id, kind=kind, name=name, settings=settings, source_id=source and source.id)
    db.add(record)
    db.flush()
    shutil.rmtree(options.record(record.id), ignore_errors=True)  # left by one whose row was never kept
    return record


def stop(db, record):
    """Ask for a record's end; one that waits ends at once."""
    waiting = update(Record).where(Record.id == record.id, Record.state == "queued")
    if not db.execute(waiting.values(state="stopped", ended=time.time())).rowcount:
        active = update(Record).where(Record.id == record.id, Record.state.in_(ACTIVE), Record.wish == "")
        db.execute(active.values(wish="stop"))


def remove(db, record):
    """Ask for a record to be stopped and deleted with its files; the worker does both. Refused while others need it."""
    needed = db.scalar(select(func.count()).select_from(Record).where(
        Record.source_id == record.id, Record.state.not_in(ENDED)))  # fmt: skip
    if needed:
        raise Refused("Another run waits for this one, or is reading it: stop that first.", status=409)
    stop(db, record)
    db.execute(update(Record).where(Record.id == record.id).values(wish="delete"))
