"""What holds for all tests."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread a worker, subprocesses included: threads would fight for the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_terminal_summary(terminalreporter):
    """What was seen: of an equality the share of neurons that spike, of a load the times, and so on."""
    every = [report for reports in terminalreporter.stats.values() for report in reports]
    seen = {value for report in every for key, value in getattr(report, "user_properties", ()) if key == "seen"}
    for line in sorted(seen):
        terminalreporter.write_line(line)
