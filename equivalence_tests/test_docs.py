"""The documentation is correct: cited equations exist, errata name tests that exist, the README's code runs."""

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import reference
from reference.network import FORWARD

from .implementations import CONTRACT

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


PACKAGES = ("reference", "accelerated", "equivalence_tests")
HIDDEN = ("tests", "__pycache__")
TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9][0-9]_*.py"))


def sources(*folders):
    return [path for folder in (*PACKAGES, *folders) for path in (ROOT / folder).rglob("*.py")]


def test_every_cited_equation_exists():
    text = (ROOT / "docs" / "derivations.md").read_text()
    known = re.findall(r"\\tag\{(\d+\.\d+)\}", text)
    assert len(known) == len(set(known)) >= 25
    cited = {}
    for path in [*sources("tutorials"), *(ROOT / "tutorials").rglob("*.md")]:
        for line in path.read_text().splitlines():
            if "derivations" in line and path != Path(__file__):
                for number in re.findall(r"\b(\d+\.\d+)\b", line):
                    cited.setdefault(number, path.name)
    assert len(cited) >= 12
    missing = {number: name for number, name in cited.items() if number not in known}
    assert not missing, f"cited but not in docs/derivations.md: {missing}"


def test_every_test_that_the_docs_name_exists():
    defined = {name for path in sources() for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)}
    files = {path.name for path in sources()}
    for page in (ROOT / "docs").glob("*.md"):
        for name in re.findall(r"`(test_\w+)`", page.read_text()):
            assert name in defined, f"{page.name} names {name}"
        for name in re.findall(r"`(?:equivalence_tests/)?(test_\w+\.py)`", page.read_text()):
            assert name in files, f"{page.name} names {name}"


def test_every_erratum_that_can_be_computed_has_a_row():
    page = (ROOT / "docs" / "errata.md").read_text()
    tests = re.findall(r"^def (test_\w+)", (ROOT / "equivalence_tests" / "test_errata.py").read_text(), re.M)
    assert [name for name in tests if name not in page] == []


def test_the_contracts_page_has_every_signature():
    page = (ROOT / "docs" / "contract.md").read_text()
    for name in CONTRACT:
        bare = [p.replace(annotation=p.empty) for p in inspect.signature(getattr(reference, name)).parameters.values()]
        signature = f"`{name}{inspect.Signature(bare)}`"
        assert signature in page, f"docs/contract.md lacks {signature}"
    assert f"({len(CONTRACT)} functions)" in README
    nodes = {op for row in re.findall(r"^\| ([\w, ()]+?) \|", page, re.M) for op in re.findall(r"[a-z]\w+", row)}
    assert set(FORWARD) <= nodes


def test_links_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "tutorials").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:  # the site copies tutorials into docs
                assert (page.parent / target).exists() or (page.parent.parent / target).exists(), (
                    f"{page.name} links to {target}"
                )


def blocks(language):
    """The fenced blocks of the README in a language, "" for those without one."""
    parts = re.split(r"^```(\w*)$", README, flags=re.M)
    return [text for fence, text in zip(parts[1::4], parts[2::4], strict=True) if fence == language]


def test_the_two_commands_stand_in_the_readme_and_in_ci():
    commands = [line for block in blocks("") for line in block.splitlines()]
    assert "pip install -e . && python -m accelerated.run --bits 8" in commands
    assert "pip install -e '.[test]' && pytest" in commands
    assert "pip install -e '.[test]' && pytest" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("which", [0, 1], ids=["cnn", "transformer"])
def test_the_readmes_ten_lines_run_as_they_stand(which, tmp_path):
    first, second = blocks("python")
    code = (first, second)[which]
    (tmp_path / "ten_lines.py").write_text(code)
    result = subprocess.run([sys.executable, "ten_lines.py"], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    assert "bit for bit: True" in result.stdout


def test_the_two_walks_of_contributing_run_as_they_stand(tmp_path):
    """A schedule in one entry, a data set in one; then the command line runs with both."""
    walks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
    assert len(walks) == 2
    arguments = ["--data", "checks", "--schedules", "late", "--epochs", "2", "1", "1", "--times", "2", "--levels", "4",
                 "--batch", "20", "--out", str(tmp_path / "runs"), "--device", "cpu"]  # fmt: skip
    code = "\n".join([*walks, "import sys", "from accelerated import run", f"sys.exit(run.main({arguments}))"])
    (tmp_path / "walks.py").write_text(code)
    done = subprocess.run([sys.executable, "walks.py"], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "late has the quantised network's answer in every bit" in " ".join(done.stdout.split())


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_says_what_it_does_shows_it_asserts_it_and_asks(path):
    """The site runs them (.ci/run); here is what each must consist of."""
    text = path.read_text()
    cells = [cell.splitlines() for cell in text.split("# %%")[1:]]
    for word in ("**You will**", "**You will learn**", "**You need**"):
        assert word in text.split("# %%")[1], f"{path.name} does not open with {word}"
    prose = "\n".join(line for cell in cells if cell[0] == " [markdown]" for line in cell)
    assert len(re.findall(r"^# [123]\. ", prose.partition("## Questions")[2], re.M)) == 3
    assert text.count("plt.show()") >= 2
    code = "\n".join(line for cell in cells if cell[0] == "" for line in cell)
    assert len(re.findall(r"^\s*assert ", code, re.M)) >= 4


def test_tutorials_are_numbered_and_on_the_site():
    page = (ROOT / "docs" / "tutorials.md").read_text()
    assert [int(path.name[:2]) for path in TUTORIALS] == list(range(1, len(TUTORIALS) + 1))
    assert re.findall(r"^tutorials/(\w+)$", page, re.M) == [path.stem for path in TUTORIALS]


def test_the_readmes_say_the_same():
    """The Chinese README has the English one's commands and code, in the same order."""
    fenced = r"^```\w*\n(.*?)^```$"
    chinese = (ROOT / "README.zh-CN.md").read_text()
    code = [block for block in re.findall(fenced, README, re.M | re.S) if "reference/" not in block]
    assert [block for block in re.findall(fenced, chinese, re.M | re.S) if "reference/" not in block] == code
    inline = r"`(python -m [^`]*|pip [^`]*|pytest [^`]*)`"
    assert re.findall(inline, chinese) == re.findall(inline, README)
    assert "README.zh-CN.md" in README


def test_the_tree_in_the_readme_is_the_tree():
    (tree,) = [block for block in blocks("") if "reference/" in block]
    for folder in (*PACKAGES, "isospike", "tutorials", "docs"):
        assert f"{folder}/" in tree
    named = re.findall(r"(\w+)/", "\n".join(re.findall(r"^  (\S.*?)  ", tree, re.M)))
    folders = [path.name for path in (ROOT / "accelerated").iterdir() if path.is_dir() and path.name not in HIDDEN]
    assert sorted(named) == sorted(folders), "every folder of the backend, and no other"


def test_what_mirrors_the_reference_shows_in_the_listing():
    """The backend's top folder holds files of the reference's names, private files, and the command line only."""
    names = [{path.name for path in (ROOT / side).glob("*.py")} for side in ("reference", "accelerated")]
    assert names[0] - names[1] == set()
    assert names[1] - names[0] == {"__main__.py", "_native.py", "run.py"}


@pytest.mark.parametrize("package", ["isospike", "reference", "accelerated", "equivalence_tests"])
def test_the_packages_are_ours(package):
    """A package called `reference` exists elsewhere and would install the same name."""
    module = __import__(package)
    assert Path(module.__file__).parent == ROOT / package


def test_the_reference_imports_numpy_alone():
    others = {"torch", "torchvision", "timm", "matplotlib", "sklearn", "scipy", "accelerated"}
    code = f"import sys, reference; print(sorted({{m.split('.')[0] for m in sys.modules}} & {others}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_reference_files_can_be_read_in_one_sitting():
    long = {p.name: n for p in (ROOT / "reference").glob("*.py") if (n := len(p.read_text().splitlines())) > 180}
    assert not long, long


def test_packages_are_named_explicitly():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [
        "isospike",
        "reference",
        "accelerated",
    ]
    assert config["project"]["name"] == "isospike"
