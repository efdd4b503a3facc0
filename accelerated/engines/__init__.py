"""Engines execute a streaming network: layer by layer (dense), spike by spike (event), recorded on a GPU (cuda_graph).
`totals` has the values of runs on totals, `structure` what is known of a network before it reads an image.
"""

from functools import partial

from .._native import PRESENT
from .cuda_graph import GraphRun
from .dense import DenseRun

ENGINES = ("auto", "dense", "event", "graph")


def engine_named(name):
    """The engine of a name: (network, x) -> a run; without the folder of kernels, `DenseRun` for all but "graph"."""
    if name == "graph":
        return GraphRun
    if name == "dense" or not PRESENT:
        return DenseRun
    from .event import EventRun

    return partial(EventRun, choose=name == "auto")
