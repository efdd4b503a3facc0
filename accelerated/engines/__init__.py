"""Engines execute a network: layer by layer (dense), spike by spike (event; whole: exact schedules in whole numbers),
recorded on a GPU (cuda_graph).
`totals` has the values of runs on totals, `structure` what is known of a network before it reads an image.
"""

from functools import partial

from .._native import PRESENT
from .cuda_graph import GraphRun
from .dense import DenseRun

ENGINES = ("auto", "dense", "event", "graph")
EXACT = ("dense", "event")  # those of schedules that do not stream; "dense" is a step after another


def engine_named(name, schedule=None):
    """The engine of a name: (network, x) -> a run; without the folder of kernels, `DenseRun` for all but "graph".

    None for an exact `schedule` that is stepped: it streams without a schedule.
    """
    if schedule is not None and not schedule.streams:
        if name != "event" or not PRESENT:
            return None
        from .whole import WholeRun

        return WholeRun
    if name == "graph":
        return GraphRun
    if name == "dense" or not PRESENT:
        return DenseRun
    from .event import EventRun

    return partial(EventRun, choose=name == "auto")
