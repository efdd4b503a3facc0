"""The grader: solutions get full marks, starters nothing, and a file that cheats gets nothing and the reason."""

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from . import grade
from .assignments import ASSIGNMENTS
from .grade import in_a_cell, name_of
from .sandbox import plain
from .sandboxed import OFFERED

ROOT = Path(__file__).parent.parent
SOLUTIONS, STARTERS = ROOT / "equivalence_tests" / "solutions", ROOT / "tutorials" / "assignments"
REFERENCE = str(ROOT / "reference" / "neuron.py")
HONEST = (SOLUTIONS / "a1.py").read_text()

CHEATS = {  # name: (what it does, with a whole solution behind it, what the report must say)
    "exits": ("import os\nos._exit(0)", "its process ended (exit code 0)"),
    "leaves": ("raise SystemExit(0)", "it cannot be imported: line 1, column 1: SystemExit: 0"),
    "hangs": ("while True: pass", "a call took longer"),
    "forks": ("import os\nos.fork()", "it called os.fork"),
    "spawns": ("import subprocess\nsubprocess.run(['true'])", "it imported subprocess"),
    "shells": ("import os\nos.system('true')", "it called os.system"),
    "patches_pytest": ("import pytest\npytest.main = lambda *a: 0", "it imported pytest"),
    "imports_reference": ("from reference import *", "it imported reference"),
    "imports_accelerated": ("from accelerated import *", "it imported accelerated"),
    "reads_the_reference": (f"exec(open({REFERENCE!r}).read())", "it opened"),
    "reads_by_number": (f"import os\nos.read(os.open({REFERENCE!r}, 0), 9)", "it opened"),
    "writes": ("open('report.txt', 'w').write('100 %')", "it opened"),
    "phones": ("import socket\nsocket.create_connection(('localhost', 80))", "it imported socket"),
    "kills_the_judge": ("import os\nos.kill(os.getppid(), 9)", "it called os.kill"),
    "digs": ("import gc\ngc.get_objects()", "it imported gc"),
    "forges": (
        "import os\nfor fd in range(3, 20):\n try: os.write(fd, b'{} all passed')\n except OSError: pass",
        "it wrote to the pipe itself",
    ),
    "announces_too_much": (
        "import os\nfor fd in range(3, 20):\n try: os.write(fd, b'99999999999\\n')\n except OSError: pass",
        "a message of 99999999999 bytes",
    ),
    "nests": (
        "import os\nfor fd in range(3, 20):\n try: os.write(fd, b'50000\\n' + b'[' * 50000)\n except OSError: pass",
        "it wrote to the pipe itself",
    ),
    "loads_by_another_name": (
        "import sys\nm = sys.modules['_frozen_importlib_external']\nf = sys.modules['_frozen_importlib']\n"
        "p = sys.base_prefix + '/x/_posixsubprocess.so'\nl = m.ExtensionFileLoader('numpy._posixsubprocess', p)\n"
        "l.create_module(f.ModuleSpec('numpy._posixsubprocess', l, origin=p))",
        ": ImportError",
    ),
    "reads_what_numpy_holds": ("import numpy as np\nnp._core._internal.ctypes.CDLL(None)", "it called ctypes.dlopen"),
    "eats_memory": ("x = bytearray(10**11)", "it cannot be imported: line 1, column 5: MemoryError"),
    "hangs_when_asked": ("HANG", "a call took longer"),
    "imports_when_asked": ("IMPORT", "it imported reference"),
}
LATER = {  # broken rules that only show when a function is called
    "HANG": "\n\ndef lif_run(*_):\n    while True:\n        pass\n",
    "IMPORT": "\n\ndef lif_run(*arguments):\n    import reference\n    return reference.lif_run(*arguments)\n",
}
REPORT = """
import numpy as np
class Report:
    latency, units_that_differ, units_that_differ_last, spikes_per_neuron, settled = 12, 0.0, 0.0, 2.0, True
    nonzero_share = {"act0": 1.0}
    def __init__(self, out, counts): self.logits, self.counts = out, counts
Report.__dataclass_fields__ = dict.fromkeys("logits counts latency units_that_differ units_that_differ_last "
                                            "spikes_per_neuron settled nonzero_share".split())
"""
SAYS_NOTHING = {  # files that answer in a valid form, or in none, without computing
    "empty": "def {name}(*_): return np.zeros(0), np.zeros(0)\n",
    "one_empty": "def {name}(*_): return np.zeros(0)\n",
    "zeros": "def {name}(x, *_): return np.zeros_like(x), np.zeros_like(x)\n",
    "one_zero": "def {name}(x, *_): return np.zeros_like(x)\n",
    "equal_to_itself": (
        "def {name}(x, *_): return Report(np.zeros((1, 1)), {{f'act{{i}}': np.ones(1) for i in range(9)}})\n"
    ),
}
POINTER = """
class R: __dataclass_fields__ = {"__array_interface__": 0}
r = R()
r.__array_interface__ = {"data": (8, False), "shape": (1,), "typestr": "<f8", "version": 3}
def if_run(*_): return r
"""
EMPTY_HANDED = {  # they break no rule, or one of the judge's own, and give no right answer
    "points_into_the_judge": POINTER,
    "answers_at_length": "def if_run(*_): return [[]] * 10**6\n",
    "prints_a_report": "print('T1: 4 passed, T2: 4 passed, T3: 4 passed; 100 of 100')\ndef if_run(*_): return 0, 0\n",
    "always_equal": (
        "class Right:\n    def __eq__(self, _): return True\n    def __getattr__(self, _): return lambda *_: self\n"
        + "".join(f"def {name}(*_): return Right(), Right()\n" for name in ASSIGNMENTS["a1"].names)
    ),
    "patches_numpy": (
        "import numpy as np\nnp.floor = np.clip = lambda *a: a[0]\nnp.testing = None\n"
        + "".join(f"def {name}(z, *_): return z, z\n" for name in ASSIGNMENTS["a1"].names)
    ),
}


def test_text_of_a_submission_is_harmless_in_a_report():
    assert in_a_cell("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert plain("a\x1b[2Jb\nc\ud800") == "a?[2Jb c\\ud800"
    assert len(plain("x" * 10**6)) == 300


def test_two_names_never_become_one():
    """Letters of any alphabet stay; control characters, and text that looks like their escapes, are escaped."""
    names = ["李.py", "=a", "'=a", "a b", "a  b", "a\tb", "a\\tb", "a\x1bb", "a\\x1bb", "\ud800", "\\ud800", "x" * 255]
    shown = [name_of(Path(name)) for name in names]
    assert shown[:4] == ["李.py", "'=a", "''=a", "a b"]
    assert len(set(shown)) == len(names)
    assert all(text.isprintable() for text in shown)


def test_the_rules_list_what_is_offered():
    rules = (STARTERS / "README.md").read_text().partition("## Rules")[2].partition("and nothing else")[0]
    listed = set(re.findall(r"`([\w.]+)`", rules))
    assert listed == {name.removeprefix("numpy.").removesuffix(".abc") for name in OFFERED}


FRESH = ("--workers", "2")  # no seed: a round of its own


def graded(assignment, folder, out, *more):
    """{file: row} of the report."""
    command = [
        sys.executable,
        "-m",
        "equivalence_tests.grade",
        assignment,
        str(folder),
        "--out",
        str(out),
        "--workers",
        "2",
        *(more or ("--seed", "0")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    with out.open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_cheating_files_score_nothing_and_say_why(tmp_path):
    folder = tmp_path / "submissions"
    folder.mkdir()
    for name, (trick, _) in CHEATS.items():
        source = HONEST + LATER[trick] if trick in LATER else f"{trick}\n\n{HONEST}"
        (folder / f"{name}.py").write_text(source)
    for name, source in EMPTY_HANDED.items():
        (folder / f"{name}.py").write_text(source)
    (folder / "honest.py").write_text(HONEST)
    rows = graded("a1", folder, tmp_path / "grades.csv")
    assert len(rows) == len(CHEATS) + len(EMPTY_HANDED) + 1
    assert float(rows["honest.py"]["total"]) == 100, rows["honest.py"]["reason"]
    for name, (_, reason) in CHEATS.items():
        row = rows[f"{name}.py"]
        assert float(row["total"]) == 0, (name, row)
        assert reason in row["reason"], (name, row["reason"])
    for name in EMPTY_HANDED:
        assert float(rows[f"{name}.py"]["total"]) == 0, rows[f"{name}.py"]
        assert any(text for column, text in rows[f"{name}.py"].items() if "reason" in column)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", sorted(ASSIGNMENTS))
def test_solutions_score_everything_and_starters_nothing(name, tmp_path):
    assignment = ASSIGNMENTS[name]
    folder = tmp_path / "submissions"
    folder.mkdir()
    (folder / "solution.py").write_text((SOLUTIONS / f"{name}.py").read_text())
    (folder / "starter.py").write_text((STARTERS / f"{name}.py").read_text())
    for kind, line in SAYS_NOTHING.items():
        (folder / f"{kind}.py").write_text(REPORT + "".join(line.format(name=f) for f in assignment.names))
    rows = graded(name, folder, tmp_path / "grades.csv")
    for kind in SAYS_NOTHING:
        assert float(rows[f"{kind}.py"]["total"]) == 0, rows[f"{kind}.py"]
    assert float(rows["solution.py"]["total"]) == assignment.points == 100, rows["solution.py"]["reason"]
    assert float(rows["starter.py"]["total"]) == 0, rows["starter.py"]
    names = [s.name for s in assignment.statements]
    assert list(rows["starter.py"]) == ["file", "total", *names, "reason", *(f"{name}: reason" for name in names)]
    assert all("not written yet" in rows["starter.py"][f"{name}: reason"] for name in names)
    assert not any(rows["solution.py"][f"{name}: reason"] for name in names)


def test_every_round_draws_its_own_inputs_and_a_seed_repeats_it(tmp_path):
    """The file complains of its first input: the same under one seed, another under another."""
    folder = tmp_path / "submissions"
    folder.mkdir()
    (folder / "tells.py").write_text("def schedule_step(total, *_): raise ValueError(total.sum())\n")
    said = [graded("a5", folder, tmp_path / "grades.csv", *seed)["tells.py"]["exact: reason"] for seed in
            (["--seed", "5"], ["--seed", "5"], FRESH, FRESH)]  # fmt: skip
    assert said[0] == said[1]
    assert len(set(said)) == 3, said


def test_what_is_no_file_of_its_own_is_a_row(tmp_path):
    folder = tmp_path / "submissions"
    folder.mkdir()
    (folder / "link.py").symlink_to(SOLUTIONS / "a1.py")
    (folder / "folder.py").mkdir()
    os.mkfifo(folder / "pipe.py")
    rows = graded("a1", folder, tmp_path / "grades.csv")
    assert {name: (row["total"], row["reason"]) for name, row in rows.items()} == dict.fromkeys(
        ("link.py", "folder.py", "pipe.py"), ("0.0", "it is no regular file")
    )


UNHOOKED = """
import os, runpy, socket, sys
module = runpy.run_path(sys.argv[1])
if not module["confine"]():
    os._exit(50)
try:
    {attempt}
except PermissionError:
    os._exit(51)
except OSError as error:
    os._exit(52)
os._exit(53)
"""
ATTEMPTS = {  # what computing does not need, tried without the audit hook
    "open('/etc/passwd')": 51, "open('/proc/self/mem', 'r+b')": 51, "os.mkfifo('/tmp/x')": 51, "os.listdir('/')": 51,
    "os.unlink('/tmp/x')": 51, "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))": 51, "os.dup(0)": 51,
    "os.memfd_create('x')": 51, "os.setsid()": 51, "os.chmod('/tmp', 0o777)": 51, "os.pipe()": 51, "1": 53,
    "os.fork()": -signal.SIGSYS, "os.execv('/bin/true', ['true'])": -signal.SIGSYS, "socket.socket()": -signal.SIGSYS,
    "os.kill(os.getppid(), 0)": -signal.SIGSYS,
    "__import__('_thread').start_new_thread(print, ())": -signal.SIGSYS,
    "os.posix_spawn('/bin/true', ['true'], {})": -signal.SIGSYS,
}  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_kernel_refuses_what_computing_does_not_need(attempt):
    """Experts in CPython can defeat the hook; the kernel also confines a process without it."""
    sandboxed = str(ROOT / "equivalence_tests" / "sandboxed.py")
    command = [sys.executable, "-I", "-S", "-c", UNHOOKED.replace("{attempt}", attempt), sandboxed]
    code = subprocess.run(command, capture_output=True).returncode
    if code == 50:
        pytest.skip("this system has no libseccomp: the audit hook is all there is (docs/teachers.md)")
    assert code == ATTEMPTS[attempt]


def test_partial_credit_and_a_reason_that_teaches(tmp_path):
    """A strict comparison in the IF neuron costs the statements about it, a late leak those about the LIF neuron."""
    folder = tmp_path / "submissions"
    folder.mkdir()
    broken = HONEST.replace("membrane * leak + current\n        spike = (membrane >= threshold)",
                            "membrane * leak + current\n        spike = (membrane > threshold)")  # fmt: skip
    assert broken != HONEST
    (folder / "strict.py").write_text(broken)
    late = HONEST.replace("membrane * leak + current", "(membrane + current) * leak")
    assert late != HONEST
    (folder / "late.py").write_text(late)
    rows = graded("a1", folder, tmp_path / "grades.csv")
    row = rows["late.py"]
    assert 0 < float(row["if"]) < 20
    assert {float(row[name]) / points for name, points in (("T1", 25), ("N1", 10), ("T2", 20), ("T3", 25))} == {1}
    row = rows["strict.py"]
    assert float(row["T2"]) == 20
    assert float(row["T3"]) == 25
    assert float(row["T1"]) == 0
    assert "if_run" in row["T1: reason"]
    assert "expected" in row["T1: reason"]
    assert row["reason"] == row["T2: reason"] == row["T3: reason"] == ""


SPREAD = """
def if_run(z, theta, start=None):
    steps = len(z)
    count = qcfs_level(z.mean(axis=0), theta, steps, 0.5 if start is None else start / theta)
    spikes = (np.arange(steps).reshape(-1, *[1] * count.ndim) < count).astype(z.dtype)
    return spikes, (theta / 2 if start is None else start) + z.sum(axis=0) - theta * count

integrate_then_fire_run = if_run

def lif_run(z, theta, leak, start=None):
    return if_run(z, theta, start)

def st_bif_run(z, theta, *_):
    return if_run(z, theta)

def signed_step(total, sent, theta, levels):
    return np.zeros_like(total)
"""
ITSELF = """
def attention_spiking(x, weights, theta, levels, heads, steps, *_):
    out = attention(x, weights, theta, levels, heads)
    return Simulation(np.stack([out] * steps), 5 * levels, 1.0, {"q": 1.0})

def feed_forward_spiking(x, weights, theta, levels, steps, *_):
    out = feed_forward(x, weights, theta, levels)
    return Simulation(np.stack([out] * steps), 2 * levels, 1.0, {"q": 1.0})
"""


def test_what_follows_from_the_steps_is_worth_nothing_without_them(tmp_path):
    """A neuron that spreads the level's count obeys T1; an attention that repeats its answer equals itself."""
    folder = tmp_path / "submissions"
    folder.mkdir()
    (folder / "spread.py").write_text(HONEST + SPREAD)
    row = graded("a1", folder, tmp_path / "grades.csv")["spread.py"]
    assert float(row["total"]) <= 10 / 3, f"more than qcfs_level alone: {row}"
    (folder / "spread.py").unlink()
    (folder / "itself.py").write_text((SOLUTIONS / "a4.py").read_text() + ITSELF)
    row = graded("a4", folder, tmp_path / "grades.csv")["itself.py"]
    assert (float(row["attention"]), float(row["T5"])) == (25, 0)


HONEST_STYLES = {  # honest submissions: (bytes, what the report must say beside 100 points)
    "bom": (b"\xef\xbb\xbf" + HONEST.encode(), ""),
    "latin": (b"# coding: latin-1\n# f\xfcr Anf\xe4nger\n" + HONEST.encode("latin-1", "replace"), ""),
    "gbk": ("# -*- coding: gbk -*-\n# \u795e\u7ecf\u5143\n".encode("gbk") + HONEST.encode("ascii", "replace"), ""),
    "windows": (HONEST.replace("\n", "\r\n").encode(), ""),
    "star": (f"from numpy import *\n{HONEST}".encode(), ""),
    "integers": (
        (HONEST + "\nfloats = if_run\ndef if_run(z, theta, v0=None):\n    s, v = floats(z, theta, v0)\n"
         "    return s.astype(int), v\n").encode(),
        "if_run returns int64 where float",
    ),
}  # fmt: skip
UNREADABLE = {  # no Python: (bytes, what the report must say)
    "syntax": (b"import numpy as np\n\ndef f(:\n", "line 3, column 7: SyntaxError: invalid syntax, at 'def f(:'"),
    "tabs": (b"def f():\n\tx = 1\n        return x\n", "line 3, column"),
    "utf8": (b"x = 1\n# \xe4\n", "line 2, column 3: byte 0xe4 is not utf-8; save the file as UTF-8"),
    "encoding": (b"# coding: klingon\n", "its encoding is not understood: unknown encoding: klingon"),
    "nulls": (b"x = 1\0\n", "null bytes"),
    "notebook": (b'{"cells": [], "nbformat": 4}\nimport x y', "line 2, column"),
    "missing": (b"import numpy as np\nimport scipy\n", "line 2: it imported scipy, which is not offered"),
    "raises": (b"import numpy\nx = [\n  1 / 0]\n", "line 3, column 3: ZeroDivisionError: division by zero"),
    "name": (b"from math import tau, nothing\n", "line 1, column 1: ImportError: cannot import name 'nothing'"),
}


def test_honest_files_of_any_style_have_all_points_and_no_accusation(tmp_path):
    """Encodings, line ends, star imports, integers; in sub-folders as learning platforms hand them out."""
    folder = tmp_path / "submissions"
    for name, (data, _) in HONEST_STYLES.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "a1.py").write_bytes(data)
    (folder / "handed in late").mkdir()
    rows = graded("a1", folder, tmp_path / "grades.csv")
    assert rows.pop("handed in late")["reason"] == "the folder holds no .py file"
    assert set(rows) == {f"{name}/a1.py" for name in HONEST_STYLES}
    for name, (_, note) in HONEST_STYLES.items():
        row = rows[f"{name}/a1.py"]
        assert float(row["total"]) == 100, (name, row)
        assert note in row["reason"], (name, row["reason"])
        assert row["reason"] == "" or note, (name, row["reason"])


def test_what_is_no_python_says_what_it_is_with_line_and_column(tmp_path):
    """None of them opened a file, or broke any other rule."""
    folder = tmp_path / "submissions"
    folder.mkdir()
    for name, (data, _) in UNREADABLE.items():
        (folder / f"{name}.py").write_bytes(data)
    rows = graded("a1", folder, tmp_path / "grades.csv")
    for name, (_, reason) in UNREADABLE.items():
        assert reason in rows[f"{name}.py"]["reason"], (name, rows[f"{name}.py"]["reason"])
        assert "opened" not in rows[f"{name}.py"]["reason"], name


def _stuck(*_):
    signal.alarm(1)
    while True:
        pass


def test_a_judge_that_is_kept_busy_ends_and_the_round_goes_on(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text(HONEST)
    monkeypatch.setattr(grade, "_judged", lambda *_: signal.alarm(0))
    assert grade.judge(tmp_path / "a.py", "a1", 0) > grade.LIMIT - 2, "seconds that the alarm has left"
    monkeypatch.setattr(grade, "judge", _stuck)
    (row,) = grade.grade("a1", [tmp_path / "a.py"], 0, 1)
    assert set(row[1].points.values()) == {0.0}
    assert "took the judge down" in row[1].reason


def test_bad_calls_of_the_grader_say_so(tmp_path):
    command = [
        sys.executable,
        "-m",
        "equivalence_tests.grade",
        "a1",
        str(tmp_path),
        "--out",
        str(tmp_path / "grades.csv"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: {tmp_path} holds no .py file"
    assert not (tmp_path / "grades.csv").exists()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_submissions_in_ten_minutes(tmp_path, record_property):
    import time

    folder = tmp_path / "submissions"
    folder.mkdir()
    for i in range(100):
        (folder / f"student{i:03}.py").write_text(HONEST + f"\n# {i}\n")
    start = time.monotonic()
    rows = graded("a1", folder, tmp_path / "grades.csv")
    seconds = time.monotonic() - start
    record_property("seen", f"grading 100 submissions took {seconds:.0f} s")
    assert {row["total"] for row in rows.values()} == {"100.0"}
    assert seconds < 600
