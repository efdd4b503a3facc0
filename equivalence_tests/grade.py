"""`python -m equivalence_tests.grade a2 submissions/ --out grades.csv`: a folder of files -> points, one line for each.

Each file runs in a process of its own (`sandbox.py`), which turns inputs into arrays; this process asks and judges. A
file that breaks a rule (it opens files, imports `reference`, starts a process, ...) scores 0, and the last column says
why.
"""

import argparse
import contextlib
import csv
import io
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from .assignments import ASSIGNMENTS
from .implementations import RUNNING
from .sandbox import Sandbox, plain

HERE = Path(__file__).parent


class _Verdicts:
    """What pytest reports, by test: passed, failed, or skipped because a name is missing; and the first message."""

    def __init__(self, tests):
        self.tests, self.fates, self.reasons = tests, {test: [] for test in tests}, []

    def _test_of(self, nodeid):
        file, function, parameters = re.match(r".*?(\w+)\.py::(\w+)(?:\[(.*)\])?$", nodeid).groups()
        for test in self.tests:
            wanted, _, parameter = test.partition("[")
            if wanted == f"{file}::{function}" and (not parameter or parameters.endswith(f"-{parameter[:-1]}")):
                return test
        return None

    def pytest_collection_modifyitems(self, config, items):
        chosen = [item for item in items if self._test_of(item.nodeid)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.passed:
            return
        if report.skipped and "does not define" not in str(report.longrepr):
            return  # what is asked of the reference alone
        self.fates[self._test_of(report.nodeid)].append(report.passed)
        if not report.passed:
            self.reasons.append(_first_line(report))


def _first_line(report):
    """What went wrong, in one line: without the traceback, and without what a long array adds."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else "")
    name = report.nodeid.split("::")[-1].partition("[")
    part = name[2].rpartition("-")[2].rstrip("]") if name[0] == "test_pair" else ""
    line = " ".join(text.splitlines()[0].split()) if text else "failed"
    return f"{part or name[0]}: {line}"[:300]


def judge(path, name, call=10.0):
    """{statement: points}, reason of one submission for the assignment `name`."""
    assignment = ASSIGNMENTS[name]
    submission = Sandbox(path, call)
    try:
        if submission.lost:
            return {s.name: 0.0 for s in assignment.statements}, submission.lost
        tests = [test for statement in assignment.statements for test in statement.tests]
        verdicts = _Verdicts(tests)
        files = dict.fromkeys(str(HERE / (test.partition("::")[0] + ".py")) for test in tests)
        options = ["-n0", "-p", "no:terminal", "-p", "no:cacheprovider", "--rootdir", str(HERE.parent), "-c",
                   os.devnull, "--hypothesis-profile", "no-shrinking", "--impl", f"sandboxed-{id(submission)}",
                   "-k", "not long"]  # fmt: skip
        RUNNING[f"sandboxed-{id(submission)}"] = submission
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            pytest.main([*options, *files], plugins=[verdicts])
        RUNNING.clear()
        if submission.lost:  # it broke a rule, or died: nothing that it said counts
            return {s.name: 0.0 for s in assignment.statements}, submission.lost
    finally:
        submission.close()
    points = {}
    for statement in assignment.statements:
        fates = [fate for test in statement.tests for fate in verdicts.fates[test]]
        assert all(verdicts.fates[test] for test in statement.tests), f"a test of {statement.name} did not run"
        points[statement.name] = round(statement.points * sum(fates) / len(fates), 1)
    return points, verdicts.reasons[0] if verdicts.reasons else ""


def in_a_cell(text):
    """Text that neither a spreadsheet takes for a formula nor a terminal for a command."""
    text = plain(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def grade(name, paths, workers=None):
    """Yield (path, {statement: points}, reason) for each file, in order."""
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        jobs = [(path, pool.submit(judge, str(path), name)) for path in paths]
        for path, job in jobs:
            try:
                points, reason = job.result()
            except Exception as error:  # one file must not cost the others their grades
                points = {statement.name: 0.0 for statement in ASSIGNMENTS[name].statements}
                reason = f"it could not be judged ({type(error).__name__}: {error}); look at it by hand"
            yield path, points, reason


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m equivalence_tests.grade", description=__doc__.splitlines()[0])
    parser.add_argument("assignment", choices=sorted(ASSIGNMENTS), help="which assignment")
    parser.add_argument("submissions", type=Path, help="a folder of .py files, or one file")
    parser.add_argument(
        "--out", type=Path, default=Path("grades.csv"), help="the report to write (default: grades.csv)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="files judged at once (default: all cores)")
    options = parser.parse_args(arguments)
    paths = sorted(options.submissions.glob("*.py")) if options.submissions.is_dir() else [options.submissions]
    if not paths or not all(path.is_file() for path in paths):
        print(f"error: {options.submissions} holds no .py file", file=sys.stderr)
        return 2
    statements = [statement.name for statement in ASSIGNMENTS[options.assignment].statements]
    rows = []
    for path, points, reason in grade(options.assignment, paths, options.workers):
        name, reason = in_a_cell(path.name), in_a_cell(reason)
        rows.append([name, round(sum(points.values()), 1), *(points[s] for s in statements), reason])
        print(
            f"{path.name}: {rows[-1][1]:g} of {ASSIGNMENTS[options.assignment].points}"
            + (f"; {reason}" if reason else "")
        )
    partial = options.out.with_name(options.out.name + ".part")
    with partial.open("w", newline="") as file:
        csv.writer(file).writerows([["file", "total", *statements, "reason"], *rows])
    partial.replace(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
