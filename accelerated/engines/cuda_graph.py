"""Streaming on a CUDA device with the steps of a chunk as one CUDA graph: kernel launches are recorded once and
replayed."""

import torch

from ..checks import InputError
from ..graph.operations import FIXED
from .dense import DenseRun


def places(states):
    """The addresses of a run's membranes and counts; None for those that do not exist yet."""
    states = [tensor for state in states for tensor in (state.membrane, state.sent)]
    return [None if state is None else state.data_ptr() for state in states]


class GraphRun(DenseRun):
    """`DenseRun`, with a CUDA graph for chunks of a length that has run before without moving any state in memory.

    State moves where there is no kernel, or where a calibration says which neurons may fire; and the divisors of an
    accumulated operator change with every step. Such networks run as in `DenseRun`. InputError for images that are
    not on a CUDA device.
    """

    def __init__(self, network, x):
        super().__init__(network, x)
        if not x.is_cuda:
            raise InputError(f"engine 'graph' needs images on a CUDA device, got {x.device}")
        self.graphs, self.seen, self.in_place = {}, set(), False
        self.plain = network.operators == "per-step" or all(
            node in self.neurons or node in self.linear or self.kinds[node] in FIXED
            for node in self.moving & self.feeding
        )

    def _advance(self, count):
        if count not in self.seen or not (self.plain and self.in_place):
            before = places(self.states.values())
            ends = super()._advance(count)
            self.seen.add(count)
            self.in_place = before == places(self.states.values())
            return ends
        if count not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                ends = super()._advance(count)
            self.graphs[count] = graph, ends
        graph, ends = self.graphs[count]
        graph.replay()
        return ends
