"""A run mirrored to a tracker: the lines of its journal as numbers, once, also where it was interrupted."""

import json
import sys
import types

import pytest

from accelerated import run
from accelerated.runs import tracking

TINY = ["--model", "mlp", "--width", "0.25", "--levels", "4", "--times", "1", "2", "--schedules", "streaming", "signed",
        "--epochs", "1", "1", "1", "--test-images", "16"]  # fmt: skip


class Kept:
    """What a tracker was told."""

    def __init__(self):
        self.begun, self.settings, self.lines, self.ended = [], [], [], []


def like_mlflow(kept):
    module = types.ModuleType("mlflow")

    def start_run(run_id=None, run_name=None):
        kept.begun.append(run_id or run_name)
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="m1"))

    def log_metrics(values, step):
        kept.lines.append((step, values))

    module.__dict__.update(
        set_experiment=kept.begun.append, start_run=start_run, log_params=kept.settings.append, log_metrics=log_metrics,
        end_run=lambda status: kept.ended.append(status == "FINISHED"),
    )  # fmt: skip
    return module


def like_wandb(kept):
    module = types.ModuleType("wandb")

    def init(project, id, name, config, resume):
        kept.begun += [project, id or name]
        kept.settings.append(config)
        return types.SimpleNamespace(
            id="w1", log=lambda values, step: kept.lines.append((step, values)),
            finish=lambda code: kept.ended.append(code == 0),
        )  # fmt: skip

    module.__dict__["init"] = init
    return module


@pytest.fixture(params=["mlflow", "wandb"])
def tracker(request, monkeypatch):
    """(name of the tracker, what it received); a module with the few functions that runs call replaces the tracker."""
    kept = Kept()
    make = {"mlflow": like_mlflow, "wandb": like_wandb}[request.param]
    module = make(kept)
    module.__spec__ = types.SimpleNamespace(name=request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    return request.param, kept


def call(out, *more):
    return run.main([*TINY, "--out", str(out), "--name", "x", *more])


def test_every_epoch_and_every_simulation_arrives(tracker, tmp_path):
    name, kept = tracker
    assert call(tmp_path, "--track", name) == 0
    assert kept.begun == ["isospike", "x"]
    assert kept.settings[0]["levels"] == 4
    assert kept.ended == [True]
    epochs = [json.loads(line) for line in (tmp_path / "x" / "metrics.jsonl").read_text().splitlines()]
    assert [step for step, _ in kept.lines[:3]] == [1, 2, 3]
    for line, (_, values) in zip(epochs, kept.lines, strict=False):
        assert values[f"{line['stage']}/accuracy"] == line["accuracy"]
    rows = json.loads((tmp_path / "x" / "results.json").read_text())["rows"]
    streaming = {row["T"]: row["accuracy"] for row in rows if row["schedule"] == "streaming"}
    assert (3, {f"streaming/increments/none/accumulated/T {t}": streaming[t] for t in (1, 2)}) in kept.lines
    assert len(kept.lines) == 3 + 2
    assert all(isinstance(value, int | float) for _, values in kept.lines for value in values.values())


def test_an_interrupted_run_goes_on_there_too(tracker, tmp_path, interrupted):
    name, kept = tracker
    with interrupted(2):
        assert call(tmp_path, "--track", name) == 130
    assert call(tmp_path, "--track", name, "--resume") == 0
    assert kept.ended == [False, True]
    assert kept.begun[-1] == {"mlflow": "m1", "wandb": "w1"}[name], "the same run, by its number"
    assert [step for step, _ in kept.lines[:3]] == [1, 2, 3]


def test_a_tracker_that_fails_does_not_stop_a_run(tracker, tmp_path, capsys, monkeypatch):
    name, kept = tracker
    real = tracking.TRACKERS[name]

    def breaks(*what):
        number, _, end = real(*what)

        def log(values, step):
            raise ConnectionError("no route to host\nand more")

        return number, log, end

    monkeypatch.setitem(tracking.TRACKERS, name, breaks)
    assert call(tmp_path, "--track", name) == 0
    assert capsys.readouterr().err.count(f"{name} takes no more (no route to host): the run goes on without") == 1
    assert kept.ended == [True]

    def refuses(*_):
        raise ConnectionError("not logged in")

    monkeypatch.setitem(tracking.TRACKERS, name, refuses)
    assert run.main([*TINY, "--out", str(tmp_path), "--name", "y", "--track", name]) == 2
    assert f"error: track {name!r}: not logged in" in capsys.readouterr().err
    assert not (tmp_path / "y").exists(), "nothing half-written"


def test_the_end_of_a_run_is_its_own_whatever_the_tracker_does(tracker, tmp_path, capsys, monkeypatch):
    """A server that went down, an exception without text, a run that trains nothing: the results stay."""
    name, _ = tracker
    real = tracking.TRACKERS[name]

    def gone(*what):
        def fails(*_, **__):
            raise TimeoutError

        return real(*what)[0], fails, fails

    monkeypatch.setitem(tracking.TRACKERS, name, gone)
    assert call(tmp_path, "--track", name, "--epochs", "0", "0", "0") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"{name} takes no more (TimeoutError): the run goes on without" in said
    assert f"{name} was not told of the end (TimeoutError)" in said
    assert (tmp_path / "x" / "results.json").exists()


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda _: None)
    assert call(tmp_path, "--track", "mlflow") == 2
    assert "mlflow is not installed: pip install mlflow" in capsys.readouterr().err
    assert call(tmp_path, "--track", "neptune") == 2
    assert "unknown track 'neptune': choose from none, mlflow, wandb" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
