"""Users take turns, a run knows its place, and the administrator can put one first."""

import json
import time
from types import SimpleNamespace

import pytest

from accelerated.platform import outcomes, turns, worker
from accelerated.platform.database import Record, User

from .test_jobs import Place, place  # noqa: F401


def waiting(*users, turn=None, first=()):
    """Records of the users named, in this order; `turn`: when each user was last at work."""
    people = {name: SimpleNamespace(turn=(turn or {}).get(name, 0)) for name in users}
    return [SimpleNamespace(id=i, user_id=name, user=people[name], priority=int(i in first))
            for i, name in enumerate(users)]  # fmt: skip


@pytest.mark.parametrize(("users", "busy", "turn", "expected"), [
    ("aaaaaab", {}, {}, "abaaaaa"),
    ("aaaaaab", {}, {"a": 5.0}, "baaaaaa"),
    ("aabbcc", {}, {"a": 3.0, "b": 1.0, "c": 2.0}, "bcabca"),
    ("aabb", {"a": 1}, {}, "baba"),
    ("abab", {"a": 2}, {"b": 9.0}, "bbaa"),
])  # fmt: skip
def test_users_take_turns(users, busy, turn, expected):
    found = turns.order(waiting(*users, turn=turn), busy)
    assert "".join(str(record.user_id) for record in found) == expected
    for user in set(users):
        own = [record.id for record in found if record.user_id == user]
        assert own == sorted(own), "one's own runs keep their order"


def test_what_is_put_first_comes_first():
    found = turns.order(waiting(*"aab", first=[1]), {})
    assert [record.id for record in found] == [1, 0, 2]


def test_six_runs_of_one_user_do_not_keep_another_waiting(place, monkeypatch):  # noqa: F811
    """One slot, and one run after another: the second user's first run is the second to begin."""
    monkeypatch.setattr(worker, "command", lambda *_: ["/bin/true"])
    numbers = [place.record(user=1) for _ in range(6)] + [place.record(user=2)]
    for number in numbers:
        place.until(number, "finished")
    with place.database.begin() as db:
        began = sorted(db.query(Record), key=lambda record: record.began)
        assert [record.user_id for record in began] == [1, 2, 1, 1, 1, 1, 1]


def test_a_waiting_run_says_how_many_come_before_it_and_how_long_that_takes(place):  # noqa: F811
    client = place.client_of("ada")
    settings = {"data": "digits", "model": "cnn"}
    first, second = (place.record(user=user, **settings) for user in (1, 2))
    mine = place.record(user=1, **settings)

    def turn(number):
        return client.get(f"/record/{number}").json()["record"]["turn"]

    assert turn(first) == {"before": 0, "seconds": 0}
    assert turn(mine) == {"before": 2, "seconds": None}, "no run ever ended here"
    with place.database.begin() as db:
        db.get(Record, second).state = "finished"
        db.get(Record, second).began, db.get(Record, second).ended = time.time() - 50, time.time() - 10
    assert turn(mine) == {"before": 1, "seconds": pytest.approx(40)}
    with place.database.begin() as db:
        db.get(Record, first).state = "running"
        db.get(Record, first).began = time.time() - 30
    assert turn(mine)["seconds"] == pytest.approx(10, abs=5), "what is left of the one that runs"
    run = place.options.record(first) / "run"
    run.mkdir(parents=True)
    line = dict.fromkeys(outcomes.METRIC, 1.0) | {"stage": "relu", "epoch": 1, "seconds": 7.0}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    with place.database.begin() as db:
        db.get(Record, first).settings = settings | {"epochs": [101, 0, 0], "until": "relu"}
    assert turn(mine)["seconds"] == pytest.approx(700), "its own epochs know better"
    assert turn(first) is None


def test_only_the_administrator_puts_a_run_first(place):  # noqa: F811
    settings = {"data": "digits", "model": "cnn"}
    numbers = [place.record(**settings) for _ in range(3)]
    assert place.client_of("ada").post(f"/record/{numbers[2]}/first").status_code == 404
    with place.database.begin() as db:
        db.get(User, 2).administrator = True
    boss = place.client_of("bob")
    assert boss.post(f"/record/{numbers[2]}/first").status_code == 202
    assert boss.get(f"/record/{numbers[2]}").json()["record"]["turn"]["before"] == 0
    boss.post(f"/record/{numbers[1]}/first")
    assert boss.get(f"/record/{numbers[1]}").json()["record"]["turn"]["before"] == 0, "the last one put first"
    with place.database.begin() as db:
        db.get(Record, numbers[0]).state = "finished"
    assert boss.post(f"/record/{numbers[0]}/first").status_code == 409
