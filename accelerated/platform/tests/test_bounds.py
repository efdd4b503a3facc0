"""Nobody takes more than his part: a class joins by one link, no room is locked out, memory and files are bounded."""

import socket
import threading
import time

import pytest
import torch

from accelerated.checks import InputError
from accelerated.platform import accounts, disk, records, serving
from accelerated.platform.database import Attempt, User
from accelerated.platform.options import PlatformOptions, checked

from .conftest import PASSWORD, Inside, free_port, wait_for
from .test_jobs import place  # noqa: F401
from .test_security import sent, weights

LAST = "fc.bias"  # of the small network, ten numbers


def joined(inside, link, name):
    return inside.client().post(link, json={"name": name, "password": PASSWORD, "again": PASSWORD}).status_code


def test_a_class_joins_by_one_link(inside):
    boss = inside.user("boss", administrator=True)
    answer = boss.post("/users/invite", json={"uses": 3}).json()
    assert answer["links"][0]["uses"] == 3
    assert joined(inside, answer["link"], "boss") == 422, "a name that is taken costs no account"
    assert [joined(inside, answer["link"], f"student-{i}") for i in range(4)] == [200, 200, 200, 404]
    assert boss.get("/users").json()["links"] == []
    assert boss.post("/users/invite", json={"uses": 0}).status_code == 422
    assert not any(user["administrator"] for user in boss.get("/users").json()["users"] if user["name"] != "boss")


def test_sixty_register_from_one_room(tmp_path):
    """Where registration is open; and the sixty-first attempt to log in is no more refused than the first."""
    inside = Inside(tmp_path / "open", registration=True)
    codes = [joined(inside, "/register", f"student-{i}") for i in range(3)]
    with inside.database.begin() as db:
        db.add_all([User(name=f"other-{i}", password="-") for i in range(57)])
    for i in range(60):  # each of the room is wrong once or twice
        with inside.database.begin() as db:
            accounts.attempted(db, f"other-{i}", "testclient")
            accounts.attempted(db, f"other-{i}", "testclient")
    assert codes == [200] * 3
    answer = inside.client().post("/login", json={"name": "student-0", "password": PASSWORD})
    assert answer.status_code == 200, answer.text


def test_accounts_from_one_address_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(accounts, "JOINING", 2)
    inside = Inside(tmp_path / "open", registration=True)
    assert [joined(inside, "/register", f"student-{i}") for i in range(3)] == [200, 200, 429]


def test_the_old_password_cannot_be_guessed_from_a_session(inside, ada):
    wrong = {"old": "wrong password", "password": "another good one", "again": "another good one"}
    codes = [ada.post("/account/password", json=wrong).status_code for _ in range(accounts.ATTEMPTS + 1)]
    assert codes == [422] * accounts.ATTEMPTS + [429]
    with inside.database.begin() as db:
        db.query(Attempt).delete()
    assert ada.post("/account/password", json=wrong | {"old": PASSWORD}).status_code == 200
    with inside.database.begin() as db:
        assert db.query(Attempt).count() == 0, "who knew it is not counted"


@pytest.mark.parametrize("password", ["password1", "12345678", "qwertyuiop", "changeme"])
def test_a_password_that_everybody_has_is_refused(inside, password):
    with inside.database.begin() as db, pytest.raises(accounts.Refused, match="among the first"):
        accounts.register(db, "eve", password)


@pytest.mark.parametrize(("name", "taken"), [
    ("\u0430da", True), ("ad\u0430", True), ("\uff41da", True), ("adá", False), ("eva", False), ("\u674e", False),
    ("\u0438\u0432\u0430\u043d", False),
])  # fmt: skip
def test_a_name_that_looks_like_another_is_taken(inside, ada, name, taken):
    with inside.database.begin() as db:
        if taken:
            with pytest.raises(accounts.Refused, match="taken"):
                accounts.register(db, name, PASSWORD)
        else:
            accounts.register(db, name, PASSWORD)


def test_an_upload_is_refused_before_it_is_read_where_it_does_not_fit(inside, ada, monkeypatch):
    monkeypatch.setattr(disk, "LEAST_FREE", 2**60)
    read = []
    monkeypatch.setattr("accelerated.platform.record_pages.answers_of", lambda request: read.append(request))
    answer = sent(ada, weights(None, None))
    assert answer.status_code == 507
    assert read == []


def test_a_user_may_have_a_quota_of_his_own(inside, ada):
    with inside.database.begin() as db:
        db.query(User).update({"quota": 0})
    assert sent(ada, weights(None, None)).status_code == 507
    with inside.database.begin() as db:
        db.query(User).update({"quota": 100})
    assert sent(ada, weights(None, None)).status_code == 201


def test_weights_that_are_no_numbers_are_refused_by_their_name(inside, ada):
    broken = torch.full((10,), torch.nan)
    answer = sent(ada, weights(None, None, **{LAST: broken}))
    assert answer.status_code == 422
    assert f"{LAST!r} holds values that are no numbers" in answer.json()["refused"]["detail"]


def test_a_network_that_cannot_fit_is_refused(inside, tmp_path):
    small = Inside(tmp_path / "small", memory=300).user("ada")
    large = {"model": "vit_base", "batch": 64, "size": 32}
    answer = small.post("/ann/new", json=large)
    assert answer.status_code == 422
    refused = answer.json()["refused"]
    assert (refused["field"], "a run may take 300 here" in refused["sentence"]) == ("batch", True)
    assert small.post("/ann/new", json={"model": "cnn"}).status_code == 201


def test_a_job_that_takes_too_much_memory_ends_by_that_reason(tmp_path, place):  # noqa: F811
    place.options = place.worker.options = type(place.options)(folder=place.options.folder, memory=200)
    number = place.record("x = bytearray(2**20 * 100); print('fits', flush=True); y = bytearray(2**20 * 200)")
    row = place.until(number, "failed", "finished")
    assert place.log(number).startswith("fits")
    assert row.state == "failed"
    assert row.message.startswith("The system ended it, most likely because memory ran out")


@pytest.fixture
def served(inside, monkeypatch):
    """The application behind its own server, in this process; its port."""
    monkeypatch.setattr(serving, "HEADERS", 1.0)
    options = type(inside.options)(folder=inside.options.folder, port=free_port())
    server = serving.server(options, inside.app)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, "the server did not start")
    yield options.port
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("head", [b"", b"GET /login HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "], ids=["silent", "slow"])
def test_a_request_that_does_not_come_is_not_waited_for(served, head):
    with socket.create_connection(("127.0.0.1", served)) as connection:
        connection.settimeout(20)
        began = time.monotonic()
        connection.sendall(head)
        assert connection.recv(100) == b"", "the server closed it"
        assert 0.5 < time.monotonic() - began < 10


def test_requests_one_after_another_are_answered_on_one_connection(served):
    with socket.create_connection(("127.0.0.1", served)) as connection:
        connection.settimeout(20)
        for _ in range(3):
            connection.sendall(b"GET /static/icon.svg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            answer = b""
            while b"</svg>" not in answer:
                answer += connection.recv(10000)
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(0.6)


def test_a_forwarded_address_counts_only_where_a_proxy_was_named(inside, monkeypatch):
    for allowed in ("", "127.0.0.1"):
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", allowed)
        assert serving.server(inside.options, inside.app).config.proxy_headers == bool(allowed)


SHOW = "import os, time; print('GPUs', os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True); time.sleep(600)"


@pytest.mark.parametrize(("gpus", "processes", "expected"), [
    (3, 1, ["0", "1", "2"]), (4, 2, ["0,1", "2,3"]), (0, 1, ["None"] * 4),
])  # fmt: skip
def test_every_job_has_gpus_of_its_own(place, monkeypatch, gpus, processes, expected):  # noqa: F811
    """As many at once as there are GPUs for; a worker that is started anew knows which are taken."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    kind = type(place.options)
    place.options = kind(folder=place.options.folder, jobs=4, jobs_per_user=4, gpus=gpus, processes=processes)
    place.restart()
    numbers = [place.record(SHOW) for _ in range(5)]
    for number in numbers[: len(expected)]:
        place.until(number, "running")
        place.restart()
    assert [place.words(number)[1] for number in numbers[: len(expected)]] == expected
    place.worker.step()
    assert place.row(numbers[len(expected)]).state == "queued"
    place.ask(records.stop, numbers[1])
    place.until(numbers[len(expected)], "running")
    assert place.words(numbers[len(expected)])[1] == expected[1], "the ones that became free"


def test_the_machines_gpus_are_counted(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: GPU-1)'\necho 'GPU 1: H100 (UUID: GPU-2)'\necho '  MIG 1g'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert checked_options(tmp_path).devices == 2
    assert checked_options(tmp_path, gpus=1).devices == 1
    with pytest.raises(InputError, match="needs as many GPUs, and there are 2"):
        checked_options(tmp_path, processes=4)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert checked_options(tmp_path).devices == 0


def checked_options(folder, **settings):
    return checked(PlatformOptions(folder=str(folder / "x"), **settings))
