"""Folders that can be removed: the rest runs as before, and says what is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REMOVABLE = ("thesis", "benchmarks", "platform", "kernels")
CASES = [pytest.param(REMOVABLE, id="all of them")]
CASES += [pytest.param((name,), id=name, marks=pytest.mark.long) for name in REMOVABLE]


@pytest.mark.parametrize("removed", CASES)
def test_what_is_left_runs(removed, tmp_path):
    """The main job to its report, the list of commands, and one line for a table that is not there."""
    for package in ("isospike", "accelerated"):
        left_out = shutil.ignore_patterns("__pycache__", "tests", *(removed if package == "accelerated" else ()))
        shutil.copytree(ROOT / package, tmp_path / package, ignore=left_out)
    assert not any((tmp_path / "accelerated" / name).exists() for name in removed)

    def call(*arguments):
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200,
                              env=os.environ | {"PYTHONPATH": str(tmp_path)})  # fmt: skip

    done = call("accelerated.run", "--quick", "--model", "mlp", "--out", "runs")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "In short: " in done.stdout
    assert list((tmp_path / "runs").glob("*/report.md"))
    commands = call("accelerated").stdout
    for name in ("platform", "benchmarks"):
        assert (f"accelerated.{name}" in commands) == (name not in removed)
    listed = call("accelerated.run", "list")
    assert (listed.returncode == 0) == ("thesis" not in removed), listed.stderr
    if "thesis" in removed:
        assert listed.stderr.strip() == "error: unknown command 'list': choose from report, export, verify"
