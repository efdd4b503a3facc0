"""`python -m equivalence_tests.grade a2 submissions/ --out grades.csv`: a folder of files -> points, one row for each.

Each file runs in a process of its own (`sandbox.py`), which turns inputs into arrays; this process calls it and judges.
A file that breaks a rule (it opens files, imports `reference`, starts a process, ...) scores 0, and the column `reason`
says why; each statement has its own reason. Files in sub-folders are graded too. Every round draws new inputs, so a
table of answers is useless; all files of a round get the same inputs, and `--seed` repeats them.
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
from typing import NamedTuple

try:
    import pytest
    from hypothesis import settings  # noqa: F401 (the tests that judge need it)
except ImportError as error:
    sys.exit(f"error: grading needs {error.name}, which comes with the extra 'suite': pip install -e '.[suite]'")

from .assignments import ASSIGNMENTS
from .implementations import RUNNING
from .sandbox import Sandbox, plain
from .verdicts import Verdicts

HERE = Path(__file__).parent
LIMIT = 900  # seconds for one file: it may be waited for 180, the rest is the judge's own work on what it answers


class Grade(NamedTuple):
    """The grade of a file: points and reason per statement, notes on the file, and whether the kernel confined it."""

    points: dict
    reasons: dict
    reason: str = ""
    confined: bool = True


class _Judge(Verdicts):
    """A plugin of pytest for the listed tests; keeps the first message of each that fails."""

    def __init__(self, tests):
        super().__init__(tests)
        self.reasons = {}

    def pytest_collection_modifyitems(self, config, items):
        chosen = [item for item in items if self.test_of(item.nodeid)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    def pytest_runtest_logreport(self, report):
        if (report.when == "call" or not report.passed) and self.add(report) and not report.passed:
            self.reasons.setdefault(self.test_of(report.nodeid), _first_line(report))

    def reason(self, statement):
        """Why a statement lacks points: the first missing name or failure, in the order of its tests."""
        return next((self.reasons[test] for test in statement.tests if test in self.reasons), "")


def _first_line(report):
    """The error in one line, without the traceback and long arrays."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else "")
    text = re.sub(r"^equivalence_tests\.sandbox\.\w+: ", "", text)
    missing = re.match(r"(?:Skipped: )?the file does not define (\w+)(.*)", text)
    if missing:
        return f"{missing[1]}: {missing[2].strip(' ()') or 'the file does not define it'}"
    name = report.nodeid.split("::")[-1].partition("[")
    part = name[2].rpartition("-")[2].rstrip("]") if name[0] == "test_pair" else ""
    line = " ".join(text.splitlines()[0].split()) if text else "failed"
    return f"{part or name[0]}: {line}"[:300]


def nothing(name, reason, confined=True):
    """The grade of a file without points, for one reason."""
    statements = [statement.name for statement in ASSIGNMENTS[name].statements]
    return Grade(dict.fromkeys(statements, 0.0), dict.fromkeys(statements, ""), reason, confined)


def judge(path, name, seed, call=10.0):
    """The `Grade` of one submission for the assignment `name`."""
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
            return nothing(name, submission.lost, submission.confined)
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
        if submission.lost:  # it broke a rule, or died: none of its answers count
            return nothing(name, submission.lost, submission.confined)
    finally:
        submission.close()
    points = {statement.name: verdicts.points(statement) for statement in assignment.statements}
    reasons = {statement.name: verdicts.reason(statement) for statement in assignment.statements}
    return Grade(points, reasons, "; ".join(submission.notes), submission.confined)


def in_a_cell(text):
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "'") else text


def name_of(path, folder=None):
    """A file's name (in `folder`) as text that no terminal takes for a command; two names never become one."""
    name = str(path.relative_to(folder)) if folder else path.name
    shown = (c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in name)
    return in_a_cell("".join(shown))


def pool_of(workers):
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def grade(name, paths, seed, workers=None):
    """Yield (path, `Grade`) for each file, in order."""
    workers = workers or os.cpu_count()
    with pool_of(workers) as pool:
        jobs = [pool.submit(judge, str(path), name, seed) if regular(path) else None for path in paths]
        for path, job in zip(paths, jobs, strict=True):
            try:
                try:
                    yield path, job.result() if job else nothing(name, not_graded(path))
                except BrokenProcessPool:  # this file, or one in parallel, ended the judge: again, alone
                    with pool_of(1) as alone:
                        yield path, alone.submit(judge, str(path), name, seed).result()
            except BrokenProcessPool:
                yield path, nothing(name, f"it took the judge down, or kept it busy for more than {LIMIT} s")
            except Exception as error:  # one file must not cost the others their grades
                yield path, nothing(name, f"it could not be judged ({type(error).__name__}: {error})")


def regular(path):
    """Whether it is a regular file, not a link."""
    return stat.S_ISREG(path.lstat().st_mode)


def not_graded(path):
    """Why there is nothing to judge at a path."""
    return "the folder holds no .py file" if path.is_dir() and path.suffix != ".py" else "it is no regular file"


def submissions_in(folder):
    """All .py files of a folder and its sub-folders, other things of such names, and folders without any.

    Hidden folders and `__pycache__` are left out.
    """
    found = []
    for place, inside, files in os.walk(folder):
        named = [name for name in (*inside, *files) if name.endswith(".py")]
        found += [Path(place, name) for name in named]
        inside[:] = [name for name in inside if not name.startswith((".", "__")) and not name.endswith(".py")]
        if not named and not inside and Path(place) != folder:
            found.append(Path(place))
    return sorted(found)


def shown(name, grade, of):
    """A file's grade for the terminal: one line, and one for each statement that lacks points."""
    yield f"{name}: {sum(grade.points.values()):g} of {of}" + (f"; {plain(grade.reason)}" if grade.reason else "")
    for statement, reason in grade.reasons.items():
        if reason:
            yield f"    {statement}: {plain(reason)}"


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m equivalence_tests.grade", description=__doc__.splitlines()[0])
    parser.add_argument("assignment", choices=sorted(ASSIGNMENTS), help="which assignment")
    parser.add_argument("submissions", type=Path, help="a folder of .py files (sub-folders too), or one file")
    parser.add_argument(
        "--out", type=Path, default=Path("grades.csv"), help="the report to write (default: grades.csv)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="files judged at once (default: all cores)")
    parser.add_argument("--seed", type=int, help="repeat the round with this seed (default: a new one)")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # a name may have characters that the terminal lacks
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    folder = options.submissions if options.submissions.is_dir() else None
    paths = submissions_in(folder) if folder else [options.submissions]
    if not any(path.name.endswith(".py") for path in paths) or not (
        options.submissions.is_dir() or options.submissions.is_file()
    ):
        print(f"error: {options.submissions} holds no .py file", file=sys.stderr)
        return 2
    statements = [statement.name for statement in ASSIGNMENTS[options.assignment].statements]
    rows, unconfined = [], 0
    for path, got in grade(options.assignment, paths, seed, options.workers):
        unconfined += not got.confined
        name, reasons = name_of(path, folder), [got.reason, *(got.reasons[s] for s in statements)]
        points = [got.points[s] for s in statements]
        rows.append([name, round(sum(points), 1), *points, *(in_a_cell(plain(reason)) for reason in reasons)])
        print(*shown(name, got, ASSIGNMENTS[options.assignment].points), sep="\n")
    partial = options.out.with_name(options.out.name + ".part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        header = ["file", "total", *statements, "reason", *(f"{statement}: reason" for statement in statements)]
        csv.writer(file).writerows([header, *rows])
    partial.replace(options.out)
    print(f"written to {options.out}; --seed {seed} repeats this round")
    if unconfined:
        help_ = "without the kernel's help, which needs Linux and libseccomp: see docs/teachers.md"
        print(f"note: {unconfined} of the files ran {help_}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
