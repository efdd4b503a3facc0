"""A finished network is taken away in every form, and runs elsewhere; its page shows it live and whole."""

import io
import shutil
import subprocess
import sys
import zipfile

import pytest

import accelerated as acc
from accelerated.platform import taking

from .browser import log_in, needed
from .conftest import wait

FORMS = {"folder": "config.json", "c": "network.c", "onnx": "network.onnx", "nir": "circuit.nir"}


@pytest.fixture(scope="module")
def number(started):
    """A finished test of a small network."""
    client = started.administrator()
    client.post("/ann/new", json={"name": "small", "model": "mlp", "epochs": 3, "width": 0.25})
    client.post("/qann/new", json={"name": "small", "source": 1, "levels": 4, "epochs1": 2, "epochs2": 1})
    made = client.post("/test/new", json={"name": "small", "source": 2, "steps": 4}).json()["id"]
    assert wait(client, made, lambda record: record["ended"])["state"] == "finished"
    started.client_of_boss = client
    return made


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", FORMS)
def test_every_form_holds_what_it_says(started, number, kind, tmp_path):
    answer = started.client_of_boss.get(f"/record/{number}/take/{kind}")
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert f"record-{number}-{kind}/{FORMS[kind]}" in archive.namelist()
        archive.extractall(tmp_path)
    if kind == "folder":
        lines = taking.LOAD.format(folder=f"record-{number}-folder")
        done = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("tensor(0."), "an accuracy"
        network = acc.load(tmp_path / f"record-{number}-folder")
        assert acc.simulate(acc.convert(network, "halving"), network.images).units_that_differ == 0


def test_only_a_finished_test_of_ones_own_is_taken(started, number, inside, ada):
    client = started.client_of_boss
    assert client.get(f"/record/{number}/take/exe").status_code == 404
    assert client.get("/record/1/take/c").status_code == 404
    assert started.client().get(f"/record/{number}/take/c", follow_redirects=False).status_code == 401


def test_a_form_that_cannot_be_is_one_sentence_and_leaves_nothing(tmp_path):
    (tmp_path / "record" / "run").mkdir(parents=True)
    with pytest.raises(taking.Refused) as refused:
        taking.archive(tmp_path, tmp_path / "record", "c", "x")
    assert "holds no" in refused.value.detail
    assert [path.name for path in tmp_path.rglob("*")] == ["record", "run"]


def test_a_record_that_is_deleted_meanwhile_is_not_brought_back(tmp_path, monkeypatch):
    monkeypatch.setattr(taking, "_write", lambda *_: shutil.rmtree(tmp_path / "record"))
    (tmp_path / "record" / "run").mkdir(parents=True)
    with pytest.raises(taking.NotHere):
        taking.archive(tmp_path, tmp_path / "record", "c", "x")
    assert list(tmp_path.iterdir()) == []


@needed
def test_curves_grow_and_ten_pages_at_once_all_follow(started, number, chromium):
    """One browser's few connections to a server are enough for all its pages."""
    client = started.client_of_boss
    running = client.post("/ann/new", json={"name": "watched", "epochs": 300}).json()["id"]
    wait(client, running, lambda record: record["epochs"])
    context = chromium.new_context(locale="en-GB")
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    log_in(page, started.base, "boss")
    pages = [context.new_page() for _ in range(10)]
    for one in pages:
        one.on("pageerror", lambda error: faults.append(str(error)))
        one.goto(f"{started.base}/record/{running}")
    for one in pages:
        one.bring_to_front()
        one.wait_for_function("() => document.querySelectorAll('#curves canvas').length === 2")
        one.wait_for_function("() => document.getElementById('lines').textContent.includes('epoch 2 of 300')")
        one.wait_for_function("() => /About .* left/.test(document.getElementById('now').textContent)")
    client.post(f"/record/{running}/stop")
    pages[-1].wait_for_function("() => document.querySelector('[data-state]').classList.contains('stopped')")
    pages[-1].wait_for_function("() => document.querySelectorAll('#curves canvas').length === 2")
    assert pages[-1].get_by_role("button", name="Go on").is_visible()
    context.close()
    assert faults == []
