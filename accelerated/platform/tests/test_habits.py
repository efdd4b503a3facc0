"""Lists that find what one looks for, tags, languages, and what the administrator does with users."""

import csv
import io
import re

import pytest
from sqlalchemy import select

from accelerated.platform import figures
from accelerated.platform.database import Record, User

from .test_jobs import place  # noqa: F401


def made(client, **answers):
    return client.post("/ann/new", json=answers).json()["id"]


def found(client, **query):
    answer = client.get("/records/ann", params=query)
    assert answer.status_code == 200
    return [record["id"] for record in answer.json()["records"]]


def test_lists_find_by_words_state_and_order(inside, ada):
    first = made(ada, name="Beta run", model="cnn")
    second = made(ada, name="alpha", model="mlp")
    third = made(ada, name="gamma", model="cnn")
    ada.post(f"/record/{second}/stop")
    ada.post(f"/record/{first}/tags", json={"tags": " course  week-3 course "})
    assert ada.get(f"/record/{first}").json()["record"]["tags"] == "course week-3"
    ada.post(f"/record/{third}/tags", json={"tags": "100%"})
    assert found(ada) == [third, second, first]
    assert found(ada, q="cnn") == [third, first]
    assert found(ada, q="BETA cnn") == [first]
    assert found(ada, q="week-3") == [first]
    assert found(ada, q="100%") == [third]
    assert found(ada, q="%") == [third], "no pattern, a letter"
    assert found(ada, q="nothing") == []
    assert found(ada, state="stopped") == [second]
    assert found(ada, sort="name") == [second, first, third]
    with inside.database.begin() as db:
        for number, best in ((first, 0.5), (third, 0.9)):
            db.get(Record, number).best = best
    assert found(ada, sort="best") == [third, first, second], "without a result comes last"
    assert found(inside.user("bob")) == []
    assert found(inside.user("boss", administrator=True), q="ada") == [third, second, first]
    assert ada.post(f"/record/{first}/tags", json={"tags": "x" * 201}).status_code == 422
    assert inside.session("bob").post(f"/record/{first}/tags", json={"tags": "mine"}).status_code == 404


def test_more_than_fifty_come_in_parts(inside, ada):
    number = made(ada)
    with inside.database.begin() as db:
        one = db.get(Record, number)
        kept = {"user_id": one.user_id, "kind": "ann", "name": "x", "settings": one.settings, "state": "stopped"}
        db.add_all([Record(**kept) for _ in range(60)])
    first = ada.get("/records/ann", params={"q": "x"}).json()
    assert (len(first["records"]), first["more"]) == (50, 50)
    rest = ada.get("/records/ann", params={"q": "x", "skip": 50}).json()
    assert (len(rest["records"]), rest["more"]) == (10, None)


@pytest.mark.parametrize(("browser", "chosen", "words"), [
    ("en", "zh", "记录"), ("zh-CN", "en", "Records"), ("zh", "xx", "记录"),
])  # fmt: skip
def test_the_language_can_be_chosen(inside, ada, browser, chosen, words):
    headers = {"accept": "text/html", "accept-language": browser, "referer": "http://127.0.0.1/records/ann?q=1"}
    answer = ada.post(f"/language/{chosen}", headers=headers)
    if chosen == "xx":
        assert answer.status_code == 404
    else:
        assert answer.headers["location"] == "/records/ann"
    assert f"<h1>{words}</h1>" in ada.get("/records/ann", headers=headers).text
    assert ada.post("/language/en", headers=headers | {"referer": "http://evil.example//x.example"}).headers[
        "location"] == "/", "to no other site"  # fmt: skip


def test_the_administrator_sees_and_sets_what_users_take(inside, ada):
    boss = inside.user("boss", administrator=True)
    number = made(ada)
    folder = inside.options.record(number)
    folder.mkdir()
    (folder / "weights").write_bytes(b"x" * 3 * 2**20)
    user = boss.get("/users").json()["users"][0]
    assert (user["name"], user["records"], user["used"], user["quota"]) == ("ada", 1, 3, inside.options.quota)
    assert boss.post("/users/1/quota", json={"quota": 2}).status_code == 200
    assert ada.post("/ann/new", json={}).status_code == 507
    assert boss.post("/users/1/quota", json={"quota": -1}).status_code == 422
    assert ada.post("/users/1/quota", json={"quota": 10000}).status_code == 404


def test_a_second_administrator_and_never_none(inside, ada):
    boss = inside.user("boss", administrator=True)
    assert boss.post("/users/1/administrator").status_code == 200
    assert ada.get("/users").status_code == 200
    assert ada.post("/users/2/administrator").status_code == 200
    assert boss.get("/users").status_code == 404
    assert ada.post("/users/1/administrator").status_code == 409, "oneself cannot step down"
    assert ada.post("/users/1/delete").status_code == 409


def test_a_spreadsheet_gets_names_and_no_formulas(inside):
    boss = inside.user("boss", administrator=True)
    inside.user("@sum")
    rows = list(csv.DictReader(io.StringIO(boss.get("/users.csv").text)))
    assert [row["name"] for row in rows] == ["boss", "'@sum"]
    assert inside.session("@sum").get("/users.csv").status_code == 404


def test_a_user_is_deleted_with_what_is_theirs(place):  # noqa: F811
    """A job of theirs is ended first; others' records stay."""
    running = place.record("import time; time.sleep(600)")
    waiting, other = place.record("print(1)"), place.record("print(2)", user=2)
    place.until(running, "running")
    with place.database.begin() as db:
        db.get(User, 2).administrator = True
    assert place.client_of("bob").post("/users/1/delete").status_code == 202
    shown = place.client_of("bob").get("/users").json()["users"]
    assert [(user["name"], user["leaving"]) for user in shown] == [("ada", True), ("bob", False)]
    place.until(other, "finished")
    assert place.until(running, "stopped") is None
    assert place.until(waiting, "stopped") is None
    place.worker.step()
    with place.database.begin() as db:
        assert [user.name for user in db.scalars(select(User))] == ["bob"]
        assert [record.id for record in db.scalars(select(Record))] == [other]
    assert not place.options.record(running).exists()


def test_the_axis_zooms_to_where_results_differ():
    """It begins just below the best accuracy of the worst way; points below are cut off, and never above."""
    lines = {"a": [(1, 0.13), (8, 0.997)], "b": [(6, 0.2), (48, 0.93)]}
    whole, zoomed = (figures.accuracy(lines, None, ("T", "%"), "x", zoom) for zoom in (False, True))
    ticks = [re.findall(r'text-anchor="end">([^<]*)<', drawn) for drawn in (whole, zoomed)]
    assert ticks == [["0", "25", "50", "75", "100"], ["90", "92.5", "95", "97.5", "100"]]
    assert zoomed.count("<circle") == 4
