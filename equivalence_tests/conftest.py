"""`pytest equivalence_tests --impl reference|accelerated|path/to/file.py` (default: both); see README.md."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from .assignments import ASSIGNMENTS
from .implementations import CONTRACT, RUNNING, Missing, load
from .verdicts import Verdicts

ours = {
    "derandomize": True,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": False,
    "report_multiple_bugs": False,
}
settings.register_profile("default-round", max_examples=100, **ours)
quick = {"max_examples": 60, "phases": [Phase.explicit, Phase.generate]}  # no shrinking
settings.register_profile("no-shrinking", **quick, **ours)
settings.register_profile("grading", **quick, **ours | {"derandomize": False, "database": None})  # --hypothesis-seed
settings.load_profile("default-round")

_loaded = {}


def pytest_addoption(parser):
    parser.addoption(
        "--impl", action="append", default=[], help="reference, accelerated or the path of a file (default: both)"
    )
    parser.addoption("--engine", help="dense, event or auto: what the accelerated backend streams on (default: dense)")
    parser.addoption("--first-seed", type=int, default=0, help="where the seeds of numbered networks begin")


def _names(config):
    return config.getoption("--impl") or ["reference", "accelerated"]


def pytest_configure(config):
    for name in config.getoption("--impl"):
        path = Path(name)
        if name not in ("reference", "accelerated", *RUNNING) and not (
            path.is_file() or (path / "__init__.py").is_file()
        ):
            raise pytest.UsageError(
                f"--impl {name}: no such file; give reference, accelerated or the path of a .py file"
            )
        try:
            load(name)
        except Exception as error:  # a student's file can raise anything
            raise pytest.UsageError(f"--impl {name} cannot be imported: {type(error).__name__}: {error}") from error


def pytest_generate_tests(metafunc):
    if "impl" in metafunc.fixturenames:
        names = _names(metafunc.config)
        if "partner" in metafunc.fixturenames and {"reference", "accelerated"} <= set(names):
            names = [name for name in names if name != "reference"]  # two sides are compared once, not once from each
        metafunc.parametrize("impl", names, ids=[name.rsplit("/", 1)[-1] for name in names], indirect=True)


def pytest_collection_modifyitems(config, items):
    """Proofs, errata and mutants do not judge an implementation: with --impl they run for the reference only."""
    if "reference" not in _names(config):
        inside = [item for item in items if "equivalence_tests" in item.nodeid]
        dropped = [item for item in inside if "impl" not in item.fixturenames]
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]
    files = [load(name) for name in _names(config) if name not in ("reference", "accelerated", *RUNNING)]
    if files and all(assignments_of(file) for file in files):  # other tests need names outside their assignments
        tests = [
            test for file in files for a in assignments_of(file).values() for s in a.statements for test in s.tests
        ]
        listed = Verdicts(tests)
        config.hook.pytest_deselected(items=[item for item in items if not listed.test_of(item.nodeid)])
        items[:] = [item for item in items if listed.test_of(item.nodeid)]


def assignments_of(impl):
    """{name: assignment} of those whose functions a file has, written or not; empty for a file with many more names."""
    has = {name for name in CONTRACT if callable(getattr(impl.module, name, None))}
    if len(has) > len(CONTRACT) // 2:
        return {}
    return {key: a for key, a in ASSIGNMENTS.items() if all(callable(getattr(impl.module, n, None)) for n in a.names)}


@pytest.fixture
def impl(request):
    """The implementation under test."""
    if request.param not in _loaded:
        _loaded[request.param] = load(request.param)
        _loaded[request.param].engine = request.config.getoption("--engine")
    return _loaded[request.param]


@pytest.fixture
def partner(impl):
    """What an implementation is compared with: the reference; the reference itself with the accelerated backend."""
    return load("accelerated" if impl.name == "reference" else "reference")


def pytest_terminal_summary(terminalreporter, config):
    """For a file of your own: its results, and the names that it lacks."""
    for name in config.getoption("--impl"):
        if name not in ("reference", "accelerated"):
            judge(terminalreporter, load(name))


def judge(terminalreporter, impl):
    """The result of each statement on a file of your own, and the names that it lacks."""
    fates = {}
    for fate in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(fate, ()):
            for statement in re.findall(r"::test_(T[1-5]|N1|G1)_", report.nodeid):
                fates.setdefault(statement, {}).setdefault(fate, []).append(report)
    for statement, by_fate in sorted(fates.items()):
        counts = ", ".join(f"{len(reports)} {fate}" for fate, reports in by_fate.items())
        terminalreporter.write_line(f"{statement}: {counts}")
    assignments = assignments_of(impl)
    for name in dict.fromkeys(name for a in assignments.values() for name in a.names) or CONTRACT:
        try:
            impl.native(name)
        except Missing as hint:
            terminalreporter.write_line(f"missing name: {hint.name}")
    for key, assignment in assignments.items():
        verdicts = Verdicts([test for statement in assignment.statements for test in statement.tests])
        for fate in ("passed", "failed", "error", "skipped"):
            for report in terminalreporter.stats.get(fate, ()):
                verdicts.add(report)
        if all(verdicts.ran(statement) for statement in assignment.statements):
            points = {s.name: (verdicts.points(s), s.points) for s in assignment.statements}
            columns = ", ".join(f"{name} {got:g} of {of}" for name, (got, of) in points.items())
            terminalreporter.write_line(f"{key}: {columns}; {sum(got for got, _ in points.values()):g} points in all")


@pytest.fixture
def first_seed(request):
    """The number of the first random network: 0 here, another in each round of grading."""
    return request.config.getoption("--first-seed")


@pytest.fixture(params=[0.4, pytest.param(30, marks=pytest.mark.long)], ids=["short", "long"])
def rounds(request):
    """`@rounds(n)` sets the number of examples: 0.4 n in the default round, 30 n in its twin that `-m long` runs."""
    if request.config.getoption("--hypothesis-profile") in ("no-shrinking", "grading"):
        return lambda n: settings(max_examples=min(n, settings().max_examples))
    return lambda n: settings(max_examples=max(2, int(n * request.param)))


@pytest.fixture
def seen(record_property):
    """Report where an equality was tested: `seen("T5 ...: 40 networks, ...")` ends up under the test report."""
    return lambda line: record_property("seen", line)
