"""The recipe's parts: accumulation, precision, decay, order, resuming with dropout, early read-out, a locked folder."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import accelerated as acc
from accelerated import data as datasets
from accelerated import run
from accelerated.anytime import read_out_early
from accelerated.checks import InputError
from accelerated.models import make
from accelerated.runs import distributed, evaluation, experiment, folders, learning, saved, stages
from accelerated.runs.config import Config
from accelerated.runs.validation import checked

TINY = ["--times", "1", "--levels", "4", "--width", "0.25", "--model", "mlp", "--schedules", "streaming"]


def call(*arguments):
    return run.main([*map(str, arguments)])


def epoch(parts, precision="float32"):
    """Weights after one epoch on the same images, with each batch in several parts."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), acc.QCFS((8,), 4, "softplus", 1.0), nn.Linear(8, 3))
    sgd = learning.optimiser(network, 0.1)
    x, y = torch.rand(48, 4, 4), torch.arange(48) % 3
    batches = zip(x.split(16), y.split(16), strict=True)
    loss = learning.train_epoch(network, sgd, batches, lambda p: 0.1, [16] * 3, precision, parts)
    return torch.cat([p.detach().flatten() for p in network.parameters()]), loss


def test_accumulation_changes_nothing_but_rounding():
    (whole, loss), (parts, other) = epoch(1), epoch(4)
    assert torch.allclose(whole, parts, rtol=0, atol=1e-6)  # three steps on sums of 16 in another order
    assert loss == pytest.approx(other, abs=1e-6)
    assert not torch.equal(whole, epoch(1, "bfloat16")[0]), "the precision reaches the forward pass"


def test_thresholds_biases_and_norms_decay_only_on_request():
    network = nn.Sequential(nn.Linear(4, 4), acc.QCFS((4,), 4, "raw", 1.0), nn.BatchNorm1d(4))
    for asked, count in (("weights", 1), ("all", len(list(network.parameters())))):
        groups = learning.optimiser(network, 0.1, decay=asked).param_groups
        assert [len(group["params"]) for group in groups] == [count, 5 - count]
    with pytest.raises(InputError, match="unknown decay 'thresholds': choose from weights, all"):
        learning.optimiser(network, 0.1, decay="thresholds")


def test_every_image_once_in_an_order_that_is_drawn():
    rows = learning.order(100, 32, torch.Generator().manual_seed(0))
    assert [len(step) for step in rows] == [32, 32, 32, 4]
    assert sorted(torch.cat(rows).tolist()) == list(range(100))
    assert [len(step) for step in learning.order(97, 32, torch.Generator())] == [32] * 3, "batch norm needs two"


def test_resuming_is_exact_with_dropout_too(tmp_path, monkeypatch, interrupted):
    """VGG-16 with dropout: interrupted during an evaluation and resumed, it has the same bits as undisturbed."""
    build = stages.make

    def with_dropout(*what):
        network = build(*what)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
        return network

    monkeypatch.setattr(stages, "make", with_dropout)
    network = ["--model", "vgg16", "--width", 0.02, "--size", 32, "--levels", 4, "--initial-threshold", 2]
    short = ["--epochs", 0, 2, 1, "--times", 1, "--schedules", "streaming", "--test-images", 8, "--out", tmp_path]
    arguments = [*network, *short]
    assert call(*arguments, "--name", "whole") == 0
    with interrupted(3):
        assert call(*arguments, "--name", "cut") == 130
    torch.rand(7)  # whatever happens between
    assert call(*arguments, "--name", "cut", "--resume") == 0
    cut, whole = (load_file(tmp_path / name / "weights.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(cut[name], value) for name, value in whole.items())


def test_a_stage_goes_on_without_the_run_before_it_and_says_what_that_was(tmp_path, interrupted):
    """What it began with is in its own state, and in its results by digest."""
    arguments = [*TINY, "--out", tmp_path, "--test-images", 8]
    first = [*arguments, "--epochs", 0, 1, 0, "--activation", "s-qcfs", "--name", "first"]
    second = [*arguments, "--start", "first", "--epochs", 0, 0, 2]
    assert call(*first) == call(*second, "--name", "whole") == 0
    with interrupted(3):
        assert call(*second, "--name", "cut") == 130
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    assert call(*second, "--name", "cut", "--resume") == 0
    cut, whole = (load_file(tmp_path / name / "weights.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(cut[name], value) for name, value in whole.items())
    origins = [json.loads((tmp_path / name / "results.json").read_text())["start"] for name in ("cut", "whole")]
    digest = hashlib.sha256((tmp_path / "elsewhere" / "weights.safetensors").read_bytes()).hexdigest()
    assert origins == [{"stage": 1, "sha256": digest}] * 2
    own = replace(saved.config_of(tmp_path / "cut"), out=str(tmp_path), name="cut")
    assert folders.finished(own), "what is gone cannot differ"
    assert call(*first, "--seed", 1) == 0
    with pytest.raises(InputError, match="cut went on from other weights than are in"):
        folders.finished(own)


def test_a_folder_that_another_process_has_locked_stays(tmp_path, monkeypatch, capsys):
    """It locked the new folder first: what is in there is its own."""

    def taken(folder):
        (folder / "metrics.jsonl").write_text("theirs")
        raise InputError(f"another run is at work in {folder}: wait for it, or choose another --name")

    monkeypatch.setattr(experiment, "lock", taken)
    assert call(*TINY, "--out", tmp_path, "--name", "x") == 2
    assert "another run is at work" in capsys.readouterr().err
    assert (tmp_path / "x" / "metrics.jsonl").read_text() == "theirs"


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_shares_of_the_test_images_add_up_to_all_of_them(processes, monkeypatch):
    """A network with batch norm, the same weights in every process: images and right answers are those of one."""
    torch.manual_seed(0)
    config, data = checked(Config(device="cpu")), datasets.load("digits")
    network = make("cnn", data.shape, data.classes, 0.25)
    learning.tested(network.train(), evaluation.shown(config, data, "test"))
    whole, seen, right = learning.tested(network, evaluation.shown(config, data, "test")).top1, 0, 0
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world", lambda: processes)
        images = sum(len(y) for _, y in evaluation.shown(config, data, "test"))
        seen, right = (
            seen + images,
            right + images * learning.tested(network, evaluation.shown(config, data, "test")).top1,
        )
    assert seen == 360
    assert right == pytest.approx(whole * 360, abs=1e-6)  # whole numbers


def test_reading_out_early():
    """Margins of 0.46, 0.76: the first sample is sure at step 2, the second never."""
    logits = torch.tensor([[[1.0, 0.0], [0.0, 0.1]], [[2.0, 0.0], [0.2, 0.1]], [[0.0, 9.0], [0.3, 0.1]]])
    answer, step = read_out_early(logits, 0.7)
    assert answer.tolist() == [0, 0]
    assert step.tolist() == [2, 3]
    assert read_out_early(logits, 0.4)[1].tolist() == [1, 3]


def test_early_read_out_in_a_run(tmp_path):
    assert (
        call(*TINY, "--epochs", 3, 2, 1, "--times", 16, "--margins", 0.5, 0.999, "--out", tmp_path, "--name", "x") == 0
    )
    plain, sooner, later = json.loads((tmp_path / "x" / "results.json").read_text())["rows"]
    assert 1 <= sooner["latency"] < later["latency"] <= plain["latency"] == 16
    assert later["accuracy"] == pytest.approx(plain["accuracy"], abs=0.05)  # 18 of 360: a lead of 0.999 may still turn


def test_two_runs_in_one_folder_are_refused(tmp_path, capsys):
    config = checked(Config(model="mlp", name="x", augment="none", out=str(tmp_path)))
    folder, _ = folders.open_folder(config)
    torch.save({}, folder / "resume.pt")
    held = folders.lock(folder)
    (folder / "resume.pt").unlink()
    assert call("--model", "mlp", "--name", "x", "--out", tmp_path, "--resume") == 2
    assert f"another run is at work in {folder}" in capsys.readouterr().err
    assert (folder / "config.json").exists(), "the other run's folder is left alone"
    held.close()
    folders.lock(folder).close()


def test_a_loss_that_explodes_names_the_step_and_keeps_what_was_saved(tmp_path, monkeypatch, capsys):
    arguments = [*TINY, "--epochs", 3, 0, 0, "--out", tmp_path, "--name", "x"]
    real, calls = learning.cosine, []

    def rate(lr, epoch, *others):
        calls.append(epoch)
        return (lambda share: 1e30) if epoch == 2 else real(lr, epoch, *others)

    monkeypatch.setattr(learning, "cosine", rate)
    assert call(*arguments) == 2
    assert "at step 2 of 23 in this epoch" in capsys.readouterr().err
    assert torch.load(tmp_path / "x" / "resume.pt", weights_only=True)["epoch"] == 2
    monkeypatch.setattr(learning, "cosine", real)
    assert call(*arguments, "--resume") == 0


def test_weights_that_ran_away_are_not_saved(tmp_path, capsys):
    """One step of an epoch is enough to ruin them; its loss was computed before."""
    arguments = [*TINY, "--epochs", 2, 0, 0, "--batch", 1437, "--lr", "1e30", "--out", tmp_path, "--name", "x"]
    assert call(*arguments) == 2
    assert "answers to 360 of 360 images are not finite" in capsys.readouterr().err
    assert not (tmp_path / "x").exists(), "nothing good to keep"


def test_channels_last_and_bfloat16_still_convert_bit_for_bit(tmp_path):
    arguments = ["--epochs", 2, 1, 1, "--levels", 4, "--times", 4, "--width", 0.25]
    arguments += ["--channels-last", "--precision", "bfloat16"]
    assert call(*arguments, "--out", tmp_path, "--name", "x") == 0
    rows = json.loads((tmp_path / "x" / "results.json").read_text())["rows"]
    exact = [row for row in rows if row["settled"] or row["schedule"] == "integrate-then-fire"]
    assert [row["logits_equal"] for row in exact] == [True] * len(exact)
    assert len(exact) >= 2
    assert min(min(row["nonzero_share"].values()) for row in exact) > 0.02
