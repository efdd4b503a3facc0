"""Copies: of a database to another one, and of everything to a folder that is a platform itself."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, func, insert, select, text

from ..checks import InputError, first_line
from .database import Base, Database, Record, User
from .options import PlatformOptions

ROWS = 500  # at once


@contextlib.contextmanager
def _one_moment(database: Database) -> Iterator[Connection]:
    """A connection to which the whole database stays as it is at the first look, whoever changes it meanwhile."""
    level = {} if database.lite else {"isolation_level": "REPEATABLE READ"}
    with database.engine.connect().execution_options(**level) as connection:
        if database.lite:
            connection.exec_driver_sql("BEGIN")
        yield connection
        connection.rollback()


def tables(source: Database, target: Database) -> list[int]:
    """Copy all rows to a database without any; the numbers of the records. InputError where it has some."""
    target.migrate()
    with _one_moment(source) as old, target.engine.begin() as new:
        if new.scalar(select(func.count()).select_from(User.__table__)):
            raise InputError(f"{target.url.render_as_string()} holds users already: give an empty database")
        for table in Base.metadata.sorted_tables:
            rows = old.execute(
                select(table).order_by(*table.primary_key)
            ).mappings()  # what others refer to comes first
            while some := rows.fetchmany(ROWS):
                new.execute(insert(table), [dict(row) for row in some])
            if not target.lite and "id" in table.c and table.c.id.type.python_type is int:
                new.execute(text(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), max(id)) "
                                 f"FROM {table.name} HAVING max(id) > 0"))  # fmt: skip
        return list(new.scalars(select(Record.id).order_by(Record.id)))


def database(options: PlatformOptions, source: Database) -> int:
    """Copy the database to the address `options.copy_database`, while nothing works in the folder; how many records."""
    with (options.home / "worker.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"a platform is at work in {options.home}: stop it first") from None
        return len(tables(source, Database(options.copy_database)))


def backup(options: PlatformOptions, source: Database) -> int:
    """Copy everything but data sets to a new folder, while it is in use, too; how many records.

    The copy is a platform with a database of its own in SQLite. Jobs that run now have in it what they had written.
    """
    folder = Path(options.backup).resolve()
    part = folder.with_name(f"{folder.name}.part")
    if folder.exists() or part.exists():
        raise InputError(f"{folder if folder.exists() else part} is there already: choose another --backup")
    try:
        part.mkdir(parents=True, mode=0o700)
        target = Database(f"sqlite:///{part / 'isospike.db'}")
        numbers = tables(source, target)
        target.engine.dispose()  # nothing of it is in a file beside it any more
        (part / "records").mkdir()
        for number in numbers:
            _copied(options.record(number), part / "records" / str(number))
        shutil.copyfile(options.home / "identity", part / "identity")
        part.rename(folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {first_line(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)  # made above; renamed if all went well
    return len(numbers)


def _copied(folder, target):
    """Copy a record's files but those that vanish meanwhile: they were being written, or their record was deleted."""
    if not folder.is_dir():
        return
    target.mkdir()
    for path in sorted(folder.rglob("*")):
        copy = target / path.relative_to(folder)
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir():
                copy.mkdir(exist_ok=True)
            else:
                shutil.copy2(path, copy)
