"""A folder and its database know each other: the same identity is in both, and every record is in the database.

A new, an older or another database on a folder with records would use their numbers again.
"""

import uuid
from pathlib import Path

from sqlalchemy import select

from ..checks import InputError
from . import runner
from .commands import OWN
from .database import Database, Installation, Record
from .options import PlatformOptions


def belong(options: PlatformOptions, database: Database) -> None:
    """Make sure that folder and database belong together, and that both say so; InputError with what to do if not."""
    file = options.home / "identity"
    here = file.read_text().strip() if file.exists() else ""
    with database.begin() as db:
        known = set(db.scalars(select(Record.id)))
        strangers = [number for number in _numbers(options) if number not in known]
        if strangers:
            listed = ", ".join(map(str, strangers[:5])) + (", ..." if len(strangers) > 5 else "")
            raise InputError(f"{options.home} has records that the database does not know ({listed}): it "
                             "is new, older, or another one. Give the DATABASE_URL that belongs to this folder, or "
                             "choose another --folder")  # fmt: skip
        row = db.scalar(select(Installation))
        if (row.id if row else "") != here:
            _no_pair(options, here, row, known)
        if row is None:
            row = Installation(id=here or uuid.uuid4().hex)
            db.add(row)
        elif here and row.folder != str(options.home):
            _no_copy(options, database, row)
        row.folder = str(options.home)
    if not here:
        file.write_text(row.id + "\n")


def _numbers(options):
    """The numbers of the records in a folder; what holds only a file that came with a form was never one."""
    found = []
    for folder in (options.home / "records").iterdir():
        if not folder.name.isdigit():
            continue
        if {path.name for path in folder.iterdir()} <= set(OWN.values()):
            continue
        found.append(int(folder.name))
    return sorted(found)


def _no_pair(options, here, row, known):
    """InputError, unless one of the two is new and the other holds nothing that could be lost."""
    if here and row:
        raise InputError(f"the database belongs to the folder {row.folder}, and not to {options.home}: give the "
                         "DATABASE_URL that belongs to this folder, or choose another --folder")  # fmt: skip
    if here:
        raise InputError(f"{options.home} belongs to another database, and this one is new: give its DATABASE_URL, or "
                         "choose another --folder")  # fmt: skip
    if known and row and row.folder != str(options.home):
        raise InputError(f"the database belongs to the folder {row.folder}, and {options.home} is new: choose that "
                         "--folder")  # fmt: skip


def _no_copy(options, database, row):
    """InputError for a copy of a folder that is still there, where both would use one database."""
    other = Path(row.folder)
    try:
        same = (other / "identity").read_text().strip() == row.id
        copied = same and runner.place(other) != runner.place(options.home)
    except OSError:
        return  # it was moved, or is on another machine
    if copied and not database.within(options.home):
        raise InputError(f"{options.home} is a copy of {other}, to which the database belongs: copy the database, too "
                         "(--copy-database), and give its DATABASE_URL")  # fmt: skip
