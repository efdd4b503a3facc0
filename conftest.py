"""What holds for all tests."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread a worker, subprocesses included: threads would fight for the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
