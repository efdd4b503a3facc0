"""Records: runs of users, from the request until they are deleted."""

import time
from pathlib import Path

from sqlalchemy import Select, func, or_, orm, select, update

from . import disk
from .database import Record, User, changed
from .options import PlatformOptions
from .refusals import NotHere, Refused

KINDS = {"ann": "ANN pre-training", "qann": "QANN training", "test": "Test"}
ACTIVE = ("starting", "running")
BROKEN = ("failed", "stopped", "lost")
ENDED = ("finished", *BROKEN)
STATES = ("queued", *ACTIVE, *ENDED)
SORTS = {"name": func.lower(Record.name), "best": Record.best.desc().nulls_last()}  # beside: the newest first


def visible(user: User, kind: str | None = None) -> Select:
    """The query for all records that a user may see, newest first, without those that are about to be deleted."""
    query = select(Record).where(Record.request != "delete").order_by(Record.id.desc())
    if not user.administrator:
        query = query.where(Record.user_id == user.id)
    return query.where(Record.kind == kind) if kind else query


def found(user: User, kind: str, words: str, state: str, sort: str) -> Select:
    """The query for records of a kind in which all words occur: in name, tags, network, data set, or whose they are."""
    query = visible(user, kind).join(User)
    for word in words.split():
        parts = [Record.name, Record.tags, User.name, *(Record.settings[key].as_string() for key in ("model", "data"))]
        query = query.where(or_(*(part.icontains(word, autoescape=True) for part in parts)))
    query = query.where(Record.state == state) if state in STATES else query
    first = SORTS.get(sort)
    return query if first is None else query.order_by(None).order_by(first, Record.id.desc())


def one(db: orm.Session, user: User, number: int | None) -> Record:
    """A record that a user may see; NotHere for all others, whether they exist or not."""
    found = db.get(Record, number) if number and 0 < number < 2**31 else None
    if found is None or not (user.administrator or found.user_id == user.id):
        raise NotHere
    return found


def room(db: orm.Session, options: PlatformOptions, user: User, more: int) -> None:
    """Refused where `more` bytes of a user do not fit."""
    mine = db.scalars(select(Record.id).where(Record.user_id == user.id)).all()
    disk.room(options, map(options.record, mine), more, user.quota)


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
    _queue(db, options, user.id)
    room(db, options, user, more)
    settings = settings | options.shared
    record = Record(user_id=user.id, kind=kind, name=name, settings=settings, source_id=source and source.id)
    db.add(record)
    db.flush()
    disk.set_aside(options, options.record(record.id))  # left by a record that was never committed
    return record


def checkpoint(options: PlatformOptions, record: Record) -> Path | None:
    """The folder of a run that ended before it finished, with what it learnt until its last whole epoch; or None."""
    run = options.record(record.id) / "run"
    return run if record.state in BROKEN and record.request != "delete" and (run / "resume.pt").is_file() else None


def waits_for(record: Record) -> Record | None:
    """The record whose finished network this one starts from; None for one that has the weights in its own folder."""
    return record.source if record.settings.get("start") == "source" else None


def resume(db: orm.Session, options: PlatformOptions, record: Record) -> None:
    """Let a record that ended before it finished wait for its turn again, and go on from its last whole epoch."""
    _queue(db, options, record.user_id)
    again = update(Record).where(Record.id == record.id, Record.state.in_(BROKEN), Record.request != "delete")
    if not changed(db, again.values(state="queued", request="", ended=None, message="", detail="")):
        raise Refused("Only a run that ended before it finished can go on.", status=409)


def put_first(db: orm.Session, record: Record) -> None:
    """Let a record that waits be the next, before those that were put first earlier."""
    highest = db.scalar(select(func.max(Record.priority)).where(Record.state == "queued")) or 0
    waiting = update(Record).where(Record.id == record.id, Record.state == "queued")
    if not changed(db, waiting.values(priority=highest + 1)):
        raise Refused("Only a run that waits can be put first.", status=409)


def _queue(db, options, user):
    queued = select(func.count()).select_from(Record).where(Record.user_id == user, Record.state == "queued")
    if db.scalar(queued) >= options.queue_per_user:
        raise Refused("You have too many runs waiting: stop some, or come back later.", status=429)


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
