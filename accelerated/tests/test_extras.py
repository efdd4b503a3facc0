"""A missing extra gives one line that names it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT = """
import runpy, sys
sys.modules[{module!r}] = None
sys.argv = {arguments!r}
runpy.run_{kind}({target!r}, run_name="__main__")
"""
MISSING = [  # (module that is not there, how it is run, what, the extra that is named)
    ("uvicorn", "module", "accelerated.platform", "platform"), ("pytest", "module", "equivalence_tests.grade", "suite"),
    ("hypothesis", "module", "equivalence_tests.grade", "suite"), ("z3", "path", "tutorials/05_prove.py", "docs"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "kind", "target", "extra"), MISSING, ids=[f"{m[2]}-{m[0]}" for m in MISSING])
def test_a_missing_extra_is_one_line_that_names_it(module, kind, target, extra):
    code = WITHOUT.format(module=module, arguments=[target, "a1", "nowhere"], kind=kind, target=target)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert f"pip install -e '.[{extra}]'" in done.stderr


def test_the_package_says_which_commands_there_are():
    done = subprocess.run([sys.executable, "-m", "accelerated"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "python -m accelerated.run" in done.stdout


def test_the_suite_does_without_the_platforms_packages():
    """All tests are collected if none of them is installed."""
    blocked = "fastapi", "sqlalchemy", "psutil", "playwright", "httpx", "jinja2", "uvicorn", "alembic", "pwdlib"
    code = f"import sys, pytest; sys.modules.update(dict.fromkeys({blocked!r})); " \
           "sys.exit(pytest.main(['-q', '--collect-only', '-o', 'addopts=', 'equivalence_tests']))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
