"""The same tables on a real PostgreSQL server, started for this test alone."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy

from accelerated.checks import InputError
from accelerated.platform import app, copies, worker
from accelerated.platform.database import Base, Database, Record, Unreachable
from accelerated.platform.options import PlatformOptions, checked

from .conftest import PASSWORD, PATIENCE, Inside

TOOLS = next((str(path.parent) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), "")
INITDB, PG_CTL = (shutil.which(name, path=TOOLS) or shutil.which(name) for name in ("initdb", "pg_ctl"))
pytestmark = pytest.mark.skipif(not (INITDB and PG_CTL), reason="no PostgreSQL server on this machine")


class Server:
    """A PostgreSQL server in a folder, reached through a socket in it. PostgreSQL refuses to run as root."""

    def __init__(self, folder):
        self.folder = folder
        self.user: dict = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
        if self.user:
            shutil.chown(folder, "nobody")
        self.call(INITDB, "-D", str(folder / "db"), "-U", "isospike", "-A", "trust", "--no-sync")
        self.start()
        self.url = f"postgresql://isospike@/postgres?host={folder}"

    def call(self, *command):
        environment = os.environ | {"HOME": str(self.folder), "LC_ALL": "C"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, env=environment, **self.user)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self):
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off"
        self.call(PG_CTL, "-D", str(self.folder / "db"), "-l", str(self.folder / "log"), "-o", options, "-w", "start")

    def stop(self):
        self.call(PG_CTL, "-D", str(self.folder / "db"), "-m", "immediate", "-w", "stop")


@pytest.fixture(scope="module")
def server():
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:  # a short path, for its socket, that others may enter
        server = Server(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def inside(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", server.url)
    found = Inside(tmp_path / "platform")
    yield found
    with found.database.engine.begin() as connection:
        Base.metadata.drop_all(connection)
        connection.execute(sqlalchemy.text("DROP TABLE alembic_version"))


def test_the_address_leads_to_postgresql(inside):
    assert inside.database.engine.dialect.name == "postgresql"
    assert not (inside.options.home / "isospike.db").exists()


def test_people_and_records_as_on_sqlite(inside, monkeypatch):
    ada = inside.user("ada")
    bob = inside.user("bob")
    number = ada.post("/ann/new", json={"name": "first"}).json()["id"]
    assert ada.get(f"/record/{number}").json()["record"]["settings"]["epochs"] == [12, 0, 0]
    assert bob.get(f"/record/{number}").status_code == 404
    assert ada.post("/login", json={"name": "ada", "password": "wrong password"}).status_code == 401
    monkeypatch.setattr(worker, "command", lambda *_: ["/bin/echo", "error: no"])
    at_work = worker.Worker(inside.options, inside.database)
    deadline = time.monotonic() + PATIENCE
    while ada.get(f"/record/{number}").json()["record"]["state"] != "finished":
        at_work.step()
        assert time.monotonic() < deadline
    ada.post(f"/record/{number}/delete")
    at_work.step()
    assert ada.get(f"/record/{number}").status_code == 404
    assert ada.post("/ann/new", json={}).json()["id"] > number


def test_a_platform_moves_here_from_sqlite(server, inside, tmp_path, monkeypatch):
    monkeypatch.delenv("DATABASE_URL")
    lite = Inside(tmp_path / "lite")
    ada = lite.user("ada")
    numbers = [ada.post("/ann/new", json={"name": name}).json()["id"] for name in ("first", "second")]
    test = ada.post("/test/new", json={"source": numbers[0], "network": "ann"}).json()["id"]
    assert copies.tables(lite.database, inside.database) == [*numbers, test]
    monkeypatch.setenv("DATABASE_URL", server.url)
    moved = Inside(tmp_path / "lite")
    client = moved.client()
    assert client.post("/login", data={"name": "ada", "password": PASSWORD}).status_code == 200
    found = client.get(f"/record/{test}").json()["record"]
    assert (found["source"], found["settings"]) == (numbers[0], ada.get(f"/record/{test}").json()["record"]["settings"])
    assert client.post("/ann/new", json={}).json()["id"] == test + 1, "and goes on counting where SQLite was"
    with pytest.raises(InputError, match="holds users already"):
        copies.tables(lite.database, inside.database)


def test_two_workers_never_claim_the_same_record(inside):
    ada = inside.user("ada")
    ada.post("/ann/new", json={})
    first, second = (worker.Worker(inside.options, Database(inside.options.database)) for _ in range(2))
    assert first.claim() is not None
    assert second.claim() is None


def test_a_database_that_goes_away_is_reported_and_waited_for(server, inside):
    ada = inside.user("ada")
    at_work = worker.Worker(inside.options, inside.database)
    server.stop()
    try:
        answer = ada.get("/")
        assert answer.status_code == 503
        assert answer.json()["refused"]["sentence"].startswith("The database does not answer")
        with pytest.raises(Unreachable):
            at_work.step()
    finally:
        server.start()
    assert ada.get("/").status_code == 200
    at_work.step()


def test_migrations_make_the_tables_that_the_code_expects(inside):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with inside.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_database_of_the_first_schema_keeps_what_it_holds(tmp_path):
    import alembic.command
    from sqlalchemy import text

    database = Database(f"sqlite:///{tmp_path}/old.db")
    config = database.migrations()
    alembic.command.upgrade(config, "0001")
    with database.begin() as db:
        db.execute(text("INSERT INTO users VALUES (1, 'ada', '', true, 0)"))
        columns = "user_id, kind, name, settings, state, wish, attempt, created, message, detail"
        db.execute(
            text(f"INSERT INTO records ({columns}) VALUES (1, 'ann', 'first', '{{}}', '', 'stop', 1, 0, '', '')")
        )
    database.migrate()
    with database.begin() as db:
        assert [(record.name, record.request) for record in db.query(Record)] == [("first", "stop")]


def test_sqlite_has_the_same_tables_and_migrating_twice_changes_nothing(tmp_path, monkeypatch):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    monkeypatch.delenv("DATABASE_URL", raising=False)
    options = checked(PlatformOptions(folder=str(tmp_path / "lite")))
    database = Database(options.database)
    database.migrate()
    database.migrate()
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    assert app.make(options, database)
    with database.begin() as db:
        assert db.query(Record).all() == []
