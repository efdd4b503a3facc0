"""The suite on each engine, without a compiler, and without the folder of kernels; each takes some minutes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from accelerated._native import PRESENT

ROOT = Path(__file__).parents[1]
WAYS = {  # options of pytest, environment
    "event": (["--engine", "event"], {}),
    "auto": (["--engine", "auto"], {}),
    "no compiler": ([], {"ISOSPIKE_KERNELS": "off"}),
    "no folder": ([], {}),
}


def passed(folder, options, environment):
    """pytest's last line for the accelerated backend, if nothing failed."""
    command = [sys.executable, "-m", "pytest", "equivalence_tests", "--impl", "accelerated", *options]
    done = subprocess.run([*command, "-v", "-p", "no:cacheprovider"], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(folder)} | environment)  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    return next(line for line in reversed(done.stdout.splitlines()) if " passed" in line).strip("= ")


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not PRESENT, reason="this is the project without kernels")
@pytest.mark.parametrize("way", WAYS)
def test_the_suite_passes_in_every_way(way, tmp_path, record_property):
    folder, (options, environment) = ROOT, WAYS[way]
    if way == "no folder":
        folder, left = tmp_path, shutil.ignore_patterns("kernels", "__pycache__")
        for name in ("accelerated", "reference", "equivalence_tests", "tutorials", "docs"):
            shutil.copytree(ROOT / name, folder / name, ignore=left)
        for path in filter(Path.is_file, ROOT.iterdir()):
            shutil.copy(path, folder)
    record_property("seen", f"the suite, {way}: {passed(folder, options, environment)}")
