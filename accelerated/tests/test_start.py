"""Runs that start from another run's weights or end early, and the messages of a run in progress."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from accelerated import run
from accelerated.runs import experiment, journal

SMALL = ["--levels", "4", "--width", "0.25", "--schedules", "signed", "--times", "4", "--test-batch", "100"]


def call(*arguments):
    return run.main([*map(str, arguments)])


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The three steps one by one: a ReLU network, the quantised one that begins with it, its simulation."""
    out = tmp_path_factory.mktemp("chain")
    steps = {
        "ann": ["--epochs", 2, 0, 0, "--until", "relu"],
        "qann": ["--start", out / "ann/weights.safetensors", "--epochs", 0, 1, 1, "--until", "training"],
        "test": ["--start", out / "qann/weights.safetensors", "--epochs", 0, 0, 0],
    }
    for name, arguments in steps.items():
        assert call(*SMALL, "--out", out, "--name", name, *arguments) == 0
    return out


def results(out, name):
    return json.loads((out / name / "results.json").read_text())


def weights(out, name):
    return load_file(out / name / "weights.safetensors")


def test_a_step_begins_with_what_the_one_before_has_learnt(chain):
    learnt = results(chain, "ann")["accuracy"]
    assert set(learnt) == {"relu"}
    assert results(chain, "qann")["accuracy"]["relu"] == learnt["relu"] > 0.5
    assert all(torch.equal(value, weights(chain, "qann")[name]) for name, value in weights(chain, "test").items())
    assert not any(name.endswith("parameter") for name in weights(chain, "ann"))
    row = results(chain, "test")["rows"][-1]
    assert row["logits_equal"]
    assert row["images_equal"] == row["images_agreeing"] == 360
    assert min(row["nonzero_share"].values()) > 0.05, "dead layers are equal for free"
    assert row["accuracy"] == results(chain, "qann")["accuracy"]["stage 2"]


def test_images_that_agree_are_counted_each(chain):
    rows = results(chain, "test")["rows"]
    early = next(row for row in rows if row["T"] == 4)
    assert early["images_equal"] < early["images_agreeing"] < 360, "unsettled: some images agree, few are equal"


def test_what_ends_early_has_no_simulation(chain):
    for name in ("ann", "qann"):
        assert results(chain, name)["rows"] == []
        assert not (chain / name / "report.md").exists()


def test_there_is_no_report_of_what_was_not_simulated(chain, capsys):
    assert call("report", chain / "ann") == 2
    assert "ended before the simulation" in capsys.readouterr().err


def test_a_layer_wise_network_may_be_expanded(tmp_path):
    layerwise = [*SMALL, "--out", tmp_path, "--start", tmp_path / "s/weights.safetensors", "--activation", "cs-qcfs"]
    assert call(*SMALL, "--out", tmp_path, "--name", "s", "--activation", "s-qcfs", "--epochs", 1, 1, 0,
                "--until", "training") == 0  # fmt: skip
    assert call(*layerwise, "--name", "expanded", "--epochs", 0, 0, 1, "--until", "training") == 0
    counts = [value.numel() for name, value in weights(tmp_path, "expanded").items() if name.endswith("parameter")]
    assert max(counts) > 1


@pytest.mark.parametrize(("arguments", "said"), [
    (["--epochs", 1, 0, 0], "holds a network of stage 2: begin --epochs with 0 0"),
    (["--epochs", 0, 0, 0, "--until", "relu"], "holds a quantised network: choose until training or simulation"),
    (["--epochs", 0, 0, 0, "--levels", 8], "has L = 4, softplus, the network L = 8, softplus"),
    (["--epochs", 0, 0, 0, "--activation", "c-qcfs"], "softplus"),
    (["--epochs", 0, 0, 0, "--width", 0.5], "has shape"),
    (["--epochs", 0, 0, 0, "--model", "mlp"], "does not fit the network"),
    (["--epochs", 0, 0, 0, "--until", "soon"], "soon"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_refused_before_anything_is_learnt(chain, tmp_path, capsys, arguments, said):
    start = ["--start", chain / "qann/weights.safetensors", "--out", tmp_path / "runs", "--name", "x"]
    assert call(*SMALL, *start, *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert error.startswith("error: ")
    assert said in error
    assert not (tmp_path / "runs" / "x").exists(), "nothing half-written"


@pytest.mark.parametrize("content", [b"", b"\x80\x04no pickle", b"\xff" * 100])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, capsys, content):
    (tmp_path / "w").write_bytes(content)
    assert call(*SMALL, "--start", tmp_path / "w", "--out", tmp_path / "runs") == 2
    assert "is not a readable safetensors file" in capsys.readouterr().err


def test_weights_of_others_carry_no_note_and_are_a_network_of_relus(chain, tmp_path):
    save_file(weights(chain, "ann"), tmp_path / "w.safetensors")
    arguments = ["--start", tmp_path / "w.safetensors", "--epochs", 0, 0, 0, "--until", "relu"]
    assert call(*SMALL, "--out", tmp_path, "--name", "x", *arguments) == 0
    assert results(tmp_path, "x")["accuracy"] == results(chain, "ann")["accuracy"]


def test_every_epoch_and_every_batch_is_said(chain, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(journal, "EVERY", 0.0)  # otherwise only long epochs report progress
    assert call(*SMALL, "--out", tmp_path, "--name", "x", "--epochs", 1, 1, 0) == 0
    said = capsys.readouterr().err
    for words in ("relu: epoch 1 of 1, step 3 of 23, loss ", " s left in this epoch", "relu: epoch 1 of 1, lr 0.1, ",
                  "Acc@5", "memory", "signed: 100 of 360 images; accuracy at T = 4: ", "360 of 360"):  # fmt: skip
        assert words in said
    lines = [json.loads(line) for line in (tmp_path / "x/simulation.jsonl").read_text().splitlines()]
    assert [(line["images"], line["of"]) for line in lines] == [(100, 360), (200, 360), (300, 360), (360, 360)]
    row = next(row for row in results(tmp_path, "x")["rows"] if row["T"] == 4)
    assert lines[-1]["accuracy"]["4"] == row["accuracy"]
    metric = json.loads((tmp_path / "x/metrics.jsonl").read_text().splitlines()[0])
    assert 0 < metric["train_accuracy"] <= metric["train_accuracy5"] <= 1
    assert 0 < metric["accuracy"] <= metric["accuracy5"] <= 1
    assert metric["test_loss"] > 0
    assert metric["memory"] > 100


def test_a_library_call_ends_early_too(tmp_path):
    config = experiment.Config(epochs=(1, 0, 0), width=0.25, until="relu", out=str(tmp_path), name="x")
    folder, found, quantised, image = experiment.run(config)
    assert (quantised, image, found["rows"]) == (None, None, [])
    assert (folder / "weights.safetensors").exists()
