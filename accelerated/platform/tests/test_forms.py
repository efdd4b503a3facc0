"""The initial values of forms, and the settings that answers lead to."""

import pytest

from accelerated.platform.database import Record


def settings(inside, number):
    with inside.database.begin() as db:
        return db.get(Record, number).settings


@pytest.mark.parametrize(("answers", "optimiser", "rate"), [
    ({}, "sgd", 0.1), ({"model": "vit_tiny"}, "adamw", 0.001), ({"model": "vit_tiny", "optimiser": "sgd"}, "sgd", 0.1),
    ({"optimiser": "adamw", "lr": "0.02"}, "adamw", 0.02),
])  # fmt: skip
def test_the_usual_optimiser_and_rate_go_by_the_network(inside, ada, answers, optimiser, rate):
    for kind in ("ann", "qann"):
        number = ada.post(f"/{kind}/new", json=answers).json()["id"]
        assert (settings(inside, number)["optimiser"], settings(inside, number)["lr"]) == (optimiser, rate)


@pytest.mark.parametrize(("kind", "answers", "sentence"), [
    ("ann", {"epoch": 3}, "There is no field epoch here."),
    ("ann", {"epochs": "1.5"}, "1.5 is not a whole number from 0 to 1000."),
    ("ann", {"lr": "0,1"}, "0,1 is not a number from 0.0001 to 10."),
    ("ann", {"batch": "4000"}, "4000 is not a whole number from 1 to 1437."),
    ("ann", {"name": "a/b"}, "a/b contains characters other than letters, digits, spaces and . _ -"),
    ("ann", {"model": "alexnet"}, "alexnet is not one of the choices."),
    *(("qann", {"initial_threshold": text}, f"{text} is neither a positive number nor max.")
      for text in ("foo", "-1", "0", "inf", "nan")),
])  # fmt: skip
def test_a_wrong_answer_is_named_with_the_valid_ones(ada, kind, answers, sentence):
    """Programs get the refusal and nothing else."""
    answer = ada.post(f"/{kind}/new", json=answers)
    assert answer.status_code == 422
    assert list(answer.json()) == ["refused"]
    assert answer.json()["refused"]["sentence"] == sentence


def test_a_form_starts_from_the_latest_record_that_fits(ada):
    assert ada.get("/qann/new").json()["answers"] == {"source": ""}
    for kind, name in (("ann", "first"), ("ann", "my second net"), ("qann", "third")):
        assert ada.post(f"/{kind}/new", json={"name": name}).status_code == 201
    assert ada.get("/qann/new").json()["answers"] == {"source": "2", "name": "my second net"}
    assert ada.get("/qann/new?source=1").json()["answers"] == {"source": "1", "name": "first"}
    assert ada.get("/test/new").json()["answers"] == {"source": "3", "name": "third"}


def test_records_that_are_being_deleted_are_not_listed(ada):
    for _ in range(2):
        ada.post("/ann/new", json={})
    ada.post("/record/1/delete")
    assert [record["id"] for record in ada.get("/records/ann").json()["records"]] == [2]
    assert [record["id"] for record in ada.get("/").json()["latest"]] == [2]


def test_the_sources_that_a_record_waits_for_are_shown(ada):
    assert ada.post("/example").json()["id"] == 3
    first = ada.get("/record/3").json()["record"]["first"]
    assert [(record["id"], record["state"]) for record in first] == [(1, "queued"), (2, "queued")]


@pytest.mark.parametrize(("kind", "answers"), [
    ("ann", {}), ("ann", {"model": "vit_tiny", "lr": "0.02", "epochs": "3", "width": "0.5", "size": "32", "seed": "7"}),
    ("qann", {"source": "1", "levels": "4", "activation": "s-qcfs", "epochs1": "2"}),
    ("qann", {"source": "scratch", "model": "mlp", "initial_threshold": "2", "epochs2": "1"}),
    ("test", {"source": "2"}), ("test", {"source": "1", "network": "ann", "test_images": "20"}),
    ("test", {"source": "2", "steps": "6", "schedule": "streaming", "calibration": "cos", "pre_steps": "2"}),
])  # fmt: skip
def test_settings_can_be_used_again(inside, ada, kind, answers):
    """The form is filled so that starting it gives the same run."""
    for first in ("ann", "qann"):
        ada.post(f"/{first}/new", json={})
    number = ada.post(f"/{kind}/new", json={"name": "my own"} | answers).json()["id"]
    ada.post(f"/record/{number}/stop")
    assert f"/{kind}/new?again={number}" in ada.get(f"/record/{number}", headers={"accept": "text/html"}).text
    filled = ada.get(f"/{kind}/new?again={number}").json()["answers"]
    assert filled["name"] == "my own"
    made = ada.post(f"/{kind}/new", json=filled).json()["id"]
    assert made != number
    assert settings(inside, made) == settings(inside, number)
    with inside.database.begin() as db:
        assert db.get(Record, made).source_id == db.get(Record, number).source_id


def test_settings_of_other_users_are_not_shown(inside, ada):
    bob = inside.user("bob")
    ada.post("/ann/new", json={})
    assert ada.get("/ann/new?again=1").status_code == 200
    for address in ("/qann/new?again=1", "/ann/new?again=2", "/ann/new?again=x"):
        assert ada.get(address).status_code == 404, address
    assert bob.get("/ann/new?again=1").status_code == 404
