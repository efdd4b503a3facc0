"""`pytest equivalence_tests --impl reference|accelerated|path/to/file.py` (default: both); see README.md."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from .implementations import CONTRACT, Missing, load

ours = {
    "derandomize": True,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": False,
    "report_multiple_bugs": False,
}
settings.register_profile("default-round", max_examples=100, **ours)
settings.register_profile("no-shrinking", max_examples=60, phases=[Phase.explicit, Phase.generate], **ours)
settings.load_profile("default-round")

_loaded = {}

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread a worker, subprocesses included: threads would fight for the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption(
        "--impl", action="append", default=[], help="reference, accelerated or the path of a file (default: both)"
    )


def _names(config):
    return config.getoption("--impl") or ["reference", "accelerated"]


def pytest_configure(config):
    for name in config.getoption("--impl"):
        path = Path(name)
        if name not in ("reference", "accelerated") and not (path.is_file() or (path / "__init__.py").is_file()):
            raise pytest.UsageError(
                f"--impl {name}: no such file; give reference, accelerated or the path of a .py file"
            )


def pytest_generate_tests(metafunc):
    if "impl" in metafunc.fixturenames:
        names = _names(metafunc.config)
        metafunc.parametrize("impl", names, ids=[name.rsplit("/", 1)[-1] for name in names], indirect=True)


def pytest_collection_modifyitems(config, items):
    """Proofs, errata and mutants judge no implementation: with --impl they run for the reference alone."""
    if "reference" not in _names(config):
        inside = [item for item in items if "equivalence_tests" in item.nodeid]
        dropped = [item for item in inside if "impl" not in item.fixturenames]
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


@pytest.fixture
def impl(request):
    """The implementation under test."""
    if request.param not in _loaded:
        _loaded[request.param] = load(request.param)
    return _loaded[request.param]


@pytest.fixture
def partner(impl):
    """What an implementation is compared with: the reference; the reference itself with the accelerated backend."""
    return load("accelerated" if impl.name == "reference" else "reference")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """A name that a student's file lacks skips the tests that need it; ours must have them all."""
    outcome = yield
    error = outcome.excinfo and outcome.excinfo[1]
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, Missing) and item.funcargs["impl"].name not in ("reference", "accelerated"):
        item.user_properties.append(("missing", str(error)))
        outcome.force_exception(pytest.skip.Exception(f"the file does not define {error}"))


def pytest_terminal_summary(terminalreporter):
    """What each equality was seen on, and which names a file lacks."""
    lines, missing = set(), set()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for key, value in getattr(report, "user_properties", ()):
                (lines if key == "seen" else missing if key == "missing" else set()).add(value)
    for line in sorted(lines):
        terminalreporter.write_line(line)
    for name in sorted(missing, key=lambda line: CONTRACT.index(line.split()[0])):
        terminalreporter.write_line(f"missing name: {name}")


@pytest.fixture(params=[1, pytest.param(30, marks=pytest.mark.long)], ids=["short", "long"])
def rounds(request):
    """`@rounds(n)` sets the number of examples: n in the default round, 30 n in its twin that `-m long` runs."""
    if request.config.getoption("--hypothesis-profile") == "no-shrinking":
        return lambda n: settings(max_examples=min(n, settings().max_examples))
    return lambda n: settings(max_examples=n * request.param)


@pytest.fixture
def seen(record_property):
    """Say beside an equality what it was seen on: `seen("T5 ...: 40 networks, ...")` ends up under the test report."""
    return lambda line: record_property("seen", line)
