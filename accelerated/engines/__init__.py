"""What executes a spiking network: layer by layer (dense), spike by spike (event), recorded on a GPU (cuda_graph), or
on totals. `structure` is what they know of a network before it sees an image.
"""

from functools import partial

from .._native import PRESENT
from .cuda_graph import Graphed
from .dense import Layerwise

ENGINES = ("auto", "dense", "event", "graph")


def engine_named(name):
    """What runs a streaming network: (network, x) -> a run; without the folder of kernels there is one."""
    if name == "graph":
        return Graphed
    if name == "dense" or not PRESENT:
        return Layerwise
    from .event import EventDriven

    return partial(EventDriven, choose=name == "auto")
