"""Tables in SQLite (WAL) or PostgreSQL; migrations/ makes them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, cast

import alembic.command
import alembic.config
from alembic.util import CommandError
from sqlalchemy import JSON, CursorResult, Double, Executable, ForeignKey, create_engine, event, orm
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, sessionmaker

from ..checks import InputError, first_line

SERVER: dict = {  # PostgreSQL; without client_encoding, databases made under LC_ALL=C would return bytes
    "pool_pre_ping": True, "pool_size": 10, "connect_args": {"client_encoding": "utf8"},
}  # fmt: skip
Unreachable = OperationalError  # raised when the database does not answer


class Base(DeclarativeBase):
    """All tables. Times are seconds since 1970."""

    type_annotation_map: ClassVar = {float: Double()}


class User(Base):
    """Someone who can log in."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    password: Mapped[str]  # its hash; empty if the account is disabled
    administrator: Mapped[bool] = mapped_column(default=False)
    created: Mapped[float] = mapped_column(default=time.time)
    turn: Mapped[float] = mapped_column(default=0.0)  # when a run of this user was last started
    leaving: Mapped[bool] = mapped_column(default=False)  # deleted with the last of the records
    quota: Mapped[int | None]  # MiB of the disk; None: as --quota says


class Session(Base):
    """A browser that is logged in; `id` is the hash of its cookie."""

    __tablename__ = "sessions"
    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created: Mapped[float] = mapped_column(default=time.time)
    seen: Mapped[float] = mapped_column(default=time.time)
    agent: Mapped[str] = mapped_column(default="")
    user: Mapped[User] = relationship()


class Invitation(Base):
    """A link that makes accounts, or renews the password of one; `id` is the hash of its secret."""

    __tablename__ = "invitations"
    id: Mapped[str] = mapped_column(primary_key=True)
    administrator: Mapped[bool] = mapped_column(default=False)
    note: Mapped[str] = mapped_column(default="")
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    expires: Mapped[float]
    uses: Mapped[int] = mapped_column(default=1)  # accounts that it can still make


class Attempt(Base):
    """A log-in that failed."""

    __tablename__ = "attempts"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    address: Mapped[str] = mapped_column(index=True)
    at: Mapped[float] = mapped_column(default=time.time)


class Installation(Base):
    """The one row says to which folder of records the database belongs; `identity.py` compares."""

    __tablename__ = "installation"
    id: Mapped[str] = mapped_column(primary_key=True)
    folder: Mapped[str]  # where it was last


class Record(Base):
    """A run: its settings, its state and its result."""

    __tablename__ = "records"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(index=True)  # ann, qann or test
    name: Mapped[str]
    settings: Mapped[dict] = mapped_column(JSON)  # fields of accelerated.runs.config.Config
    source_id: Mapped[int | None] = mapped_column(ForeignKey("records.id", ondelete="SET NULL"), index=True)
    state: Mapped[str] = mapped_column(default="queued", index=True)  # see records.STATES
    request: Mapped[str] = mapped_column(default="")  # "", stop or delete
    priority: Mapped[int] = mapped_column(default=0)  # above 0: before all others
    tags: Mapped[str] = mapped_column(default="")  # words, with a space between
    attempt: Mapped[int] = mapped_column(default=0)  # how many times it was started
    created: Mapped[float] = mapped_column(default=time.time)
    began: Mapped[float | None]
    ended: Mapped[float | None]
    best: Mapped[float | None]  # the best accuracy on test images
    message: Mapped[str] = mapped_column(default="")  # what happened, a sentence
    detail: Mapped[str] = mapped_column(default="")  # the text of the error
    user: Mapped[User] = relationship()
    source: Mapped["Record | None"] = relationship(remote_side=[id])


class Database:
    """An engine with its sessions."""

    def __init__(self, address: str):
        try:
            url = make_url(address)
            if url.drivername in ("postgres", "postgresql"):
                url = url.set(drivername="postgresql+psycopg")
            lite = url.get_backend_name() == "sqlite"
            self.engine = create_engine(url, **{} if lite else SERVER)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise InputError(f"DATABASE_URL is not usable ({first_line(error)}): give an address such as "
                             "postgresql://USER:PASSWORD@HOST/NAME (extra 'postgres'), or none") from None  # fmt: skip
        self.url, self.lite = url, lite
        if lite:
            event.listen(self.engine, "connect", _set_pragmas)
        self.sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def begin(self) -> Iterator[orm.Session]:
        """A session whose changes are committed if nothing is raised."""
        with self.sessions.begin() as session:
            yield session

    def within(self, folder: Path) -> bool:
        """Whether the database is a file in a folder, with which it is moved and copied."""
        return self.lite and folder in Path(self.url.database or "").resolve().parents

    def migrate(self) -> None:
        """Bring the tables to this version's schema; InputError where that cannot be."""
        try:
            alembic.command.upgrade(self.migrations(), "head")
        except OperationalError as error:
            raise InputError(f"the database does not answer: {first_line(error.orig)}") from None
        except DatabaseError as error:
            raise InputError(f"the database is damaged, or none: {first_line(error.orig)}; restore a backup") from None
        except CommandError as error:
            raise InputError(f"a newer version made this database ({first_line(error)}): install that one") from None

    def migrations(self) -> alembic.config.Config:
        """The migrations of `migrations/versions`, for this database."""
        config = alembic.config.Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.attributes["engine"] = self.engine
        return config


def changed(db: orm.Session, statement: Executable) -> int:
    """Execute an update or a deletion; returns the number of rows that it changed."""
    return cast(CursorResult, db.execute(statement)).rowcount


def _set_pragmas(connection, _):
    for pragma in ("journal_mode=WAL", "busy_timeout=10000", "foreign_keys=ON", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
