"""The grader: solutions get full marks, starters nothing, and a file that cheats gets nothing and the reason."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from .assignments import ASSIGNMENTS
from .grade import in_a_cell

ROOT = Path(__file__).parent.parent
SOLUTIONS, STARTERS = ROOT / "equivalence_tests" / "solutions", ROOT / "tutorials" / "assignments"
REFERENCE = str(ROOT / "reference" / "neuron.py")
HONEST = (SOLUTIONS / "a1.py").read_text()

CHEATS = {  # name: (what it does, with a whole solution behind it, what the report must say)
    "exits": ("import os\nos._exit(0)", "its process ended (exit code 0)"),
    "leaves": ("raise SystemExit(0)", "cannot be imported: SystemExit"),
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
    "eats_memory": ("x = bytearray(10**11)", "MemoryError"),
    "hangs_when_asked": ("HANG", "a call took longer"),
    "imports_when_asked": ("IMPORT", "it imported reference"),
}
LATER = {  # broken rules that only show when a function is called
    "HANG": "\n\ndef lif_run(*_):\n    while True:\n        pass\n",
    "IMPORT": "\n\ndef lif_run(*arguments):\n    import reference\n    return reference.lif_run(*arguments)\n",
}
EMPTY_HANDED = {  # they break no rule, and give no right answer
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
    assert in_a_cell("a\x1b[2Jb\nc\ud800") == "a?[2Jb c\\ud800"
    assert len(in_a_cell("x" * 10**6)) == 300


def graded(assignment, folder, out):
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
        assert rows[f"{name}.py"]["reason"]


@pytest.mark.parametrize("name", sorted(ASSIGNMENTS))
def test_solutions_score_everything_and_starters_nothing(name, tmp_path):
    assignment = ASSIGNMENTS[name]
    folder = tmp_path / "submissions"
    folder.mkdir()
    (folder / "solution.py").write_text((SOLUTIONS / f"{name}.py").read_text())
    (folder / "starter.py").write_text((STARTERS / f"{name}.py").read_text())
    rows = graded(name, folder, tmp_path / "grades.csv")
    assert float(rows["solution.py"]["total"]) == assignment.points == 100, rows["solution.py"]["reason"]
    assert float(rows["starter.py"]["total"]) == 0, rows["starter.py"]
    assert set(rows["starter.py"]) == {"file", "total", *(s.name for s in assignment.statements), "reason"}


def test_partial_credit_and_a_reason_that_teaches(tmp_path):
    """A strict comparison in the IF neuron: the statements about it lose points, the others do not."""
    folder = tmp_path / "submissions"
    folder.mkdir()
    broken = HONEST.replace("membrane * leak + current\n        spike = (membrane >= threshold)",
                            "membrane * leak + current\n        spike = (membrane > threshold)")  # fmt: skip
    assert broken != HONEST
    (folder / "strict.py").write_text(broken)
    row = graded("a1", folder, tmp_path / "grades.csv")["strict.py"]
    assert float(row["T2"]) == 20
    assert float(row["T3"]) == 25
    assert float(row["T1"]) < 25
    assert 0 < float(row["if"]) < 20
    assert "if_run" in row["reason"]
    assert "expected" in row["reason"]


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
