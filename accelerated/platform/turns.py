"""Whose turn it is: users take turns, and within a user's runs the first goes first."""

import time
from collections import Counter
from collections.abc import Iterable
from statistics import median

from sqlalchemy import func, orm, select

from . import following, outcomes
from .database import Record
from .options import PlatformOptions
from .records import ACTIVE

RECENT = 20  # finished runs of a kind, from which the time that one takes is estimated


def order(waiting: Iterable[Record], busy: dict[int, int]) -> list[Record]:
    """Waiting records in the order of their turns: those put first by the administrator, then user by user.

    Next is always the user with the fewest runs at work or before, of several the one whose last turn was first;
    `busy` says how many of a user's are at work.
    """
    waiting = list(waiting)
    found = sorted((record for record in waiting if record.priority), key=lambda r: (-r.priority, r.id))
    taken: Counter = Counter(busy)
    mine: dict[int, list[Record]] = {}
    for record in sorted((record for record in waiting if not record.priority), key=lambda r: -r.id):
        mine.setdefault(record.user_id, []).append(record)
    while mine:
        user = min(mine, key=lambda one: (taken[one], mine[one][-1].user.turn, mine[one][-1].id))
        found.append(mine[user].pop())
        taken[user] += 1
        if not mine[user]:
            del mine[user]
    return found


def waiting(db: orm.Session) -> tuple[list[Record], Counter]:
    """(queued records in the order of their turns, {user: runs at work})."""
    running = select(Record.user_id, func.count()).where(Record.state.in_(ACTIVE)).group_by(Record.user_id)
    busy = Counter({user: number for user, number in db.execute(running)})
    queued = db.scalars(select(Record).where(Record.state == "queued")).all()
    return order(queued, busy), busy


def place(db: orm.Session, options: PlatformOptions, record: Record) -> dict | None:
    """{"before": how many runs come before a queued one, "seconds": until it begins, or None}; None for any other.

    Runs at work take as long as their last epochs say, others as long for each epoch as runs of their kind here lately;
    where one of them never ran, nobody knows.
    """
    queue, _ = waiting(db)
    numbers = [one.id for one in queue]
    if record.id not in numbers:
        return None
    before = queue[: numbers.index(record.id)]
    active = db.scalars(select(Record).where(Record.state.in_(ACTIVE))).all()
    pace = {kind: _pace(db, kind) for kind in {one.kind for one in [*before, *active]}}
    if None in pace.values():
        return {"before": len(before), "seconds": None}
    times = [_left(options, one, pace[one.kind]) for one in active] + [pace[one.kind] * _epochs(one) for one in before]
    return {"before": len(before), "seconds": sum(times) / options.jobs}


def _epochs(record):
    """The epochs of a training; 1 for a test."""
    return max(1, sum(record.settings.get("epochs", ())))


def _left(options, record, pace):
    known = following.left(outcomes.metrics(options.record(record.id)), record.settings)
    if known is not None:
        return known
    return max(0.0, pace * _epochs(record) - (time.time() - (record.began or time.time())))


def _pace(db, kind):
    """The seconds an epoch takes in runs of a kind, the middle one of the latest; None if there was none."""
    ran = select(Record).where(Record.kind == kind, Record.state == "finished", Record.began.is_not(None))
    latest = db.scalars(ran.order_by(Record.ended.desc()).limit(RECENT))
    times = [(one.ended - one.began) / _epochs(one) for one in latest if one.ended and one.began]
    return median(times) if times else None
