"""First start, invitations, log in and out, passwords, sessions, attempts."""

import time

import pytest

from accelerated.platform import accounts
from accelerated.platform.database import Attempt, Invitation, Session, User

from .conftest import PASSWORD, Inside

JOIN = {"name": "Ada", "password": PASSWORD, "again": PASSWORD}


def first_link(inside):
    with inside.database.begin() as db:
        return accounts.first_invitation(db)


def test_the_first_link_makes_the_administrator_once(inside):
    secret = first_link(inside)
    client = inside.client()
    assert client.get(f"/invitations/{secret}").json()["administrator"]
    assert client.post(f"/invitations/{secret}", json=JOIN).status_code == 200
    assert client.get("/users").json()["users"][0] | {"created": 0} == {
        "id": 1, "name": "ada", "administrator": True, "created": 0, "open": True, "leaving": False, "records": 0,
        "used": 0, "quota": inside.options.quota}  # fmt: skip
    assert inside.client().post(f"/invitations/{secret}", json=JOIN | {"name": "eve"}).status_code == 404
    assert first_link(inside) is None, "there is an administrator already"


def test_a_new_first_link_ends_the_one_before(inside):
    old = first_link(inside)
    new = first_link(inside)
    assert inside.anonymous.get(f"/invitations/{old}").status_code == 404
    assert inside.anonymous.get(f"/invitations/{new}").status_code == 200


def test_an_invitation_makes_one_ordinary_user_and_expires(inside):
    boss = inside.user("boss", administrator=True)
    link = boss.post("/users/invite").json()["link"]
    other = boss.post("/users/invite").json()["link"]
    assert inside.client().post(link, json=JOIN).status_code == 200
    with inside.database.begin() as db:
        assert not db.query(User).filter_by(name="ada").one().administrator
        db.query(Invitation).update({"expires": time.time() - 1})
    assert inside.client().post(other, json=JOIN | {"name": "bob"}).status_code == 404


def test_two_who_use_one_link_at_once_make_one_account(inside):
    with inside.database.begin() as db:
        secret = accounts.invite(db)
    with inside.database.begin() as db:
        accounts.accept(db, secret, "one", PASSWORD)
    with pytest.raises(accounts.Refused), inside.database.begin() as db:
        accounts.accept(db, secret, "two", PASSWORD)
    with inside.database.begin() as db:
        assert [user.name for user in db.query(User)] == ["one"]


def test_anyone_may_register_only_where_registration_is_open(inside, tmp_path):
    assert inside.anonymous.post("/register", json=JOIN).status_code == 404
    open_to_all = Inside(tmp_path / "open", registration=True)
    client = open_to_all.client()
    assert client.post("/register", json=JOIN).status_code == 200
    assert client.get("/").status_code == 200
    assert "/register" in open_to_all.anonymous.get("/login", headers={"accept": "text/html"}).text


@pytest.mark.parametrize(("change", "field"), [
    ({"password": "short", "again": "short"}, "password"), ({"again": "another"}, "again"),
    ({"name": ""}, "name"), ({"name": "a b"}, "name"), ({"name": "x" * 65}, "name"),
    ({"name": "longername", "password": "LongerName", "again": "LongerName"}, "password"),
])  # fmt: skip
def test_an_invalid_name_or_password_is_refused_by_its_field(inside, change, field):
    answer = inside.anonymous.post(f"/invitations/{first_link(inside)}", json=JOIN | change)
    assert answer.status_code == 422
    assert answer.json()["refused"]["field"] == field


def test_a_name_is_taken_in_any_case(inside, ada):
    answer = inside.anonymous.post(f"/invitations/{first_link(inside)}", json=JOIN | {"name": "ADA"})
    assert answer.json()["refused"]["sentence"] == "This name is taken."


def test_a_wrong_name_and_a_wrong_password_look_the_same_and_take_as_long(inside, ada):
    answers = []
    lasted = []
    for name in ("ada", "nobody"):
        began = time.perf_counter()
        answers.append(inside.anonymous.post("/login", json={"name": name, "password": "wrong password"}))
        lasted.append(time.perf_counter() - began)
    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].json()["refused"] == answers[1].json()["refused"]
    assert 0.2 < lasted[0] / lasted[1] < 5  # both verify one Argon2 hash, tens of milliseconds


def test_attempts_are_limited_and_come_back(inside, ada):
    wrong = {"name": "ada", "password": "wrong password"}
    right = {"name": "ada", "password": PASSWORD}
    codes = [inside.anonymous.post("/login", json=wrong).status_code for _ in range(accounts.ATTEMPTS + 1)]
    assert codes == [401] * accounts.ATTEMPTS + [429]
    assert inside.anonymous.post("/login", json=right).status_code == 429, "the right one does not help either"
    with inside.database.begin() as db:
        db.query(Attempt).update({"at": time.time() - accounts.WINDOW - 1})
    assert inside.anonymous.post("/login", json=right).status_code == 200


def test_one_address_cannot_try_many_names(inside, monkeypatch):
    monkeypatch.setattr(accounts, "ATTEMPTS_FROM_ONE", 3)
    codes = [inside.anonymous.post("/login", json={"name": f"n{i}", "password": "x"}).status_code for i in range(4)]
    assert codes == [401, 401, 401, 429]


def test_after_log_out_the_cookie_is_invalid(inside, ada):
    secret = ada.cookies["isospike"]
    assert ada.get("/").status_code == 200
    assert ada.post("/logout").status_code == 200
    stolen = inside.client()
    stolen.cookies.set("isospike", secret)
    assert stolen.get("/").status_code == 401
    assert stolen.get("/", headers={"accept": "text/html"}).headers["location"] == "/login"


def test_a_session_ends_by_itself(inside, ada):
    with inside.database.begin() as db:
        db.query(Session).update({"created": time.time() - accounts.SESSION - 1})
    assert ada.get("/").status_code == 401


def test_the_database_holds_only_hashes_of_cookies_and_passwords(inside, ada):
    with inside.database.begin() as db:
        user = db.query(User).one()
        session = db.query(Session).one()
    assert user.password.startswith("$argon2id$")
    assert session.id != ada.cookies["isospike"]


def test_a_new_password_ends_all_other_sessions(inside, ada):
    second = inside.client()
    second.post("/login", json={"name": "ada", "password": PASSWORD})
    new = "another good password"
    wrong = ada.post("/account/password", json={"old": "no", "password": new, "again": new})
    assert wrong.json()["refused"]["field"] == "old"
    assert ada.post("/account/password", json={"old": PASSWORD, "password": new, "again": new}).status_code == 200
    assert (ada.get("/").status_code, second.get("/").status_code) == (200, 401)
    assert second.post("/login", json={"name": "ada", "password": PASSWORD}).status_code == 401
    assert second.post("/login", json={"name": "ada", "password": new}).status_code == 200
    assert len(ada.get("/account").json()["sessions"]) == 2
    ada.post("/account/sessions/end")
    assert second.get("/").status_code == 401


def test_one_session_can_be_ended_by_its_user_alone(inside, ada):
    second = inside.client()
    bob = inside.user("bob")
    second.post("/login", json={"name": "ada", "password": PASSWORD})
    (other,) = [s["id"] for s in ada.get("/account").json()["sessions"] if not s["this"]]
    assert bob.post(f"/account/sessions/{other}/end").status_code == 404
    assert second.get("/").status_code == 200
    assert ada.post(f"/account/sessions/{other}/end").status_code == 200
    assert (ada.get("/").status_code, second.get("/").status_code) == (200, 401)
    assert ada.post(f"/account/sessions/{other}/end").status_code == 404, "there is none any more"


def test_a_link_can_be_withdrawn(inside, ada):
    boss = inside.user("boss", administrator=True)
    invited, renewed = (boss.post(f"/users/{what}").json()["link"] for what in ("invite", "1/renew"))
    links = {link["whose"]: link["id"] for link in boss.get("/users").json()["links"]}
    assert set(links) == {"", "ada"}
    assert all(digest not in invited + renewed for digest in links.values()), "the identifiers shown are not secrets"
    assert ada.post(f"/users/links/{links['']}/withdraw").status_code == 404, "nobody else can"
    assert boss.post(f"/users/links/{links['']}/withdraw").status_code == 200
    assert inside.anonymous.get(invited).status_code == 404
    assert inside.anonymous.get(renewed).status_code == 200
    assert [link["whose"] for link in boss.get("/users").json()["links"]] == ["ada"]


def test_the_administrator_can_end_a_users_sessions(inside, ada):
    boss = inside.user("boss", administrator=True)
    assert ada.post("/users/2/log-out").status_code == 404, "nobody else can"
    assert boss.post("/users/1/log-out").status_code == 200
    assert ada.get("/").status_code == 401


@pytest.mark.parametrize("back", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_after_log_in_nobody_is_sent_elsewhere(inside, ada, back):
    answer = inside.anonymous.post("/login", data={"name": "ada", "password": PASSWORD, "back": back},
                                   headers={"accept": "text/html"})  # fmt: skip
    assert answer.headers["location"] == "/"
