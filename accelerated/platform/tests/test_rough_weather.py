"""What a hostile or unlucky world does: full disks, damaged files, odd answers, commits that fail."""

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


ODD = [
    '{"name": "\\ud800", "lr": NaN}', "[" * 100_000, '{"name": ' + "[" * 900 + "]" * 900 + "}",
    '{"source": "' + "9" * 5000 + '"}', '{"lr": 1e999}', '{"name": "a\\u0000b"}', '{"epochs": {"a": 1}}',
    '{"name": null, "seed": true}', "null", "7",
]  # fmt: skip


@pytest.mark.parametrize("body", ODD)
def test_odd_answers_are_refused_and_not_stumbled_over(inside, ada, body):
    kind = {"content-type": "application/json"}
    for path in ("/ann/new", "/qann/new", "/test/new", "/account/password", "/users/invite"):
        assert ada.post(path, content=body, headers=kind).status_code < 500
    assert inside.anonymous.post("/login", content=body, headers=kind).status_code in (400, 401)


def test_odd_addresses_and_headers_too(inside, ada):
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


def test_a_threshold_has_so_many_letters(ada):
    assert (
        ada.post("/qann/new", json={"initial_threshold": "0" * 900 + "1"}).json()["refused"]["field"]
        == "initial_threshold"
    )


@pytest.mark.parametrize("told", ["5", "null", "true", "1.5", "[" * 20_000, '"x"', "[[]]"])
def test_a_header_that_lies_is_refused(inside, ada, told):
    content = weights(inside, ada)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length]) | {"__metadata__": {"activations": told}}
    text = json.dumps(header).encode()
    answer = sent(ada, len(text).to_bytes(8, "little") + text + content[8 + length :])
    assert answer.status_code == 422
    assert answer.json()["refused"]["field"] == "file"


def test_what_is_not_there_is_not_called_impossible(ada):
    pages = {
        path: ada.get(path, headers={"accept": "text/html"}) for path in ("/record/99", "/nothing", "/invitations/x")
    }
    titles = {path: page.text.split("<h1>")[1].split("</h1>")[0] for path, page in pages.items()}
    assert titles == {"/record/99": "Not found", "/nothing": "Not found", "/invitations/x": "Not possible"}


def test_a_header_without_end_and_numbers_that_are_none_are_refused(inside, ada):
    import torch

    refused = sent(ada, (2**30).to_bytes(8, "little") + b"{}" * 9).json()["refused"]
    assert "save with" in refused["detail"]
    from accelerated.models import make

    state = make("cnn", (1, 8, 8), 10).state_dict()
    odd = {name: value.contiguous().to(torch.complex64) for name, value in state.items()}
    assert "no real number" in sent(ada, save(odd)).json()["refused"]["detail"]


def test_the_disk_keeps_a_reserve(inside, ada, monkeypatch):
    monkeypatch.setattr(disk, "RESERVE", 2**60)
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


def test_on_a_full_disk_pages_say_so_and_the_ballast_goes_overboard(inside, ada, monkeypatch):
    disk.ballast(inside.options)
    assert (inside.options.home / "ballast").stat().st_size == disk.BALLAST

    def full(*_):
        raise OperationalError("UPDATE", {}, sqlite3.OperationalError("database or disk is full"))

    with monkeypatch.context() as patch:
        patch.setattr("accelerated.platform.records.remove", full)
        ada.post("/ann/new", json={})
        answer = ada.post("/record/1/delete")
    assert answer.status_code == 507
    assert not (inside.options.home / "ballast").exists()
    assert ada.post("/record/1/delete").status_code == 202


def test_a_commit_that_fails_leaves_no_file_for_the_next_who_gets_the_number(inside, ada, monkeypatch):
    engine, real = inside.database.engine, inside.database.engine.dialect.do_commit
    content, failing = weights(inside, ada), threading.Event()

    def fails(connection):
        if failing.is_set():
            failing.clear()
            raise sqlite3.OperationalError("database is locked")
        real(connection)

    monkeypatch.setattr(engine.dialect, "do_commit", fails)

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


@pytest.mark.parametrize("wish", ["", "stop", "delete"])
def test_what_was_forestalled_and_not_written_down_ends_or_begins_again(place, wish):  # noqa: F811
    number = place.record("print('x')")
    record = place.worker.claim()
    with place.database.begin() as db:
        db.get(Record, number).wish = wish
    jobs.forestall(place.options.record(number), record.attempt)  # and there the worker died
    place.restart()
    assert jobs.members(jobs.begun(place.options.record(number), 1)) == set()
    row = place.until(number, "finished", "stopped", "lost", "failed")
    assert row is None if wish == "delete" else row.state == ("stopped" if wish else "finished")


def test_what_left_the_group_and_its_parent_is_found_by_its_mark(place):  # noqa: F811
    inner = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
    begins = f"p = subprocess.Popen([sys.executable, '-c', {inner!r}], stdout=subprocess.PIPE, text=True)"
    number = place.record(f"import subprocess, sys\n{begins}\nprint(p.stdout.readline())\n")
    place.until(number, "finished")
    assert gone(int(place.words(number)[0])), "it ended with its job"


def test_a_run_may_take_so_long(place):  # noqa: F811
    import dataclasses

    place.worker.options = dataclasses.replace(place.options, hours=1e-4)
    row = place.until(place.record("import time; time.sleep(600)"), "stopped")
    assert row.message == outcomes.LATE


def test_stopping_what_has_just_finished_leaves_it_usable(place):  # noqa: F811
    number = place.record("")
    place.until(number, "running", "finished")
    place.ended(number)
    with place.database.begin() as db:
        db.get(Record, number).wish = "stop"
        db.get(Record, number).state = "running"
    row = place.until(number, "finished")
    assert row.wish == ""


def test_a_records_damaged_files_stop_neither_worker_nor_page(inside, ada, monkeypatch):
    monkeypatch.setattr(worker, "command", lambda *_: ["/bin/true"])
    for content in ("5", "{}", "[]", '{"rows": 5}', '{"rows": [], "accuracy": 1', "[" * 10_000, '"x"', "\0"):
        number = ada.post("/ann/new", json={}).json()["id"]
        at_work = worker.Worker(inside.options, inside.database)
        at_work.start(at_work.claim())
        run = inside.options.record(number) / "run"
        run.mkdir(parents=True)
        for name in ("results.json", "metrics.jsonl", "simulation.jsonl"):
            (run / name).write_text(content + "\n" + '{"loss": NaN, "stage": "relu"}' * (name != "results.json"))
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
        size, before = (tmp_path / "run" / "simulation.jsonl").stat().st_size, simulation.offset
        assert simulation.read() == [line | {"images": images}]
        assert before < simulation.offset == size


def test_the_server_tries_again_where_the_worker_cannot_be_started(inside, monkeypatch, capsys):
    stopping, tries, real = threading.Event(), [], subprocess.Popen

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


def test_who_forgot_a_password_gets_a_link_and_who_is_shut_out_stays_out(inside, ada):
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


def test_the_record_that_is_asked_for_is_offered_however_old(inside, ada):
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
    os.kill(jobs.begun(place.options.record(number), 1)["pid"], signal.SIGKILL)
    assert place.until(number, "lost").ended
