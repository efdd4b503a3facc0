"""What a run had learnt when it ended is kept: it can be gone on with, tested, quantised and downloaded."""

# ruff: noqa: F811 (a fixture that is imported)

import json
import signal

import psutil
import pytest
import torch
from safetensors.torch import load

from accelerated.platform import jobs
from accelerated.platform.commands import CHECKPOINT, command
from accelerated.platform.database import Record
from accelerated.platform.worker import ATTEMPTS

from .conftest import wait
from .test_jobs import place  # noqa: F401

LEARN = """
import pathlib, sys, time
pathlib.Path("run").mkdir(exist_ok=True)
pathlib.Path("run/config.json").write_text("{}")
pathlib.Path("run/resume.pt").write_text("epoch 1")
print("learning", flush=True)
time.sleep(600)
"""


def learning(place):
    """(number, leader) of a job that has learnt something and goes on."""
    number = place.record(LEARN, data="digits")
    place.until(number, "running")
    assert place.words(number) == ["learning"]
    return number, place.leader(number)


def stopped(place):
    number, _ = learning(place)
    place.ask(lambda db, record: setattr(record, "request", "stop"), number)
    place.until(number, "stopped")
    return number


def test_a_run_that_was_stopped_goes_on_where_it_was(place):
    number = stopped(place)
    run = place.options.record(number) / "run"
    assert "--resume" in command(place.row(number), place.options)
    place.programs[number] = "print(open('run/resume.pt').read())"
    client = place.client_of("ada")
    assert client.post(f"/record/{number}/resume").status_code == 202
    row = place.until(number, "finished")
    assert place.log(number) == "learning\nepoch 1\n"
    assert (row.attempt, row.request, row.message) == (2, "", "")
    assert not (run / "resume.pt").exists()
    assert client.post(f"/record/{number}/resume").status_code == 409, "a finished run cannot go on"


def test_a_run_that_was_late_or_whose_job_died_keeps_what_it_learnt(place):
    number, leader = learning(place)
    jobs.send([psutil.Process(leader["pid"])], signal.SIGKILL)
    assert place.until(number, "failed", "lost").state == "lost"
    assert (place.options.record(number) / "run" / "resume.pt").read_text() == "epoch 1"


def test_one_that_learnt_nothing_begins_again_and_its_files_stay(place):
    number = place.record("import pathlib; pathlib.Path('run').mkdir(); pathlib.Path('run/x').write_text('x'); 1 / 0")
    place.until(number, "failed")
    place.programs[number] = "print('again')"
    place.client_of("ada").post(f"/record/{number}/resume")
    place.until(number, "finished")
    (left,) = (place.options.home / "leftovers").iterdir()
    assert (left / "x").read_text() == "x"


@pytest.mark.parametrize("wish", ["go on", "wait", "too often"])
def test_after_a_restart_of_the_machine_a_run_goes_on_if_its_user_wishes(place, wish):
    number, leader = learning(place)
    with place.database.begin() as db:
        record = db.get(Record, number)
        record.settings = record.settings | ({"after_restart": "wait"} if wish == "wait" else {})
    attempt = ATTEMPTS if wish == "too often" else 1
    (place.options.record(number) / f"begun-{attempt}").write_text(json.dumps(leader | {"boot": "before this one"}))
    place.ask(lambda db, record: setattr(record, "attempt", attempt), number)
    place.restart()
    place.programs[number] = "print('went on')"
    row = place.until(number, "finished", "lost")
    assert row.state == ("finished" if wish == "go on" else "lost")
    assert ("went on" in place.log(number)) == (wish == "go on")
    assert jobs.alive(leader), "a process of another time was taken for the job"
    jobs.end(leader, wait=0)


def test_only_its_owner_lets_a_run_go_on(place):
    number = stopped(place)
    assert place.client_of("bob").post(f"/record/{number}/resume").status_code == 404
    assert place.row(number).state == "stopped"


def test_a_run_that_was_deleted_or_waits_does_not_go_on(place):
    number = stopped(place)
    place.client_of("ada").post(f"/record/{number}/delete")
    assert place.client_of("ada").post(f"/record/{number}/resume").status_code in (404, 409)
    waiting = place.record(LEARN)
    assert place.client_of("ada").post(f"/record/{waiting}/resume").status_code == 409


def test_what_a_stopped_run_has_learnt_is_quantised_tested_and_downloaded(started):
    """On the real thing: stopped in the middle, tested as it was, quantised from there, then gone on with."""
    client = started.administrator() if started.link else started.client()
    settings = {"name": "early", "epochs": 30, "width": 0.5}
    number = client.post("/ann/new", json=settings).json()["id"]
    wait(client, number, lambda record: len(record["epochs"]) >= 2)
    client.post(f"/record/{number}/stop")
    record = wait(client, number, lambda record: record["ended"])
    assert record["state"] == "stopped"
    epoch = record["kept"]["epoch"]
    assert 2 <= epoch < 30
    weights = load(client.get(f"/record/{number}/files/checkpoint.safetensors").content)
    test = client.post("/test/new", json={"name": "as it was", "source": number, "network": "ann"}).json()["id"]
    quantised = {"name": "from there", "source": number, "epochs1": 1, "epochs2": 0, "activation": "s-qcfs"}
    quantised = client.post("/qann/new", json=quantised).json()["id"]
    found = wait(client, test, lambda record: record["ended"])
    assert found["state"] == "finished", found
    assert found["best"] == record["kept"]["accuracy"]
    assert CHECKPOINT in found["files"]
    assert found["commands"][0].count("--start record-") == 1
    assert len(found["commands"]) == 1
    assert wait(client, quantised, lambda record: record["ended"])["state"] == "finished"
    own = load(client.get(f"/record/{test}/files/{CHECKPOINT}").content)
    assert own.keys() == weights.keys()
    assert all(torch.equal(own[name], weights[name]) for name in own)
    client.post(f"/record/{number}/resume")
    record = wait(client, number, lambda record: record["ended"])
    assert (record["state"], [line["epoch"] for line in record["epochs"]]) == ("finished", [*range(1, 31)])
    assert record["kept"] is None
    assert json.dumps(record["commands"]).count("--start") == 0


def test_a_record_that_learnt_nothing_is_refused_by_that_reason(inside, ada):
    number = ada.post("/ann/new", json={"name": "first"}).json()["id"]
    ada.post(f"/record/{number}/stop")
    answer = ada.post("/test/new", json={"source": number, "network": "ann"})
    assert answer.status_code == 422
    assert answer.json()["refused"]["sentence"] == "That record learnt nothing before it ended: choose another."
    folder = inside.options.record(number) / "run"
    folder.mkdir(parents=True)
    (folder / "resume.pt").write_bytes(b"none")
    answer = ada.post("/test/new", json={"source": number, "network": "ann"})
    assert answer.status_code == 422
    assert answer.json()["refused"]["sentence"] == "What this record had learnt cannot be read."
    assert not list(inside.options.home.glob("*.part"))


DONE = """
import json, os, pathlib, signal
run = pathlib.Path("run")
run.mkdir()
names = ("rows", "accuracy", "test_images", "seconds", "environment", "config")
(run / "results.json").write_text(json.dumps(dict.fromkeys(names, 0) | {"rows": [], "accuracy": {"relu": 0.5}}))
(run / "weights.safetensors").write_text("learnt")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_was_killed_after_its_results_is_finished(place):
    row = place.until(place.record(DONE), "finished", "failed", "lost")
    assert (row.state, row.best) == ("finished", 0.5)
    row = place.until(place.record(DONE.replace("weights", "other")), "finished", "failed", "lost")
    assert row.state == "failed", "without its weights it is not"
