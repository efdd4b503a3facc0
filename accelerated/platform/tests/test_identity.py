"""A folder and its database know each other: one that was changed, restored, moved or copied loses nothing."""

import os
import random
import shutil
import subprocess
import sys
import time
from typing import Any

import pytest
from sqlalchemy import delete, select

from accelerated.checks import InputError
from accelerated.platform import copies, identity, jobs, records, worker
from accelerated.platform.commands import UPLOAD
from accelerated.platform.database import Database, Record, User
from accelerated.platform.options import PlatformOptions, checked

from .conftest import PASSWORD, Inside, gone

SLEEP = "import time; time.sleep(600)"


class Platform(Inside):
    """One in a folder, checked as the server checks it, with a worker."""

    def __init__(self, folder, **options):
        super().__init__(folder, **options)
        identity.belong(self.options, self.database)
        self.worker = worker.Worker(self.options, self.database)

    def record(self, weights=b"learnt"):
        """A finished record with weights."""
        with self.database.begin() as db:
            user = db.scalar(select(User)) or User(name="ada", password="-")
            db.add(user)
            db.flush()
            made = records.create(db, user, self.options, "ann", "x", {"until": "relu"})
            made.state = "finished"
            number = made.id
        run = self.options.record(number) / "run"
        run.mkdir(parents=True)
        (run / "weights.safetensors").write_bytes(weights)
        return number

    def row(self, db, number) -> Any:
        return db.get(Record, number)

    def close(self):
        self.database.engine.dispose()


def kept(folder):
    """{record: its weights} in a folder."""
    return {path.parts[-3]: path.read_bytes() for path in folder.glob("records/*/run/weights.safetensors")}


def elsewhere(monkeypatch, path):
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{path}")


def test_a_pair_stays_a_pair(tmp_path):
    first = Platform(tmp_path / "a")
    first.record()
    first.close()
    again = Platform(tmp_path / "a")
    assert (tmp_path / "a" / "identity").stat().st_size > 30
    assert again.record() == 2


def test_a_folder_of_before_is_taken_with_its_database(tmp_path):
    platform = Platform(tmp_path / "a")
    platform.record()
    (tmp_path / "a" / "identity").unlink()
    with platform.database.begin() as db:
        db.execute(delete(identity.Installation))
    Platform(tmp_path / "a").record()
    (tmp_path / "a" / "identity").unlink()
    Platform(tmp_path / "a").record()
    assert len(kept(tmp_path / "a")) == 3


@pytest.mark.parametrize("forgets", [False, True], ids=["", "without its identity"])
def test_a_new_database_on_a_folder_with_records_is_refused(tmp_path, monkeypatch, forgets):
    Platform(tmp_path / "a").record()
    if forgets:
        (tmp_path / "a" / "identity").unlink()
    elsewhere(monkeypatch, tmp_path / "new.db")
    with pytest.raises(InputError, match=r"records that the database does not know \(1\)"):
        Platform(tmp_path / "a")
    assert kept(tmp_path / "a") == {"1": b"learnt"}


def test_a_new_database_on_a_folder_without_records_is_refused(tmp_path, monkeypatch):
    Platform(tmp_path / "a")
    elsewhere(monkeypatch, tmp_path / "new.db")
    with pytest.raises(InputError, match="belongs to another database"):
        Platform(tmp_path / "a")


def test_an_older_database_is_refused(tmp_path):
    platform = Platform(tmp_path / "a")
    platform.record()
    platform.close()
    shutil.copy(tmp_path / "a" / "isospike.db", tmp_path / "old.db")
    later = Platform(tmp_path / "a")
    later.record(b"more")
    later.close()
    for path in (tmp_path / "a").glob("isospike.db*"):
        path.unlink()
    shutil.copy(tmp_path / "old.db", tmp_path / "a" / "isospike.db")
    with pytest.raises(InputError, match=r"does not know \(2\)"):
        Platform(tmp_path / "a")
    assert kept(tmp_path / "a")["2"] == b"more"


def test_the_database_of_another_folder_is_refused(tmp_path, monkeypatch):
    Platform(tmp_path / "b").record()
    Platform(tmp_path / "a").record()
    elsewhere(monkeypatch, tmp_path / "b" / "isospike.db")
    with pytest.raises(InputError, match=f"belongs to the folder {tmp_path / 'b'}"):
        Platform(tmp_path / "a")
    with pytest.raises(InputError, match=f"belongs to the folder {tmp_path / 'b'}, and {tmp_path / 'c'} is new"):
        Platform(tmp_path / "c")
    assert not (tmp_path / "c" / "identity").exists()


def test_a_copy_that_would_use_the_same_database_is_refused_and_a_moved_folder_is_not(tmp_path, monkeypatch):
    elsewhere(monkeypatch, tmp_path / "one.db")
    Platform(tmp_path / "a").record()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(InputError, match=f"is a copy of {tmp_path / 'a'}"):
        Platform(tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "c")
    moved = Platform(tmp_path / "c")
    with moved.database.begin() as db:
        assert db.scalar(select(identity.Installation.folder)) == str(tmp_path / "c")


def running(platform, monkeypatch):
    """(record, leader) of a job that sleeps."""
    monkeypatch.setattr(worker, "command", lambda *_: [sys.executable, "-c", SLEEP])
    number = platform.record()
    with platform.database.begin() as db:
        platform.row(db, number).state = "queued"
    deadline = time.monotonic() + 60
    while not jobs.alive(leader := jobs.begun(platform.options.record(number), 1)):
        platform.worker.step()
        assert time.monotonic() < deadline
    return number, leader


def test_a_copy_beside_its_original_leaves_the_jobs_of_the_original_alone(tmp_path, monkeypatch):
    platform = Platform(tmp_path / "a")
    number, leader = running(platform, monkeypatch)
    platform.worker.step()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = Platform(tmp_path / "b")
    with copy.database.begin() as db:
        assert copy.row(db, number).state == "running"
        records.stop(db, platform.row(db, number))
    copy.worker.step()
    with copy.database.begin() as db:
        assert copy.row(db, number).state == "stopped"
    assert jobs.alive(leader), "the copy ended the original's job"
    (tmp_path / "a").rename(tmp_path / "c")
    moved = Platform(tmp_path / "c")
    assert jobs.alive(jobs.begun(moved.options.record(number), 1)), "a moved folder still has its jobs"
    with moved.database.begin() as db:
        records.stop(db, platform.row(db, number))
    moved.worker.step()
    assert gone(leader["pid"])


def test_a_file_that_came_with_a_form_is_never_deleted_and_never_in_the_way(tmp_path):
    """The server died between the file and the record: the number is used again, and the file lies aside."""
    platform = Platform(tmp_path / "a")
    folder = platform.options.record(1)
    folder.mkdir()
    (folder / UPLOAD).write_bytes(b"a network")
    again = Platform(tmp_path / "a")
    assert again.record() == 1
    (left,) = (tmp_path / "a" / "leftovers").iterdir()
    assert (left / UPLOAD).read_bytes() == b"a network"


def test_a_backup_is_a_platform_while_the_original_goes_on(tmp_path, monkeypatch):
    platform = Platform(tmp_path / "a")
    platform.user("bob", administrator=True)
    number, leader = running(platform, monkeypatch)
    platform.record(b"done")
    options = checked(PlatformOptions(folder=str(tmp_path / "a"), backup=str(tmp_path / "copy")))
    assert copies.backup(options, platform.database) == 2
    assert jobs.alive(leader)
    with pytest.raises(InputError, match="is there already"):
        copies.backup(options, platform.database)
    back = Platform(tmp_path / "copy")
    assert kept(tmp_path / "copy") == kept(tmp_path / "a")
    assert back.client().post("/login", data={"name": "bob", "password": PASSWORD}).status_code == 200
    assert back.record() == 3
    back.worker.step()
    with back.database.begin() as db:
        assert platform.row(db, number).state == "lost"
    jobs.end(leader, wait=0)


def test_a_backup_that_fails_leaves_nothing(tmp_path, monkeypatch):
    platform = Platform(tmp_path / "a")
    platform.record()

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", fails)
    with pytest.raises(InputError, match="No space left"):
        copies.backup(
            checked(PlatformOptions(folder=str(tmp_path / "a"), backup=str(tmp_path / "copy"))), platform.database
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def command(folder, *arguments, **environment):
    """(exit status, output) of the platform's command."""
    words = [sys.executable, "-m", "accelerated.platform", "--folder", str(folder), *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=os.environ | environment)
    return done.returncode, done.stdout + done.stderr


def test_the_commands_say_what_they_did(tmp_path):
    Platform(tmp_path / "a").record()
    assert command(tmp_path / "a", "--backup", tmp_path / "b") == (0, f"{tmp_path / 'b'} holds 1 records\n")
    code, said = command(tmp_path / "a", "--copy-database", f"sqlite:///{tmp_path}/other.db")
    assert (code, said) == (0, "1 records are in the other database: give its DATABASE_URL now\n")
    code, said = command(tmp_path / "a", "--copy-database", f"sqlite:///{tmp_path}/other.db")
    assert (code, said.count("\n")) == (2, 1)
    assert "holds users already" in said


def test_a_damaged_and_a_newer_database_get_one_line(tmp_path):
    platform = Platform(tmp_path / "a")
    platform.record()
    with platform.database.begin() as db:
        db.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    platform.close()
    code, said = command(tmp_path / "a")
    assert (code, said.count("\n")) == (2, 1), said
    assert "a newer version made this database" in said
    (tmp_path / "a" / "isospike.db").write_bytes(random.Random(1).randbytes(4096))
    for path in (tmp_path / "a").glob("isospike.db-*"):
        path.unlink()
    code, said = command(tmp_path / "a")
    assert (code, said.count("\n")) == (2, 1), said
    assert "damaged" in said
    assert kept(tmp_path / "a") == {"1": b"learnt"}


def test_a_copy_is_of_one_moment(tmp_path, monkeypatch):
    """Somebody joins and starts a run while tables are copied: neither is in the copy."""
    platform = Platform(tmp_path / "a")
    platform.record()
    real, seen = copies.insert, []

    def slow(table):
        if not seen:
            seen.append(platform.record())
        return real(table)

    monkeypatch.setattr(copies, "insert", slow)
    assert copies.tables(platform.database, Database(f"sqlite:///{tmp_path}/other.db")) == [1]
    assert seen == [2]
