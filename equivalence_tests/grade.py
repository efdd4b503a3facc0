"""`python -m equivalence_tests.grade a2 submissions/ --out grades.csv`: a folder of files -> points, one line for each.

Each file runs in a process of its own (`sandbox.py`), which turns inputs into arrays; this process asks and judges. A
file that breaks a rule (it opens files, imports `reference`, starts a process, ...) scores 0, and the last column says
why. Inputs are drawn anew in every round, so that a table of answers is worth nothing; all files of a round see the
same, and `--seed` repeats it.
"""

import argparse
import contextlib
import csv
import io
import os
import re
import secrets
import signal
import stat
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import pytest

from .assignments import ASSIGNMENTS
from .implementations import RUNNING
from .sandbox import Sandbox, plain
from .verdicts import Verdicts

HERE = Path(__file__).parent
LIMIT = 900  # seconds for one file: it may be waited for 180, the rest is the judge's own work on what it answers


class _Judge(Verdicts):
    """The listed tests, as a plugin of pytest; and the first message of those that fail."""

    def __init__(self, tests):
        super().__init__(tests)
        self.reasons = []

    def pytest_collection_modifyitems(self, config, items):
        chosen = [item for item in items if self.test_of(item.nodeid)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    def pytest_runtest_logreport(self, report):
        if (report.when == "call" or not report.passed) and self.add(report) and not report.passed:
            self.reasons.append(_first_line(report))


def _first_line(report):
    """What went wrong, in one line: without the traceback, and without what a long array adds."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else "")
    text = re.sub(r"^equivalence_tests\.sandbox\.\w+: ", "", text)
    name = report.nodeid.split("::")[-1].partition("[")
    part = name[2].rpartition("-")[2].rstrip("]") if name[0] == "test_pair" else ""
    line = " ".join(text.splitlines()[0].split()) if text else "failed"
    return f"{part or name[0]}: {line}"[:300]


def nothing(name):
    """The points of a file that has none."""
    return {statement.name: 0.0 for statement in ASSIGNMENTS[name].statements}


def judge(path, name, seed, call=10.0):
    """{statement: points}, reason, whether the kernel helped; of one submission for the assignment `name`."""
    signal.alarm(LIMIT)  # ends this process; `grade` goes on with the next
    try:
        return _judged(path, name, seed, call)
    finally:
        signal.alarm(0)


def _judged(path, name, seed, call):
    assignment = ASSIGNMENTS[name]
    submission = Sandbox(path, call)
    try:
        if submission.lost:
            return nothing(name), submission.lost, submission.confined
        tests = [test for statement in assignment.statements for test in statement.tests]
        verdicts = _Judge(tests)
        files = dict.fromkeys(str(HERE / (test.partition("::")[0] + ".py")) for test in tests)
        options = ["-n0", "-p", "no:terminal", "-p", "no:cacheprovider", "--rootdir", str(HERE.parent), "-c",
                   os.devnull, "--hypothesis-profile", "grading", "--hypothesis-seed", str(seed),
                   "--first-seed", str(seed), "--impl", f"sandboxed-{id(submission)}", "-k", "not long"]  # fmt: skip
        RUNNING[f"sandboxed-{id(submission)}"] = submission
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            pytest.main([*options, *files], plugins=[verdicts])
        RUNNING.clear()
        if submission.lost:  # it broke a rule, or died: nothing that it said counts
            return nothing(name), submission.lost, submission.confined
    finally:
        submission.close()
    points = {statement.name: verdicts.points(statement) for statement in assignment.statements}
    return points, verdicts.reasons[0] if verdicts.reasons else "", submission.confined


def in_a_cell(text):
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "'") else text


def name_of(path):
    """A file's name as text that no terminal takes for a command; two names never become one."""
    shown = (c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in path.name)
    return in_a_cell("".join(shown))


def pool_of(workers):
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def grade(name, paths, seed, workers=None):
    """Yield (path, {statement: points}, reason, whether the kernel helped) for each file, in order."""
    workers = workers or os.cpu_count()
    with pool_of(workers) as pool:
        jobs = [pool.submit(judge, str(path), name, seed) if regular(path) else None for path in paths]
        for path, job in zip(paths, jobs, strict=True):
            try:
                try:
                    yield path, *(job.result() if job else (nothing(name), "it is no regular file", True))
                except BrokenProcessPool:  # it, or one beside it, took the judge down: once more, alone
                    with pool_of(1) as alone:
                        yield path, *alone.submit(judge, str(path), name, seed).result()
            except BrokenProcessPool:
                yield path, nothing(name), f"it took the judge down, or kept it busy for more than {LIMIT} s", True
            except Exception as error:  # one file must not cost the others their grades
                yield path, nothing(name), f"it could not be judged ({type(error).__name__}: {error})", True


def regular(path):
    """Whether it is a file itself, and no link to one."""
    return stat.S_ISREG(path.lstat().st_mode)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m equivalence_tests.grade", description=__doc__.splitlines()[0])
    parser.add_argument("assignment", choices=sorted(ASSIGNMENTS), help="which assignment")
    parser.add_argument("submissions", type=Path, help="a folder of .py files, or one file")
    parser.add_argument(
        "--out", type=Path, default=Path("grades.csv"), help="the report to write (default: grades.csv)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="files judged at once (default: all cores)")
    parser.add_argument("--seed", type=int, help="repeat the round with this seed (default: a new one)")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # a name may have characters that the terminal lacks
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    paths = sorted(options.submissions.glob("*.py")) if options.submissions.is_dir() else [options.submissions]
    if not paths or not (options.submissions.is_dir() or options.submissions.is_file()):
        print(f"error: {options.submissions} holds no .py file", file=sys.stderr)
        return 2
    statements = [statement.name for statement in ASSIGNMENTS[options.assignment].statements]
    rows, unconfined = [], 0
    for path, points, reason, confined in grade(options.assignment, paths, seed, options.workers):
        unconfined += not confined
        name, reason = name_of(path), in_a_cell(plain(reason))
        rows.append([name, round(sum(points.values()), 1), *(points[s] for s in statements), reason])
        print(
            f"{name}: {rows[-1][1]:g} of {ASSIGNMENTS[options.assignment].points}" + (f"; {reason}" if reason else "")
        )
    partial = options.out.with_name(options.out.name + ".part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "total", *statements, "reason"], *rows])
    partial.replace(options.out)
    print(f"written to {options.out}; --seed {seed} repeats this round")
    if unconfined:
        help_ = "without the kernel's help, which needs Linux and libseccomp: see docs/teachers.md"
        print(f"note: {unconfined} of the files ran {help_}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
