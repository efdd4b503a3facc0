"""The free cores of this machine: threads that compete for cores are many times slower than fewer threads."""

import os
import time

import torch

STAT = "/proc/stat"


def _idle():
    """Idle time of all cores together, in clock ticks."""
    with open(STAT) as file:
        return int(file.readline().split()[4])


def free_cores(seconds=0.2):
    """The number of idle cores at the moment; None if the system does not report it."""
    try:
        before = _idle()
        time.sleep(seconds)
        return (_idle() - before) / (seconds * os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return None


def choose_threads(say):
    """Use as many threads as there are free cores, and `say` so if that is fewer than usual.

    OMP_NUM_THREADS, if set, decides. Another number of threads rounds differently.
    """
    usual, free = torch.get_num_threads(), free_cores()
    if "OMP_NUM_THREADS" in os.environ or free is None:
        return
    threads = max(1, min(usual, round(free)))
    if threads < usual:
        torch.set_num_threads(threads)
        word = "thread" if threads == 1 else "threads"
        say(f"other programs keep this machine busy ({free:.1f} of {os.cpu_count()} cores are free): computing with "
            f"{threads} {word}; set OMP_NUM_THREADS to choose, which changes how sums round")  # fmt: skip
