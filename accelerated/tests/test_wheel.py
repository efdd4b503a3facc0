"""The installed wheel: everything runs from it, and it has no tests and no model solutions."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import isospike

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_wheel_has_what_runs_and_nothing_else(tmp_path):
    """Built as a release is; then the commands run from it, from a folder that is not this one."""
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(build, capture_output=True, text=True, timeout=280)
    if "No module named 'hatchling'" in done.stderr + done.stdout or "BackendUnavailable" in done.stderr:
        build.remove("--no-build-isolation")
        done = subprocess.run(build, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"isospike-{isospike.__version__}-py3")
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names}
    assert folders == {"isospike", "reference", "accelerated", f"isospike-{isospike.__version__}.dist-info"}
    assert [name for name in names if "/tests/" in name or "solution" in name or "equivalence" in name] == []
    for needed in (
        "accelerated/py.typed", "reference/py.typed", "accelerated/kernels/kernels.c", "accelerated/runs/validation.py",
        "accelerated/thesis/published/table_3_2.csv", "accelerated/platform/templates/base.html",
    ):  # fmt: skip
        assert needed in names
    place = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(place)
    code = f"""
import sys
sys.path.insert(0, {str(place)!r})
import accelerated, reference
from accelerated import run
assert accelerated.__file__.startswith(sys.path[0])
sys.exit(run.main(sys.argv[1:]))
"""
    for arguments in (["--version"], ["list"], ["--quick", "--model", "mlp", "--out", str(tmp_path / "runs")]):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "runs").glob("*/report.md"))
