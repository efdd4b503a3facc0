"""`python -m accelerated.run` from end to end, its interruption, and its errors for bad input."""

import io
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from accelerated import run
from accelerated.engines import whole
from accelerated.kernels import serves
from accelerated.reports import report
from accelerated.runs import config, experiment, help, validation

TINY = ["--epochs", "2", "1", "1", "--times", "1", "4", "--levels", "4", "--width", "0.25"]


def call(*arguments):
    return run.main([*map(str, arguments)])


def learnt(metrics):
    """The lines of metrics.jsonl without what differs from one execution to the next."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "memory")} for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny finished run and its results."""
    out = tmp_path_factory.mktemp("runs")
    assert call("--out", out, "--name", "tiny", "--arithmetic", "increments", *TINY) == 0
    return out / "tiny", json.loads((out / "tiny" / "results.json").read_text())


def test_a_run_leaves_everything_behind(finished):
    folder, results = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "simulation.jsonl", "resume.pt", "weights.safetensors",
                     "results.json", "report.md", "activations.json",
                     "steps.png", "accuracy.png", "pareto.png", "thresholds.png", "neuron.png"}  # fmt: skip
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"]) for line in lines] == [
        ("relu", 1),
        ("relu", 2),
        ("stage 1", 1),
        ("stage 2", 1),
    ]
    rates = [line["lr"] for line in lines]  # a cosine from lr down in each stage, a tenth of lr in stage 2
    assert rates == pytest.approx([0.1, 0.05, 0.1, 0.01])
    assert results["test_images"] == 360
    assert {"commit", "device", "torch"} <= set(results["environment"])


def test_the_exact_schedules_are_equal_on_the_whole_test_set(finished):
    _, results = finished
    totals = [r for r in results["rows"] if r["arithmetic"] == "totals"]
    exact = [r for r in totals if r["settled"] or (r["schedule"] == "integrate-then-fire" and r["T"] == 4)]
    assert len(exact) >= 2
    for row in exact:
        assert row["logits_equal"] is True
        assert row["units_that_differ"] == 0
        assert min(row["nonzero_share"].values()) > 0.05, "dead layers are equal for free"
        assert row["accuracy"] == results["accuracy"]["folded"]


def test_rows_say_what_they_cost_and_leave_empty_what_is_not_defined(finished):
    _, results = finished
    rows = {(r["schedule"], r["arithmetic"], r["T"]): r for r in results["rows"]}
    assert rows["streaming", "increments", 4]["latency"] == 4
    assert rows["integrate-then-fire", "totals", 4]["latency"] == (results["depth"] + 1) * 4
    assert rows["integrate-then-fire", "totals", 1]["units_that_differ"] is None, "T is not L"
    assert rows["integrate-then-fire", "totals", 1]["logits_equal"] is None
    assert rows["signed", "totals", 1]["latency"] is None
    assert rows["signed", "totals", 1]["settled"] is False
    assert ("signed", "increments", 4) in rows
    assert report.cells(rows["signed", "totals", 1])[4] == "unsettled"


def test_every_column_has_a_header_and_the_table_fits_a_terminal(finished):
    _, results = finished
    table = report.table(results)
    cells = report.cells(results["rows"][0])
    assert len(report.HEADER) == len(cells) == len(table.columns) + 3, "all but operations, joules, break-even"
    assert all(column.header for column in table.columns)
    printed = io.StringIO()
    Console(width=80, file=printed).print(table)
    assert "…" not in printed.getvalue(), "nothing is cut off"


def test_events_give_the_same_rows(finished, tmp_path):
    """The same training, streamed by the other engine: a different rounding may cost an image; nothing else changes."""
    assert call("--out", tmp_path, "--name", "events", "--arithmetic", "increments", "--engine", "event", *TINY) == 0
    ours = json.loads((tmp_path / "events" / "results.json").read_text())["rows"]
    for row, other in zip(ours, finished[1]["rows"], strict=True):
        if row["schedule"] != "streaming":
            assert row == other
        assert abs(row["accuracy"] - other["accuracy"]) <= 1.5 / 360
        assert row["spikes_per_neuron"] == pytest.approx(other["spikes_per_neuron"], rel=1e-3)


def test_whole_numbers_are_executed_on_events(tmp_path, monkeypatch):
    """--bits with --engine event: the exact schedules spike by spike, with every figure of the steps in PyTorch."""
    taken, steps, rows = [], whole.WholeRun.steps, {}

    def seen(run, count):
        taken.append(count)
        return steps(run, count)

    monkeypatch.setattr(whole.WholeRun, "steps", seen)
    exact = ("--bits", "8", "--schedules", "integrate-then-fire", "halving", *TINY)
    for name, ways in {"events": ("--engine", "event"), "steps": ("--arithmetic", "increments")}.items():
        assert call("--out", tmp_path, "--name", name, *exact, *ways) == 0
        rows[name] = json.loads((tmp_path / name / "results.json").read_text())["rows"]
        assert bool(taken) == (name == "events" and serves(torch.zeros(1)))
        taken.clear()
    stepped = [row for row in rows["steps"] if row["arithmetic"] == "increments"]
    on_events = [row for row in rows["events"] if row["arithmetic"] == "increments"]
    assert [(row["schedule"], row["T"]) for row in rows["events"] if row["arithmetic"] == "totals"] == [
        ("integrate-then-fire", 1)
    ]
    assert len(on_events) == len(stepped) - 1
    for row in on_events:
        assert row in stepped
        assert row["logits_equal"] or not row["settled"]
        assert min(row["nonzero_share"].values()) > 0.05 or row["T"] == 1
    assert sum(bool(row["logits_equal"]) for row in on_events) >= 2


def test_a_margin_at_the_exact_length_is_reported(tmp_path):
    """Read out early from a run of T = L, whose own row is exact: a line in the table, and no finding of its own."""
    few = [*TINY, "--test-images", "40", "--margins", "0.9", "--schedules", "integrate-then-fire"]
    assert call("--out", tmp_path, "--name", "early", *few) == 0
    assert "margin 0.9" in (tmp_path / "early" / "report.md").read_text()


def test_counts_by_theorem_leave_equality_empty(finished, tmp_path):
    """--no-audit: integrate-then-fire's rows have the same figures, say where they come from, and claim no equality."""
    assert call("--out", tmp_path, "--name", "stated", "--no-audit", "--schedules", "integrate-then-fire", *TINY) == 0
    stated = json.loads((tmp_path / "stated" / "results.json").read_text())["rows"]
    kept = [row for row in finished[1]["rows"] if row["schedule"] == "integrate-then-fire"]
    stepped = {row["T"]: row for row in kept if row["arithmetic"] == "totals"}
    assert [row["T"] for row in stated] == list(stepped)
    for row in stated:
        assert row["logits_equal"] is row["units_that_differ"] is None
        for figure in ("accuracy", "latency", "spikes_per_neuron", "joules", "nonzero_share"):
            assert row[figure] == stepped[row["T"]][figure], figure
    said = (tmp_path / "stated" / "report.md").read_text()
    assert "integrate-then-fire, by theorem: at T = L = 4, the logits of all 360 images were not executed" in said
    assert "nearest" not in said, "what was not executed is neither equal nor unequal"


def test_the_report_shows_every_row(finished):
    folder, results = finished
    text = (folder / "report.md").read_text()
    for row in results["rows"]:
        assert "| " + " | ".join(report.cells(row)) + " |" in text
    for finding in report.findings(results):
        assert f"- {finding}" in text
    assert "bit for bit" in text


def test_a_finished_run_is_never_overwritten(finished, capsys):
    folder, _ = finished
    before = (folder / "results.json").read_bytes()
    assert call("--out", folder.parent, "--name", "tiny", *TINY) == 2
    assert "is there already: choose another --name" in capsys.readouterr().err
    assert (folder / "results.json").read_bytes() == before


INTERRUPTED = """
import os, signal, sys
from accelerated import run
from accelerated.runs.journal import Journal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
epoch = Journal.epoch

def interrupted(self, line, epochs):
    epoch(self, line, epochs)
    if line["epoch"] == 2:
        os.kill(os.getpid(), signal.SIGINT)

Journal.epoch = interrupted
sys.exit(run.main())
"""


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, capsys):
    """Ctrl-C after some epochs, then --resume: bit for bit the weights of a run that was never interrupted."""
    arguments = ["--epochs", "6", "2", "2", "--times", "1", "--levels", "4", "--width", "0.25", "--model", "mlp"]
    command = [sys.executable, "-c", INTERRUPTED, *arguments, "--out", str(tmp_path), "--name", "cut"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200)
    errors = run.stderr
    assert run.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "cut" / "results.json").exists()
    assert call(*arguments, "--out", tmp_path, "--name", "cut") == 2, "without --resume it is not touched"
    assert call(*arguments, "--out", tmp_path, "--name", "cut", "--resume", "--seed", "3") == 2
    assert "was started with seed=0, not 3" in capsys.readouterr().err
    state = torch.load(tmp_path / "cut" / "resume.pt", weights_only=True)
    torch.save(state | {"seconds": 1000.0}, tmp_path / "cut" / "resume.pt")
    assert call(*arguments, "--out", tmp_path, "--name", "cut", "--resume") == 0
    assert "nothing to resume" not in capsys.readouterr().err
    assert json.loads((tmp_path / "cut" / "results.json").read_text())["seconds"] > 1000, "the first part counts"
    assert call(*arguments, "--out", tmp_path, "--name", "whole", "--resume") == 0
    assert "nothing to resume" in capsys.readouterr().err
    cut, whole = (load_file(tmp_path / name / "weights.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(cut[name], value) for name, value in whole.items())
    logs = [learnt(tmp_path / name / "metrics.jsonl") for name in ("cut", "whole")]
    assert logs[0] == logs[1]


def test_a_run_goes_on_with_as_many_threads_as_before(tmp_path, monkeypatch):
    """A machine that is busy now computes with fewer, and another number of threads rounds otherwise."""
    arguments = ["--epochs", "3", "0", "0", "--until", "relu", "--width", "0.25", "--model", "mlp"]
    arguments += ["--out", str(tmp_path)]
    command = [sys.executable, "-c", INTERRUPTED, *arguments, "--name", "cut"]
    assert subprocess.run(command, capture_output=True, timeout=200).returncode == 130
    state, before = torch.load(tmp_path / "cut" / "resume.pt", weights_only=True), torch.get_num_threads()
    torch.save(state | {"threads": 3}, tmp_path / "cut" / "resume.pt")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    try:
        assert call(*arguments, "--name", "cut", "--resume") == 0
        assert (state["threads"] >= 1, torch.get_num_threads()) == (True, 3)
    finally:
        torch.set_num_threads(before)


DAMAGE = [
    ("config.json", b"{"), ("config.json", b"\xff\xfe"), ("config.json", b"[]"), ("resume.pt", b"nonsense"),
    ("resume.pt", {"stage": "relu"}), ("resume.pt", {"stage": "stage 7"}), ("resume.pt", "another network"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), DAMAGE, ids=[f"{n}-{str(c)[:20]}" for n, c in DAMAGE])
def test_a_damaged_run_is_named_not_resumed(name, content, finished, tmp_path, capsys):
    folder = tmp_path / "tiny"
    shutil.copytree(finished[0], folder)
    (folder / "results.json").unlink()
    if content == "another network":
        state = torch.load(folder / "resume.pt", weights_only=True)
        torch.save(state | {"network": {"x": torch.zeros(2)}}, folder / "resume.pt")
    elif isinstance(content, dict):
        torch.save(content, folder / "resume.pt")
    else:
        (folder / name).write_bytes(content)
    assert call("--out", tmp_path, "--name", "tiny", "--arithmetic", "increments", *TINY, "--resume") == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(err) == 1
    assert "delete" in err[0]


def test_a_name_made_from_the_settings_gets_a_number(tmp_path):
    for _ in range(2):
        assert call("--out", tmp_path, "--model", "mlp", "--epochs", "0", "0", "0", "--times", "1") == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["digits-mlp-cs-qcfs-L8-seed0", "digits-mlp-cs-qcfs-L8-seed0-2"]


def test_very_long_simulations_are_announced(tmp_path, capsys, monkeypatch):
    short = ["--out", tmp_path, "--model", "mlp", "--width", "0.0625", "--epochs", "0", "0", "0", "--times", "1"]
    assert call(*short, "--schedules", "streaming", "--levels", "3000") == 0
    assert "takes long" not in capsys.readouterr().err

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "rows_of", interrupted)
    assert call(*short, "--levels", "3000") == 130
    assert "the longest simulation has 9000 steps and takes long" in " ".join(capsys.readouterr().err.split())


def test_quick_keeps_what_was_asked_for():
    asked = validation.checked(config.Config(quick=True, times=(2,)))
    assert (asked.epochs, asked.times) == (validation.QUICK["epochs"], (2,))


def test_an_equality_of_dead_layers_is_called_vacuous(finished):
    row = finished[1]["rows"][-1] | {"nonzero_share": {"a": 0.5, "b": 0.0}, "logits_equal": True}
    assert report.cells(row)[-1] == "vacuous"
    results = finished[1] | {"rows": [row | {"schedule": "signed", "settled": True, "arithmetic": "totals"}]}
    assert "for free" in list(report.findings(results))[-1]


def test_an_unwritable_folder_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert call("--out", tmp_path / "file", *TINY) == 2
    err = capsys.readouterr().err
    assert "cannot write to" in err
    assert "choose another --out" in err
    assert len(err.splitlines()) == 1


def test_a_finished_run_is_not_resumed(finished, capsys):
    folder, _ = finished
    assert (
        call("--out", folder.parent, "--name", "tiny", "--arithmetic", "increments", *TINY, "--seed", "3", "--resume")
        == 2
    )
    assert "holds a finished run (made with seed=0, not 3): nothing to resume" in capsys.readouterr().err


def test_a_loss_that_explodes_stops_the_run(tmp_path, capsys):
    assert call("--out", tmp_path, "--name", "x", "--model", "mlp", "--lr", "1e30", *TINY) == 2
    assert "try a smaller learning rate than 1e+30" in capsys.readouterr().err
    assert not (tmp_path / "x").exists(), "nothing to go on from, so nothing is left"


def test_an_unknown_option_suggests_the_nearest():
    command = [sys.executable, "-m", "accelerated.run", "--level", "4"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"})
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "--levels" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_explains_every_option():
    result = subprocess.run([sys.executable, "-m", "accelerated.run", "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    named = [name for names in config.GROUPS.values() for name in names]
    assert sorted(named) == sorted(config.Config.__dataclass_fields__), "each in one group"
    for field in named:
        flag = field.replace("_", "-")
        assert re.search(rf"^--(no-)?{flag} ", result.stdout, re.M), field
    lines = result.stdout.splitlines()
    assert lines.index("first of all") < lines.index("data") < lines.index("output")
    assert set(help.explained()) == set(named)


def test_who_has_read_enough_is_no_error():
    """`| head -1` closes the pipe while the help is printed."""
    command = f"{sys.executable} -m accelerated.run --help | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_version_is_said(capsys):
    import isospike

    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == f"isospike {isospike.__version__}"


def test_reports_go_on_past_a_run_that_has_none(finished, tmp_path, capsys):
    folder = tmp_path / "tiny"
    shutil.copytree(finished[0], folder)
    (folder / "report.md").unlink()
    assert call("report", tmp_path / "nothing", folder) == 2
    err = capsys.readouterr().err
    assert f"left out: {tmp_path / 'nothing'} holds no run" in err
    assert "error: 1 of 2 folders have no report" in err
    assert (folder / "report.md").exists()
