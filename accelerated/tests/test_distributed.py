"""Several processes: the accuracy of one, and after a kill the weights of an undisturbed run (gloo, two processes)."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

TINY = ["--times", "1", "4", "--levels", "4", "--width", "0.25", "--model", "mlp", "--device", "cpu"]


def launch(processes, *arguments):
    """Start `python -m accelerated.run` in several processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    start = torchrun if processes > 1 else [sys.executable]
    command = [*start, "-m", "accelerated.run", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def finish(process):
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-3000:]
    return out


def kill_all(word):
    """SIGKILL to every process with `word` in its command line: torchrun gives its workers groups of their own."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_two_processes_give_the_accuracy_of_one(tmp_path):
    """The same order, the same batches, gradients averaged: only the order of sums differs, in a network without batch
    norm; 360 test images in shares of 180, each counted once."""
    for name, processes in (("one", 1), ("two", 2)):
        out = finish(launch(processes, "--out", tmp_path, "--name", name, "--epochs", 3, 1, 1, *TINY))
        assert out.count("written to") == 1, "only one process reports"
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    assert two["environment"]["processes"] == 2
    assert one["accuracy"] == two["accuracy"]
    assert one["accuracy"]["folded"] > 0.5, "it has learnt something"
    for ours, theirs in zip(one["rows"], two["rows"], strict=True):
        assert ours["accuracy"] == theirs["accuracy"], ours["schedule"]
        assert ours["logits_equal"] == theirs["logits_equal"]
        assert ours["spikes_per_neuron"] == pytest.approx(theirs["spikes_per_neuron"], rel=1e-2)  # as the weights
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        # 115 steps of SGD on gradients that agree to 1e-7; a level that crosses a tie adds to that
        assert torch.allclose(value, weights[1][name], rtol=0, atol=1e-2), name


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes to kill in /proc, which Linux has")
def test_two_processes_killed_and_resumed_end_with_the_same_weights(tmp_path):
    arguments = ["--epochs", 15, 1, 1, *TINY, "--out", tmp_path]
    process = launch(2, "--name", "cut", *arguments)
    metrics, deadline = tmp_path / "cut" / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 2:
            break
        time.sleep(0.01)
    kill_all(str(tmp_path))
    process.communicate()
    assert not (tmp_path / "cut" / "results.json").exists(), "the run ended before it could be killed"
    finish(launch(2, "--name", "cut", *arguments, "--resume"))
    finish(launch(2, "--name", "whole", *arguments))
    cut, whole = (load_file(tmp_path / name / "weights.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(cut[name], value) for name, value in whole.items())


@pytest.mark.long
def test_a_table_is_written_by_one_process(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "accelerated.run", "figure-3-1", "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[:4000]
    assert done.stdout.count("written to") == 1


@pytest.mark.long
def test_bad_input_ends_all_processes_with_one_line(tmp_path):
    process = launch(2, "--out", tmp_path, "--data", "cifar10", "--data-root", tmp_path, "--model", "resnet20")
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert errors.count("CIFAR10 was looked for in") == 1
