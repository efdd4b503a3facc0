"""What holds for all tests."""

import os
from collections import Counter

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread a worker, subprocesses included: threads would fight for the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a parametrised test that is `sampled(n)`, every n-th case is run by default, and the others if long."""
    seen: Counter = Counter()
    for item in items:
        for mark in item.iter_markers("sampled"):
            if seen[item.function] % mark.args[0]:
                item.add_marker("long")
            seen[item.function] += 1


def pytest_terminal_summary(terminalreporter):
    """What was seen: of an equality the share of neurons that spike, of a load the times, and so on."""
    every = [report for reports in terminalreporter.stats.values() for report in reports]
    seen = {value for report in every for key, value in getattr(report, "user_properties", ()) if key == "seen"}
    for line in sorted(seen):
        terminalreporter.write_line(line)
