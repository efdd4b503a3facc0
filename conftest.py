"""What holds for all tests."""

import os

# One thread a worker, subprocesses included: threads would fight for the cores. Always a fixed number: on a busy machine,
# runs would otherwise choose fewer and say so.
IN_PARALLEL = "PYTEST_XDIST_WORKER" in os.environ
os.environ.setdefault("OMP_NUM_THREADS", "1" if IN_PARALLEL else str(os.cpu_count()))


def pytest_terminal_summary(terminalreporter):
    """What was seen: of an equality the share of neurons that spike, of a load the times, and so on."""
    every = [report for reports in terminalreporter.stats.values() for report in reports]
    seen = {value for report in every for key, value in getattr(report, "user_properties", ()) if key == "seen"}
    for line in sorted(seen):
        terminalreporter.write_line(line)
