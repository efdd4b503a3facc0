"""Streaming on a CUDA device with the steps of a chunk as one graph: what the processor would ask for again and again
is recorded once, and replayed."""

import torch

from ..checks import InputError
from ..graph.operations import is_constant, is_shape
from .dense import Layerwise


def places(neurons):
    """Where membranes and counts lie in memory; None of what is not there yet."""
    states = [state for neuron in neurons for state in (neuron.membrane, neuron.sent)]
    return [None if state is None else state.data_ptr() for state in states]


class Graphed(Layerwise):
    """`Layerwise`, with a CUDA graph for chunks of a length that has been seen, once a chunk has moved no state.

    It moves some where kernels do not serve, or a calibration says which neurons may fire; and the numbers of an
    accumulated operator change with every step. There it is `Layerwise`, chunk after chunk. InputError for images that
    are not on a CUDA device.
    """

    def __init__(self, network, x):
        super().__init__(network, x)
        if not x.is_cuda:
            raise InputError(f"engine 'graph' needs images on a CUDA device, got {x.device}")
        self.graphs, self.seen, self.in_place = {}, set(), False
        self.plain = network.operators == "per-step" or all(
            node in self.neurons or node in self.linear or is_shape(node) or is_constant(node)
            for node in self.moving & self.heard
        )

    def _advance(self, count):
        if count not in self.seen or not (self.plain and self.in_place):
            before = places(self.neurons.values())
            ends = super()._advance(count)
            self.seen.add(count)
            self.in_place = before == places(self.neurons.values())
            return ends
        if count not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                ends = super()._advance(count)
            self.graphs[count] = graph, ends
        graph, ends = self.graphs[count]
        graph.replay()
        return ends
