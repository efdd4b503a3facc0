"""Full disks, damaged files, malformed answers, commits that fail."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from safetensors.torch import save
from sqlalchemy.exc import OperationalError

from accelerated.platform import __main__ as main
from accelerated.platform import accounts, disk, following, jobs, outcomes, runner, worker
from accelerated.platform.database import Record

from .conftest import PASSWORD, PATIENCE
from .test_jobs import gone, place  # noqa: F401 (a fixture)
from .test_security import sent, weights


def test_a_large_body_in_json_is_not_read_where_large_files_are(inside, ada):
    answer = ada.post(
        "/ann/upload", content=b'{"a": "' + b"x" * 2**21 + b'"}', headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


MALFORMED = [
    '{"name": "\\ud800", "lr": NaN}', "[" * 100_000, '{"name": ' + "[" * 900 + "]" * 900 + "}",
    '{"source": "' + "9" * 5000 + '"}', '{"lr": 1e999}', '{"name": "a\\u0000b"}', '{"epochs": {"a": 1}}',
    '{"name": null, "seed": true}', "null", "7",
]  # fmt: skip


@pytest.mark.parametrize("body", MALFORMED)
def test_malformed_answers_are_refused_without_a_crash(inside, ada, body):
    kind = {"content-type": "application/json"}
    for path in ("/ann/new", "/qann/new", "/test/new", "/account/password", "/users/invite"):
        assert ada.post(path, content=body, headers=kind).status_code < 500
    assert inside.anonymous.post("/login", content=body, headers=kind).status_code in (400, 401)


def test_malformed_addresses_and_headers_are_refused_too(inside, ada):
    for path in (
        "/compare?id=" + "9" * 5000,
        "/records/ann?before=" + "9" * 30,
        "/qann/new?source=" + "9" * 99,
        "/record/" + "9" * 20,
    ):
        assert ada.get(path).status_code in (200, 404)
    assert inside.anonymous.post("/login", json={}, headers={"origin": "http://["}).status_code == 403
    files = {"name": ("x", io.BytesIO(b"y"))}
    assert ada.post("/ann/new", files=files).status_code in (201, 422)


def test_a_threshold_has_a_limited_length(ada):
    assert (
        ada.post("/qann/new", json={"initial_threshold": "0" * 900 + "1"}).json()["refused"]["field"]
        == "initial_threshold"
    )


@pytest.mark.parametrize("metadata", ["5", "null", "true", "1.5", "[" * 20_000, '"x"', "[[]]"])
def test_a_wrong_header_is_refused(inside, ada, metadata):
    content = weights(inside, ada)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length]) | {"__metadata__": {"activations": metadata}}
    text = json.dumps(header).encode()
    answer = sent(ada, len(text).to_bytes(8, "little") + text + content[8 + length :])
    assert answer.status_code == 422
    assert answer.json()["refused"]["field"] == "file"


def test_what_does_not_exist_is_called_not_found(ada):
    pages = {
        path: ada.get(path, headers={"accept": "text/html"}) for path in ("/record/99", "/nothing", "/invitations/x")
    }
    titles = {path: page.text.split("<h1>")[1].split("</h1>")[0] for path, page in pages.items()}
    assert titles == {"/record/99": "Not found", "/nothing": "Not found", "/invitations/x": "Not possible"}


def test_a_header_without_end_and_complex_numbers_are_refused(inside, ada):
    import torch

    refused = sent(ada, (2**30).to_bytes(8, "little") + b"{}" * 9).json()["refused"]
    assert "save with" in refused["detail"]
    from accelerated.models import make

    state = make("cnn", (1, 8, 8), 10).state_dict()
    wrong = {name: value.contiguous().to(torch.complex64) for name, value in state.items()}
    assert "not real numbers" in sent(ada, save(wrong)).json()["refused"]["detail"]


def test_a_part_of_the_disk_stays_free(inside, ada, monkeypatch):
    monkeypatch.setattr(disk, "LEAST_FREE", 2**60)
    for answer in (ada.post("/ann/new", json={}), sent(ada, weights(inside, ada)), ada.post("/example")):
        assert answer.status_code == 507
        assert "disk is full" in answer.json()["refused"]["sentence"]
    assert list((inside.options.home / "records").iterdir()) == []


def test_nobody_takes_more_than_their_share(inside, ada):
    object.__setattr__(inside.options, "quota", 1)
    assert ada.post("/ann/new", json={}).status_code == 201
    folder = inside.options.record(1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "large").write_bytes(b"x" * 2**21)
    assert ada.post("/ann/new", json={}).status_code == 507
    assert inside.user("bob").post("/ann/new", json={}).status_code == 201


def test_on_a_full_disk_pages_say_so_and_the_reserve_file_is_deleted(inside, ada, monkeypatch):
    disk.make_reserve(inside.options)
    assert (inside.options.home / "reserve").stat().st_size == disk.RESERVE

    def full(*_):
        raise OperationalError("UPDATE", {}, sqlite3.OperationalError("database or disk is full"))

    with monkeypatch.context() as patch:
        patch.setattr("accelerated.platform.records.remove", full)
        ada.post("/ann/new", json={})
        answer = ada.post("/record/1/delete")
    assert answer.status_code == 507
    assert not (inside.options.home / "reserve").exists()
    assert ada.post("/record/1/delete").status_code == 202


def test_a_commit_that_fails_leaves_no_file_for_the_next_record_with_the_number(inside, ada, monkeypatch):
    dialect = inside.database.engine.dialect
    real = dialect.do_commit
    content = weights(inside, ada)
    failing = threading.Event()

    def fails(connection):
        if failing.is_set():
            failing.clear()
            raise sqlite3.OperationalError("database is locked")
        real(connection)

    monkeypatch.setattr(dialect, "do_commit", fails)

    def settings(*_):
        failing.set()
        return {"data": "digits", "model": "cnn", "until": "relu"}

    monkeypatch.setattr("accelerated.platform.record_pages.asking.upload", settings)
    assert sent(ada, content).status_code == 503
    assert list((inside.options.home / "records").iterdir()) == []
    left = inside.options.record(1)
    left.mkdir()
    (left / "upload.safetensors").write_text("another's")  # as after a server that was killed just before
    assert inside.user("bob").post("/ann/new", json={}).json()["id"] == 1
    assert not left.exists()


def test_an_attempt_is_taken_with_its_content_or_not_at_all(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        runner.take(tmp_path / "begun-1", "{}")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert runner.take(tmp_path / "begun-1", "{}")
    assert not runner.take(tmp_path / "begun-1", "other")
    assert [path.name for path in tmp_path.iterdir()] == ["begun-1"]


@pytest.mark.parametrize("requested", ["", "stop", "delete"])
def test_an_attempt_that_was_prevented_but_not_recorded_ends_or_begins_again(place, requested):  # noqa: F811
    number = place.record("print('x')")
    record = place.worker.claim()
    with place.database.begin() as db:
        db.get(Record, number).request = requested
    jobs.prevent(place.options.record(number), record.attempt)  # and there the worker died
    place.restart()
    assert jobs.members(place.leader(number)) == set()
    row = place.until(number, "finished", "stopped", "lost", "failed")
    if requested == "delete":
        assert row is None
    else:
        assert row.state == ("stopped" if requested else "finished")


def test_a_process_that_left_its_group_and_parent_is_found_by_its_mark(place):  # noqa: F811
    inner = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
    begins = f"p = subprocess.Popen([sys.executable, '-c', {inner!r}], stdout=subprocess.PIPE, text=True)"
    number = place.record(f"import subprocess, sys\n{begins}\nprint(p.stdout.readline())\n")
    place.until(number, "finished")
    assert gone(int(place.words(number)[0])), "it ended with its job"


def test_a_run_is_stopped_after_the_time_limit(place):  # noqa: F811
    import dataclasses

    place.worker.options = dataclasses.replace(place.options, hours=1e-4)
    row = place.until(place.record("import time; time.sleep(600)"), "stopped")
    assert row.message == outcomes.LATE


def test_stopping_a_run_that_has_just_finished_leaves_it_usable(place):  # noqa: F811
    number = place.record("")
    place.until(number, "running", "finished")
    place.ended(number)
    with place.database.begin() as db:
        db.get(Record, number).request = "stop"
        db.get(Record, number).state = "running"
    row = place.until(number, "finished")
    assert row.request == ""


def test_a_records_damaged_files_stop_neither_worker_nor_page(inside, ada, monkeypatch):
    monkeypatch.setattr(worker, "command", lambda *_: ["/bin/true"])
    for content in ("5", "{}", "[]", '{"rows": 5}', '{"rows": [], "accuracy": 1', "[" * 10_000, '"x"', "\0"):
        number = ada.post("/ann/new", json={}).json()["id"]
        at_work = worker.Worker(inside.options, inside.database)
        claimed = at_work.claim()
        assert claimed is not None
        at_work.start(claimed)
        run = inside.options.record(number) / "run"
        run.mkdir(parents=True)
        for name in ("results.json", "metrics.jsonl", "simulation.jsonl"):
            (run / name).write_text(
                content + "\n" + ("" if name == "results.json" else '{"loss": NaN, "stage": "relu"}')
            )
        (run.parent / "log.txt").write_bytes(b"last\0words")
        deadline = time.monotonic() + PATIENCE
        while not ada.get(f"/record/{number}").json()["record"]["ended"]:
            at_work.step()
            assert time.monotonic() < deadline
        for kind in ("application/json", "text/html"):
            assert ada.get(f"/record/{number}", headers={"accept": kind}).status_code == 200
        assert ada.get(f"/compare?id={number}").status_code == 200


def test_a_long_simulation_is_read_on_and_not_again(tmp_path):
    (tmp_path / "run").mkdir()
    line = {"schedule": "signed", "calibration": "none", "operators": "accumulated", "of": 9, "accuracy": {"1": 0.5}}
    simulation = following.Simulation(tmp_path)
    assert simulation.read() == []
    for images in (1, 2):
        with (tmp_path / "run" / "simulation.jsonl").open("a") as file:
            file.write(json.dumps(line | {"images": images}) + "\n")
        size = (tmp_path / "run" / "simulation.jsonl").stat().st_size
        before = simulation.offset
        assert simulation.read() == [line | {"images": images}]
        assert before < simulation.offset == size


def test_the_server_tries_again_where_the_worker_cannot_be_started(inside, monkeypatch, capsys):
    stopping = threading.Event()
    tries = []
    real = subprocess.Popen

    def fails_once(*given, **more):
        tries.append(given)
        if len(tries) == 1:
            raise OSError(12, "Cannot allocate memory")
        stopping.set()
        return real([sys.executable, "-c", ""])

    monkeypatch.setattr(stopping, "wait", lambda _: stopping.is_set())
    monkeypatch.setattr(main.subprocess, "Popen", fails_once)
    main.tend(inside.options, stopping)
    assert len(tries) == 2
    assert "Cannot allocate memory" in capsys.readouterr().err


def test_nobody_else_can_lock_a_user_out(inside, ada):
    for _ in range(accounts.ATTEMPTS + 1):
        with pytest.raises(accounts.Refused):
            accounts.log_in(inside.database, "ada", "wrong password", "203.0.113.7")
    assert accounts.log_in(inside.database, "ada", PASSWORD, "198.51.100.9").name == "ada"


def test_hashes_wait_for_their_turn(monkeypatch):
    monkeypatch.setattr(accounts, "PATIENCE", 0.05)
    with accounts.computing(), accounts.computing(), pytest.raises(accounts.Refused, match="Too many people"), \
            accounts.computing():  # fmt: skip
        pass


def test_a_forgotten_password_is_replaced_with_a_link_and_a_disabled_user_stays_out(inside, ada):
    boss = inside.user("boss", administrator=True)
    assert ada.post("/users/2/renew").status_code == 404
    assert boss.post("/users/2/shut-out").status_code == 409
    assert boss.post("/users/1/shut-out").status_code == 200
    assert ada.get("/").status_code == 401
    assert inside.anonymous.post("/login", json={"name": "ada", "password": PASSWORD}).status_code == 401
    link = boss.post("/users/1/renew").json()["link"]
    assert inside.anonymous.get(link).json()["whose"] == "ada"
    new = {"name": "eve", "password": "another good one", "again": "another good one"}
    assert ada.post(link, json=new).json()["name"] == "ada", "the link's user, whatever name is sent"
    assert ada.get("/").status_code == 200
    assert ada.post(link, json=new).status_code == 404, "once"


def test_after_its_source_was_deleted_the_command_says_what_is_missing(inside, ada):
    ada.post("/ann/new", json={})
    ada.post("/qann/new", json={"source": 1})
    assert "--start runs/record-1/weights.safetensors" in ada.get("/record/2").json()["record"]["commands"][-1]
    with inside.database.begin() as db:
        db.delete(db.get(Record, 1))
    assert "WAS-DELETED" in ada.get("/record/2").json()["record"]["commands"][-1]


def test_the_requested_record_is_offered_however_old(inside, ada):
    ada.post("/ann/new", json={})
    with inside.database.begin() as db:
        first = db.get(Record, 1)
        db.add_all(
            Record(user_id=1, kind="ann", name="x", settings=first.settings, state="finished") for _ in range(201)
        )
    assert 1 in [source["id"] for source in ada.get("/qann/new?source=1").json()["sources"]]
    assert 1 not in [source["id"] for source in ada.get("/qann/new").json()["sources"]]


def test_signals_that_end_the_runner_alone_end_its_job(place):  # noqa: F811
    number = place.record("import time; time.sleep(600)")
    place.until(number, "running")
    os.kill(place.leader(number)["pid"], signal.SIGKILL)
    assert place.until(number, "lost").ended
