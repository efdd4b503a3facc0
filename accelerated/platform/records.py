"""Records: runs of users, from the request until they are deleted."""

import shutil
import time

from sqlalchemy import Select, func, orm, select, update

from . import disk
from .database import Record, User, changed
from .options import PlatformOptions
from .refusals import NotHere, Refused

KINDS = {"ann": "ANN pre-training", "qann": "QANN training", "test": "Test"}
ACTIVE = ("starting", "running")
ENDED = ("finished", "failed", "stopped", "lost")
STATES = ("queued", *ACTIVE, *ENDED)


def visible(user: User, kind: str | None = None) -> Select:
    """The query for all records that a user may see, newest first, without those that are about to be deleted."""
    query = select(Record).where(Record.request != "delete").order_by(Record.id.desc())
    if not user.administrator:
        query = query.where(Record.user_id == user.id)
    return query.where(Record.kind == kind) if kind else query


def one(db: orm.Session, user: User, number: int | None) -> Record:
    """A record that a user may see; NotHere for all others, whether they exist or not."""
    found = db.get(Record, number) if number and 0 < number < 2**31 else None
    if found is None or not (user.administrator or found.user_id == user.id):
        raise NotHere
    return found


def create(
    db: orm.Session,
    user: User,
    options: PlatformOptions,
    kind: str,
    name: str,
    settings: dict,
    source: Record | None = None,
    more: int = 0,
) -> Record:
    """A new record that waits for its turn; `more` is the size of the file that comes with it. It has no folder yet."""
    queued = select(Record.id).where(Record.user_id == user.id, Record.state == "queued")
    if len(db.scalars(queued).all()) >= options.queue_per_user:
        raise Refused("You have too many runs waiting: stop some, or come back later.", status=429)
    mine = db.scalars(select(Record.id).where(Record.user_id == user.id)).all()
    disk.room(options, map(options.record, mine), more)
    settings = settings | options.shared
    record = Record(user_id=user.id, kind=kind, name=name, settings=settings, source_id=source and source.id)
    db.add(record)
    db.flush()
    shutil.rmtree(options.record(record.id), ignore_errors=True)  # left by a record that was never committed
    return record


def stop(db: orm.Session, record: Record) -> None:
    """Request that a record is stopped; one that waits stops at once."""
    waiting = update(Record).where(Record.id == record.id, Record.state == "queued")
    if not changed(db, waiting.values(state="stopped", ended=time.time())):
        active = update(Record).where(Record.id == record.id, Record.state.in_(ACTIVE), Record.request == "")
        db.execute(active.values(request="stop"))


def remove(db: orm.Session, record: Record) -> None:
    """Request that the worker stops a record and deletes it with its files. Refused while other records need it."""
    needed = db.scalar(select(func.count()).select_from(Record).where(
        Record.source_id == record.id, Record.state.not_in(ENDED)))  # fmt: skip
    if needed:
        raise Refused("Another run is waiting for this one, or is reading its files: stop that run first.", status=409)
    stop(db, record)
    db.execute(update(Record).where(Record.id == record.id).values(request="delete"))
