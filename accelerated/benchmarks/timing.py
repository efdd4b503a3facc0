"""Times of candidates in interleaved rounds, and intervals of their ratios."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from statistics import median
from time import perf_counter

import torch


@dataclass
class Case:
    """What a benchmark compares: callables by name, the name of the limit, and those of other packages."""

    candidates: dict[str, Callable]
    limit: str
    note: str
    peers: tuple[str, ...] = ()


def interleaved(case, rounds):
    """{name: seconds of each round}; each candidate runs twice before the first."""
    seconds: dict = {name: [] for name in case.candidates}
    gc.collect()
    gc.freeze()  # existing objects need no garbage collection
    try:
        for measured in [False] * 2 + [True] * rounds:
            for name, run in case.candidates.items():
                gc.collect()
                start = perf_counter()
                run()
                if torch.cuda.is_initialized():
                    torch.cuda.synchronize()  # a GPU works on after the call
                if measured:
                    seconds[name].append(perf_counter() - start)
    finally:
        gc.unfreeze()
    return seconds


def interval(values, confidence=0.95):
    """(median, low, high): order statistics that contain the median with at least this probability."""
    ordered, n, below, rank = sorted(values), len(values), 0.0, 0
    while rank < n // 2 and 2 * (below + comb(n, rank) / 2**n) <= 1 - confidence:
        below, rank = below + comb(n, rank) / 2**n, rank + 1
    rank = max(rank - 1, 0)
    return median(ordered), ordered[rank], ordered[n - 1 - rank]


def ratio(seconds, name, other):
    """(median, low, high) of a candidate's time over another's in the same round."""
    return interval([a / b for a, b in zip(seconds[name], seconds[other], strict=True)])


def fastest(seconds, names):
    """The name with the smallest median, or None."""
    return min(names, key=lambda name: median(seconds[name]), default=None)
