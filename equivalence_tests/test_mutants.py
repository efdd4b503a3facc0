"""Tests of the tests: each planted error is caught, by a test whose name says what broke."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from accelerated._native import PRESENT

from .mutants import MUTANTS, ROOT

COMPILED = PRESENT and importlib.import_module("accelerated.kernels.build").library() is not None


def suite(impl, *files, kernels="off", only="", first=False):
    """Run the suite on a path in a process of its own; (exit status, output). Python's forms, unless kernels are on.

    `only`: the tests whose names contain it; `first`: no more than the first of them that fails.
    """
    command = [
        sys.executable,
        "-m",
        "pytest",
        *(str(Path(__file__).parent / file) for file in files),
        "--impl",
        str(impl),
    ]
    command += (["-k", only] if only else []) + (["-x"] if first else [])
    quiet = ["-o", "addopts=", "-q", "--tb=line", "-p", "no:cacheprovider", "-m", "not long"]
    run = subprocess.run(
        [*command, *quiet, "--hypothesis-profile=no-shrinking"],
        cwd=ROOT, capture_output=True, text=True, timeout=280, 
        env=os.environ | {"COLUMNS": "200", "ISOSPIKE_KERNELS": kernels},
    )  # fmt: skip
    return run.returncode, run.stdout + run.stderr


def failed(output):
    """The names of the tests that failed by an assertion: a mutant that merely crashes is no mutant."""
    lines = [line for line in output.splitlines() if line.startswith("FAILED") and " - assert" in line.lower()]
    return [line.split(" ")[1].split("::")[-1] for line in lines]


REFERENCE = [m for m in MUTANTS if m.package == "reference"]
IN_KERNELS = ("elementwise.h", "event_width.h", "whole.h", "whole_width.h", "qcfs_backward")
# by default every sixth error in the reference; those in the backend, which take PyTorch's start each, if long
PLANTED = [pytest.param(m, marks=() if m in REFERENCE[::6] else pytest.mark.long) for m in MUTANTS]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.package}-{m.name}")
def test_each_planted_error_has_its_place(mutant):
    """In every run, planted or not: an error whose code has moved is noticed at once, not in the next long run."""
    if mutant.function in IN_KERNELS and not PRESENT:
        pytest.skip("the kernels' folder was taken out")
    path, text = mutant.edited()
    assert text != path.read_text()
    if not mutant.native:
        compile(text, path.name, "exec")


@pytest.mark.parametrize("mutant", PLANTED, ids=lambda m: f"{m.package}-{m.name}")
def test_a_planted_error_is_caught_and_named(mutant, tmp_path):
    native = mutant.function in IN_KERNELS
    if native and not COMPILED:
        pytest.skip("there is no C compiler to plant an error for")
    kernels, word = "on" if native else "off", re.findall(r"\w+", mutant.breaks)[-1]
    status, output = suite(mutant.plant(tmp_path), mutant.test, kernels=kernels, only=word, first=True)
    assert status == 1, f"{mutant.name} was not caught:\n{output[-2000:]}"
    assert any(mutant.breaks in name for name in failed(output)), f"{mutant.name} is not named: {failed(output)}"


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.package}-{m.name}")
def test_a_planted_error_is_caught_by_the_whole_suite(mutant, tmp_path):
    status, output = suite(mutant.plant(tmp_path), "", kernels="on" if mutant.function in IN_KERNELS else "off")
    assert status == 1
    assert any(mutant.breaks in name for name in failed(output)), failed(output)


@pytest.mark.long
@pytest.mark.parametrize(("package", "kernels"), [("reference", "off"), ("accelerated", "off"), ("accelerated", "on")])
def test_a_copy_without_an_error_passes(package, kernels, tmp_path):
    """The control: what fails above fails for the edit, not for being a copy."""
    copy = tmp_path / f"{package}_copy"
    shutil.copytree(ROOT / package, copy, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    status, output = suite(
        copy, "test_t1.py", "test_t2.py", "test_t3.py", "test_g1.py", "test_laws.py", kernels=kernels
    )
    assert status == 0, output[-3000:]


STUDENT = """
import numpy as np

def qcfs_level(z, threshold, levels, shift=0.5):
    return np.clip(np.floor(z * levels / threshold + shift), 0, levels)

def qcfs(z, threshold, levels, shift=0.5):
    return threshold * qcfs_level(z, threshold, levels, shift) / levels

def lif_runs(currents, threshold, leak):
    return None

def if_run(currents, threshold, v0=None):
    membrane = np.broadcast_to(threshold / 2 if v0 is None else v0, currents.shape[1:])
    spikes = []
    for current in currents:
        membrane = membrane + current
        spike = (membrane >= threshold).astype(float)
        membrane = membrane - threshold * spike
        spikes.append(spike)
    return np.stack(spikes), membrane
"""


def test_a_file_that_implements_a_part_is_judged_on_that_part(tmp_path):
    """Its own names are tested and pass; the names that it lacks are listed, once each."""
    path = tmp_path / "student.py"
    path.write_text(STUDENT)
    status, output = suite(path, "test_t1.py", "test_t3.py", "test_pairs.py", "test_laws.py")
    assert status == 0, output[-3000:]
    missing = [line.split(": ")[1] for line in output.splitlines() if line.startswith("missing name: ")]
    assert "st_bif_run" in missing
    assert "lif_run (is it lif_runs?)" in missing
    assert "softplus" in missing
    assert not {"qcfs", "qcfs_level", "if_run"} & set(missing)
    assert {"convert", "expand", "fold_batch_norms"} <= set(missing), "all of them, tested here or not"
    assert re.search(r"^T1: \d+ passed", output, re.M)
    assert re.search(r"^T3: \d+ skipped", output, re.M)


def test_a_starter_that_is_begun_is_judged_by_its_own_assignment(tmp_path):
    """Empty functions are not written yet, and not wrong; other assignments' tests do not run; points by column."""
    starter = (ROOT / "tutorials" / "assignments" / "a1.py").read_text()
    solution = (ROOT / "equivalence_tests" / "solutions" / "a1.py").read_text()
    path = tmp_path / "a1.py"
    path.write_text(starter + solution[solution.index("def qcfs_level") : solution.index("def integrate_then_fire")])
    status, output = suite(path, "test_t1.py", "test_t2.py", "test_t3.py", "test_n1.py", "test_pairs.py", "test_g1.py")
    assert status == 0, output[-3000:]
    missing = {line.split(": ")[1] for line in output.splitlines() if line.startswith("missing name: ")}
    unwritten = ("integrate_then_fire_run", "signed_step", "st_bif_run")
    assert missing == {f"{name} (not written yet)" for name in unwritten}, "and no name of another assignment"
    assert "a1: if 20 of 20, T1 25 of 25, N1 10 of 10, T2 0 of 20, T3 0 of 25; 55 points in all" in output
    assert "G1:" not in output


def test_a_file_that_cannot_be_imported_is_named_once(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def qcfs(:")
    status, output = suite(path, "test_t1.py")
    assert status != 0
    assert output.count("cannot be imported: SyntaxError") == 1


def test_a_file_that_is_not_there_is_named(tmp_path):
    status, output = suite(tmp_path / "nobody.py", "test_t1.py")
    assert status != 0
    assert "no such file" in output
