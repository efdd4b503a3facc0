"""Requests of other origins and other users, and uploads of other files, are refused."""

import io
import pickle

import pytest
import torch
from safetensors.torch import save
from sqlalchemy import select

from accelerated.platform import accounts
from accelerated.platform.database import Record, User
from accelerated.platform.security import MIB

from .conftest import PASSWORD, Inside

OPEN = {
    "/login",
    "/register",
    "/invitations/{secret}",
    "/logout",
    "/static",
    "/language/{name}",
    "/health",
}  # without logging in
EVIL = ["<script>alert(1)</script>", "'; DROP TABLE users; --", "\"><img src=x onerror=alert(1)>", "{{ 7 * 7 }}",
        "../../etc/passwd", "<\x00script>", "name\r\nSet-Cookie: a=b", "‮evil", "a" * 100_000]  # fmt: skip


def routes(inside):
    """(method, address) of every route, its numbers those of the first record and user."""
    for route in _flat(inside.app.routes):
        for method in getattr(route, "methods", None) or ():
            yield method, route.path


def _flat(found):
    for route in found:
        inner = getattr(route, "original_router", None) or getattr(route, "routes", None)
        if inner is not None and not hasattr(route, "endpoint"):
            yield from _flat(getattr(inner, "routes", inner))
        else:
            yield route


def filled(path):
    return path.format(number=1, kind="ann", secret="x", name="log.txt", path="style.css", digest="x")


def test_the_walk_sees_the_routes(inside):
    seen = set(routes(inside))
    assert {("POST", "/record/{number}/delete"), ("GET", "/record/{number}/news"), ("POST", "/example")} <= seen
    assert len(seen) > 25


def test_every_route_needs_a_log_in(inside):
    for method, path in routes(inside):
        if path not in OPEN:
            assert inside.anonymous.request(method, filled(path)).status_code == 401, (method, path)


def test_another_users_record_is_not_found(inside, ada):
    """Every route with a number answers as for a record that does not exist; the administrator sees it."""
    assert ada.post("/ann/new", json={}).status_code == 201
    inside.options.record(1).mkdir(parents=True)
    (inside.options.record(1) / "log.txt").write_text("secret")
    bob = inside.user("bob")
    boss = inside.user("boss", administrator=True)
    walked = 0
    for method, path in routes(inside):
        if path.startswith("/record/"):
            walked += 1
            theirs, none = (bob.request(method, filled(path).replace("/1", f"/{n}")) for n in (1, 99))
            assert (theirs.status_code, theirs.content) == (none.status_code, none.content)
            assert theirs.status_code == 404, (method, path)
    assert walked >= 5
    for page in ("/records/ann", "/", "/qann/new", "/test/new", "/compare"):
        assert "secret" not in bob.get(page).text
        assert '"id":1' not in bob.get(page).text.replace(" ", "")
    assert bob.post("/qann/new", json={"source": 1}).json()["refused"]["field"] == "source"
    assert bob.get("/compare?id=1").status_code == 404
    assert boss.get("/record/1").status_code == 200
    assert boss.get("/record/1/files/log.txt").text == "secret"


def test_only_the_administrator_sees_users(inside, ada):
    for method, path in (
        ("GET", "/users"),
        ("POST", "/users/invite"),
        ("POST", "/users/links/x/withdraw"),
        ("POST", "/users/1/log-out"),
    ):
        assert ada.request(method, path).status_code == 404


@pytest.mark.parametrize("headers", [
    {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "https://evil.example"},
    {"origin": "null"}, {"origin": "http://127.0.0.1:8001"},
    {"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1"},
])  # fmt: skip
def test_a_page_of_another_origin_cannot_post(inside, ada, headers):
    for method, path in routes(inside):
        if method == "POST":
            assert ada.post(filled(path), headers=headers).status_code == 403, path
    with inside.database.begin() as db:
        assert db.scalar(select(Record)) is None
    assert ada.get("/").status_code == 200, "and nobody was logged out"


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "same-origin"}, {"origin": "http://127.0.0.1"}, {}])
def test_our_own_pages_and_programs_can_post(ada, headers):
    assert ada.post("/ann/new", json={}, headers=headers).status_code == 201


def test_no_other_name_of_the_server_is_answered(ada):
    assert (
        ada.get("/", headers={"host": "evil.example"}).status_code == 400
    )  # a foreign name that resolves to 127.0.0.1


def test_answers_restrict_what_browsers_may_do(inside, ada):
    for answer in (ada.get("/"), inside.anonymous.get("/login"), ada.get("/record/99")):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    cookie = inside.anonymous.post("/login", json={"name": "ada", "password": PASSWORD}).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


@pytest.mark.parametrize("name", ["../isospike.db", "..%2f..%2fisospike.db", "/etc/passwd", "run/results.json",
                                  "begun-1", "....//isospike.db", "log.txt%00", "%2e%2e/%2e%2e/isospike"])  # fmt: skip
def test_no_path_leads_out_of_a_records_files(inside, ada, name):
    ada.post("/ann/new", json={})
    inside.options.record(1).mkdir(parents=True)
    (inside.options.record(1) / "begun-1").write_text("{}")
    answer = ada.get(f"/record/1/files/{name}")
    assert answer.status_code == 404
    assert b"SQLite" not in answer.content
    assert ada.get(f"/static/{name}").status_code in (404, 405)


@pytest.mark.parametrize("text", EVIL)
def test_text_stays_text(inside, ada, text):
    """In every field of every form: refused or kept, shown as text, and the tables stand."""
    html = {"accept": "text/html"}
    for form, names in (("/ann/new", ("name", "data", "model", "optimiser", "lr", "epochs", "seed")),
                        ("/qann/new", ("name", "source", "activation", "initial_threshold", "levels")),
                        ("/test/new", ("name", "source", "schedule", "steps", "calibration"))):  # fmt: skip
        for name in names:
            answer = ada.post(form, data={name: text}, headers=html)
            assert answer.status_code == 422, (form, name)
            assert "<script>alert" not in answer.text
            assert "<img src=x" not in answer.text
            assert "49" not in answer.text or "{{" not in text
    for client, path, field in ((inside.anonymous, "/login", "name"), (ada, "/account/password", "old")):
        answer = client.post(path, data={field: text, "password": text}, headers=html)
        assert answer.status_code in (401, 422, 429)
        assert "<script>alert" not in answer.text
    text = text[:1000]  # of an address
    assert ada.get("/compare", params={"id": text}).status_code == 200
    assert ada.get("/qann/new", params={"source": text}, headers=html).text.count("<script>alert") == 0
    with inside.database.begin() as db:
        assert db.scalar(select(User)).name == "ada"


def weights(inside, ada, **changes):
    """The bytes of a file of weights that fits the small CNN on digits, changed."""
    from accelerated.models import make

    state = {name: value.contiguous() for name, value in make("cnn", (1, 8, 8), 10).state_dict().items()}
    return save(state | changes)


def sent(client, content, name="weights.safetensors", **fields):
    return client.post("/ann/upload", data={"data": "digits", "model": "cnn"} | fields, files={"file": (name, content)})


def test_a_file_of_weights_is_taken(inside, ada):
    answer = sent(ada, weights(inside, ada))
    assert answer.status_code == 201, answer.text
    assert (inside.options.record(1) / "upload.safetensors").stat().st_size > 1000
    assert not list(inside.options.home.glob("*.part"))


@pytest.mark.parametrize("protocol", [2, 4, 5, "zip"])
def test_a_pickle_is_refused_with_the_reason(inside, ada, protocol):
    held = io.BytesIO()
    if protocol == "zip":
        torch.save({"a": torch.zeros(2)}, held)
    else:
        pickle.dump({"a": [1]}, held, protocol=protocol)
    refused = sent(ada, held.getvalue()).json()["refused"]
    assert refused["field"] == "file"
    assert "pickle" in refused["detail"]
    assert "can run any program" in refused["detail"]


@pytest.mark.parametrize(("content", "fields", "reason"), [
    (None, {"model": "mlp"}, "it lacks"), (None, {"width": "0.5"}, "has shape"), (None, {"model": "vgg16"}, "it lacks"),
    (b"", {}, "not a readable safetensors file"), (b"\xff" * 64, {}, "not a readable safetensors file"),
    (b"\x10" + b"\0" * 7 + b'{"a": "broken"}', {}, "not a readable safetensors file"),
])  # fmt: skip
def test_a_file_of_another_network_or_of_nothing_is_refused(inside, ada, content, fields, reason):
    answer = sent(ada, weights(inside, ada) if content is None else content, **fields)
    assert answer.status_code == 422
    assert reason in answer.json()["refused"]["detail"]
    assert str(inside.options.home) not in answer.text, "the folder is not disclosed"
    with inside.database.begin() as db:
        assert db.scalar(select(Record)) is None
    assert not list(inside.options.home.glob("*.part"))
    assert not list((inside.options.home / "records").iterdir())


def test_weights_that_the_network_does_not_have_are_refused(inside, ada):
    answer = sent(ada, weights(inside, ada, extra=torch.zeros(1)))
    assert "'extra'" in answer.json()["refused"]["detail"]


def test_two_gigabytes_are_refused_before_they_are_read(tmp_path):
    inside = Inside(tmp_path / "p", upload_limit=1)
    ada = inside.user("ada")
    read = 0

    def endless():
        nonlocal read
        while read < 2**31:
            read += MIB
            yield b"\0" * MIB

    stated = ada.post("/ann/upload", content=b"x", headers={"content-length": str(2**31), "content-type": "x/y"})
    assert stated.status_code == 413
    kind = {"content-type": "multipart/form-data; boundary=b"}
    unstated = ada.post("/ann/upload", content=endless(), headers=kind)
    assert unstated.status_code == 413
    assert ada.post("/ann/new", content=b"x" * (MIB + 1)).status_code == 413
    assert not list(inside.options.home.glob("*.part"))


def test_a_body_of_an_unknown_user_is_not_read(inside):
    """Without a log-in, a request is refused before its body is parsed."""
    answer = sent(inside.anonymous, b"\0" * MIB)
    assert answer.status_code == 401


def test_a_password_that_argon2_would_take_long_for_is_cut(inside, ada):
    answer = inside.anonymous.post("/login", json={"name": "ada", "password": "p" * 900_000})
    assert answer.status_code == 401
    assert accounts.MOST == 200
