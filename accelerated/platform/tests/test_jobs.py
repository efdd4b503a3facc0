"""Jobs and the worker, with small programs in place of `accelerated.run`."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from sqlalchemy import select

from accelerated.platform import jobs, outcomes, records, runner, worker
from accelerated.platform.commands import environment, typed
from accelerated.platform.database import Record, User

from .conftest import PATIENCE, Inside, gone, wait_for

TALK = "import time\nfor i in range(200):\n    print('line', i, flush=True)\n    time.sleep(0.02)\n"
SLEEP = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
NEST = """
import os, subprocess, sys, time
inner = [sys.executable, "-c", "import time; time.sleep(600)"]
same, other = subprocess.Popen(inner), subprocess.Popen(inner, start_new_session=True)
print(same.pid, other.pid, flush=True)
time.sleep(600)
"""


class Place:
    """A platform with two users, a worker, and records that run given programs."""

    def __init__(self, inside):
        self.options = inside.options
        self.database = inside.database
        self.programs: dict = {}
        self.worker = worker.Worker(self.options, self.database)
        self.client_of: Any = inside.session
        for name in ("ada", "bob"):
            with self.database.begin() as db:
                db.add(User(name=name, password="-"))

    def record(self, program="", user=1, kind="ann", source=None, **settings):
        with self.database.begin() as db:
            made = records.create(db, db.get(User, user), self.options, kind, "x", {"until": "relu"} | settings,
                                  source and db.get(Record, source))  # fmt: skip
        self.programs[made.id] = program
        return made.id

    def row(self, number) -> Any:
        with self.database.begin() as db:
            return db.get(Record, number)

    def until(self, number, *states, seconds=PATIENCE) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.worker.step()
            if (row := self.row(number)) is None or row.state in states:
                return row
            time.sleep(0.02)
        raise AssertionError(f"record {number} is {row.state}: {row.message} {row.detail}")

    def restart(self):
        """Another worker, as after the first was killed."""
        self.worker = worker.Worker(self.options, self.database)

    def ask(self, what, number):
        with self.database.begin() as db:
            what(db, db.get(Record, number))

    def leader(self, number) -> Any:
        """The runner of a record's first attempt."""
        return jobs.begun(self.options.record(number), 1)

    def ended(self, number) -> Any:
        """Wait until the job's runner has reported how it ended, whether a worker knows it or not."""
        return wait_for(lambda: jobs.ended(self.options.record(number), 1), "the job did not end")

    def words(self, number):
        """The first whole line of a job's log, in words."""
        log = wait_for(lambda: "\n" in self.log(number) and self.log(number), "the job wrote no line")
        return log.split("\n")[0].split()

    def log(self, number):
        path = self.options.record(number) / "log.txt"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def place(inside, monkeypatch):
    place = Place(inside)
    monkeypatch.setattr(worker, "command", lambda record, *_: [sys.executable, "-c", place.programs[record.id]])
    yield place
    with place.database.begin() as db:
        for record in db.scalars(select(Record)):
            leader = jobs.begun(place.options.record(record.id), record.attempt)
            if leader and leader["pid"]:
                jobs.end(leader, wait=0)


def test_a_job_ends_and_its_log_is_kept(place):
    number = place.record("print('hello')")
    row = place.until(number, "finished")
    assert place.log(number) == "hello\n"
    assert row.began <= row.ended
    assert place.ended(number).code == 0


@pytest.mark.parametrize(("program", "state", "message", "detail"), [
    ("import sys; print('error: lr must be positive, got -1'); sys.exit(2)", "failed", "It could not be done.",
     "lr must be positive, got -1"),
    ("raise ValueError('odd')", "failed", "It ended with an error: see the log.", "ValueError: odd"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "failed", outcomes.MEMORY, ""),
    ("import sys; print('error: [enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate memory')\n"
     "sys.exit(2)", "failed", outcomes.MEMORY,
     "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate memory"),
    ("raise OSError(28, 'No space left on device')", "failed", outcomes.FULL,
     "OSError: [Errno 28] No space left on device"),
])  # fmt: skip
def test_the_page_says_what_happened_in_a_sentence(place, program, state, message, detail):
    row = place.until(place.record(program), "failed", "finished")
    assert (row.state, row.message, row.detail) == (state, message, detail)


def test_a_program_that_does_not_exist_is_reported(place, monkeypatch):
    monkeypatch.setattr(worker, "command", lambda *_: ["/nowhere/python"])
    row = place.until(place.record(), "failed")
    assert row.message == "The job could not be started."
    assert "No such file" in row.detail


def test_how_a_job_ended_is_known_though_the_disk_was_full(place, tmp_path):
    """Its space was reserved before; a limit on the size of files simulates a full disk."""
    script = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); " \
             "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"  # fmt: skip
    program = "print('x' * 10_000)"
    subprocess.run([sys.executable, "-c", script, runner.__file__, str(tmp_path), "1", sys.executable, "-c", program])
    end = jobs.ended(tmp_path, 1)
    assert end is not None
    assert end.code != 0
    assert (tmp_path / "ended-1").stat().st_size == runner.ROOM


def test_stop_ends_the_whole_group_and_processes_that_left_it(place):
    number = place.record(NEST)
    place.until(number, "running")
    words = place.words(number)
    leader = place.leader(number)
    place.ask(records.stop, number)
    row = place.until(number, "stopped")
    assert row.message == ""
    assert all(gone(int(pid)) for pid in (*words, leader["pid"])), "with the one in its own session"


def test_stop_ends_a_job_that_ignores_signals(place, monkeypatch):
    monkeypatch.setattr(jobs, "GRACE", 0.3)
    monkeypatch.setattr(jobs.end, "__defaults__", (0.3,))
    number = place.record(DEAF)
    place.until(number, "running")
    assert place.words(number) == ["deaf"]
    place.ask(records.stop, number)
    place.until(number, "stopped")
    assert jobs.members(place.leader(number)) == set()


def test_a_waiting_record_stops_at_once_and_never_begins(place):
    first = place.record(SLEEP)
    second = place.record("print('never')")
    place.until(first, "running")
    place.ask(records.stop, second)
    assert place.row(second).state == "stopped"
    place.ask(records.stop, first)
    place.until(first, "stopped")
    place.worker.step()
    assert not place.options.record(second).exists()


def test_deleting_ends_the_job_and_takes_its_files(place):
    number = place.record(TALK)
    place.until(number, "running")
    pid = place.leader(number)["pid"]
    place.ask(records.remove, number)
    assert place.until(number) is None
    assert not place.options.record(number).exists()
    assert gone(pid)
    assert place.record("") > number, "its number is not used again"


def test_a_record_that_another_waits_for_is_not_deleted(place):
    first = place.record(SLEEP)
    second = place.record("", source=first, start="source")
    with pytest.raises(records.Refused, match="waiting for this one"):
        place.ask(records.remove, first)
    place.ask(records.stop, second)
    place.ask(records.remove, first)


def test_a_record_begins_after_its_source_and_not_without_it(place):
    place.worker.options = dataclasses.replace(place.options, jobs=2)  # both may run
    first = place.record("import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)")
    second = place.record("print('after')", source=first, start="source", user=2)
    place.until(first, "running")
    assert place.row(second).state == "queued"
    (place.options.record(first) / "go").touch()
    place.until(second, "finished")
    assert place.row(second).began >= place.row(first).ended
    broken = place.record("raise SystemExit(1)")
    third = place.record("", source=broken, start="source")
    assert "did not finish" in place.until(third, "failed").message


def test_users_take_turns_within_the_limits(place):
    place.worker.options = dataclasses.replace(place.options, jobs=2)
    many = [place.record(SLEEP) for _ in range(3)]
    other = place.record(SLEEP, user=2)
    place.until(many[0], "running")
    place.until(other, "running")
    assert [place.row(number).state for number in many] == ["running", "queued", "queued"], "one per user, two in all"


def test_a_user_cannot_fill_the_queue(place):
    for _ in range(place.options.queue_per_user):
        place.record()
    with pytest.raises(records.Refused, match="too many"):
        place.record()
    place.record(user=2)


def test_a_new_worker_finds_a_running_job_again(place):
    number = place.record(TALK)
    place.until(number, "running")
    pid = place.leader(number)["pid"]
    place.restart()
    place.worker.step()
    assert place.row(number).state == "running"
    assert place.leader(number)["pid"] == pid
    place.until(number, "finished")
    assert place.log(number).splitlines() == [f"line {i}" for i in range(200)]


def test_a_job_that_ended_while_nobody_looked_is_known(place):
    number = place.record("print('quick')")
    place.until(number, "running", "finished")
    place.restart()
    place.ended(number)
    assert place.until(number, "finished").attempt == 1


def test_a_runner_that_is_killed_takes_its_job_with_it_and_is_marked_lost(place):
    number = place.record(NEST)
    place.until(number, "running")
    words = place.words(number)
    os.kill(place.leader(number)["pid"], signal.SIGKILL)
    row = place.until(number, "lost")
    assert "lost" in row.message
    assert gone(int(words[0]))


def test_a_process_that_reuses_the_number_is_left_alone(place):
    """After a restart of the machine, process numbers start again."""
    number = place.record("")
    with place.database.begin() as db:
        record: Any = db.get(Record, number)
        record.state = "running"
        record.attempt = 1
    bystander = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
    folder = place.options.record(number)
    folder.mkdir(parents=True)
    (folder / "begun-1").write_text(json.dumps({"pid": bystander.pid, "began": 12345, "mark": "", "at": 1.0}))
    try:
        assert place.until(number, "lost").message
        assert bystander.poll() is None, "an innocent process was ended"
    finally:
        bystander.kill()
        bystander.wait()


def test_a_worker_that_dies_between_claim_and_start_runs_it_once(place):
    number = place.record("print('once')")
    claimed = place.worker.claim()
    assert claimed is not None
    assert claimed.id == number
    place.restart()  # the first worker never started it
    row = place.until(number, "finished")
    assert row.attempt == 2
    assert place.log(number) == "once\n"
    jobs.start(place.options.record(number), 1, [sys.executable, "-c", "print('late')"]).wait()
    assert place.log(number) == "once\n", "a late runner finds that its attempt is taken"


def test_two_runners_of_one_attempt_run_it_once(tmp_path):
    both = [jobs.start(tmp_path, 1, [sys.executable, "-c", "print('once')"]) for _ in range(2)]
    for process in both:
        process.wait()
    assert (tmp_path / "log.txt").read_text() == "once\n"


def test_a_job_cannot_read_where_the_database_is(place, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret@h/n")
    number = place.record("import os; print(os.environ.get('DATABASE_URL'))")
    place.until(number, "finished")
    assert place.log(number) == "None\n"


def test_runs_at_once_share_the_cores(tmp_path, monkeypatch):
    """Each gets its part of the threads, which the typed command names, or OMP_NUM_THREADS of the administrator."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    cases = [("", 1, 1, None), ("", 1, 2, None), ("", 3, 1, 2), ("", 2, 2, 2), ("", 20, 1, 1)]
    for given, at_once, processes, threads in [*cases, ("4", 1, 1, 4), ("4", 2, 1, 4), ("4,2", 2, 1, None)]:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        inside = Inside(tmp_path / f"{given}-{at_once}-{processes}", jobs=at_once, processes=processes)
        inside.user("ada").post("/ann/new", json={})
        with inside.database.begin() as db:
            record: Any = db.get(Record, 1)
            assert record.settings.get("threads") == threads
            assert environment(record) == ({"OMP_NUM_THREADS": str(threads)} if threads else {})
            assert typed(record, lambda _: None)[0].startswith(
                f"OMP_NUM_THREADS={threads} python " if threads else "python "
            )


def test_a_job_has_its_threads(place):
    number = place.record("import os; print(os.environ.get('OMP_NUM_THREADS'))")
    with place.database.begin() as db:
        record = db.get(Record, number)
        record.settings = record.settings | {"threads": 3}
    place.until(number, "finished")
    assert place.log(number) == "3\n"


def test_one_worker_at_a_time(place):
    with worker.alone(place.options):
        held = subprocess.run([sys.executable, "-c", (
            "import fcntl, sys\nf = open(sys.argv[1], 'w')\n"
            "try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept OSError: print('held')"),
            str(place.options.home / "worker.lock")], capture_output=True, text=True)  # fmt: skip
    assert held.stdout == "held\n"


REPORTS = """
import json, pathlib, time
pathlib.Path("run").mkdir()
names = ("epoch", "loss", "accuracy5", "test_loss", "train_accuracy", "train_accuracy5", "memory")
line = json.dumps(dict.fromkeys(names, 1) | {"stage": "relu", "accuracy": ACCURACY})
pathlib.Path("run/metrics.jsonl").write_text(line + chr(10))
time.sleep(600)
"""


@pytest.mark.parametrize(("accuracy", "best"), [("0.75", 0.75), ("'a'", None), ("[1]", None), ("{}", None)])
def test_the_best_so_far_is_known_while_a_job_runs(accuracy, best, place, monkeypatch):
    """A running job goes on, even if it has written a malformed line."""
    monkeypatch.setattr(worker, "READ_EVERY", 0)
    number = place.record(REPORTS.replace("ACCURACY", accuracy))
    deadline = time.monotonic() + PATIENCE
    while not place.worker.progress.get(number, (0, 0))[1] and time.monotonic() < deadline:
        place.worker.step()
    assert (place.row(number).state, place.row(number).best) == ("running", best)


@pytest.mark.long
def test_a_run_on_two_processes_ends_and_can_be_stopped(tmp_path):
    """The real command under torchrun, whose workers lead groups of their own."""
    inside = Inside(tmp_path / "platform", processes=2)
    options = inside.options
    ada = inside.user("ada")
    at_work = worker.Worker(options, inside.database)

    def until(number, *states):
        deadline = time.monotonic() + 90
        while (row := ada.get(f"/record/{number}").json()["record"])["state"] not in states:
            assert time.monotonic() < deadline, (row["state"], row["message"], row["detail"])
            at_work.step()
            time.sleep(0.1)
        return row

    number = ada.post("/ann/new", json={"epochs": 1}).json()["id"]
    assert until(number, "finished", "failed", "lost")["state"] == "finished"
    found = ada.get(f"/record/{number}").json()["record"]
    assert found["results"]["environment"]["processes"] == 2
    assert "--nproc-per-node=2 -m accelerated.run" in found["commands"][0]
    endless = ada.post("/ann/new", json={"epochs": 1000}).json()["id"]
    until(endless, "running")
    wait_for(lambda: outcomes.metrics(options.record(endless)), "it finished no epoch")
    leader = jobs.begun(options.record(endless), 1)
    assert leader is not None
    mine = jobs.members(leader)
    assert len(mine) >= 4, "runner, torchrun and two of its workers"
    ada.post(f"/record/{endless}/stop")
    until(endless, "stopped")
    assert all(gone(process.pid) for process in mine)
