"""Streaming on a CUDA device with the steps of a chunk as one graph: what the processor would ask for again and again
is recorded once, and replayed."""

import torch

from .checks import InputError
from .layerwise import Layerwise
from .operators import is_constant, is_linear, is_shape


class Graphed(Layerwise):
    """`Layerwise`, with a CUDA graph from the second chunk of each length on; the first makes what stays the same.

    Only where all that a chunk changes lies in place: kernels serve, no operator is accumulated, and no calibration
    says which neurons may fire. Elsewhere it is `Layerwise`. InputError for images that are not on a CUDA device.
    """

    def __init__(self, network, x):
        super().__init__(network, x)
        if not x.is_cuda:
            raise InputError(f"engine 'graph' needs images on a CUDA device, got {x.device}")
        self.graphs, self.seen = {}, set()

    def _in_place(self):
        """Whether a replay does what the chunk did."""
        plain = self.network.operators == "per-step" or all(
            node in self.neurons or is_linear(self.graph, node) or is_shape(node) or is_constant(node)
            for node in self.moving & self.heard
        )
        return plain and all(module.fires is None for module in self.neurons.values())

    def _advance(self, count):
        if count not in self.seen or not self._in_place():
            self.seen.add(count)
            return super()._advance(count)
        if count not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                ends = super()._advance(count)
            self.graphs[count] = graph, ends
        graph, ends = self.graphs[count]
        graph.replay()
        return ends
