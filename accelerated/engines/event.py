"""The event-driven engine: layers of a streaming network with spikes as input add rows of weights, and skip the rest.

A spiking layer behind convolutions, linear layers, skips and 2 x 2 averages of spikes becomes one call of a kernel
(kernels/event.h) with spikes in and out as bits. `DenseRun` computes everything else.
"""

from functools import reduce
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import nn

from ..graph.operations import Kind, module_of, operation_of
from ..graph.trace import layer_name
from ..graph.values import read_last
from ..kernels import serves
from ..kernels.events import Spikes, State, Weights
from .layerwise import FLATTEN, Layerwise

CLEARLY = 0.8  # dense convolutions must stay below this share of the event layer's time, which includes the neuron


def _one(value):
    """The number of a pair of equal ones, or None."""
    pair = value if isinstance(value, tuple) else (value, value)
    return pair[0] if len(set(pair)) == 1 and isinstance(pair[0], int) else None


class Term:
    """A term of a layer's current: `node`'s value, or (with `source`) a convolution of a layer's spikes."""

    def __init__(self, node, found=(None, False), module=None):
        (self.source, self.pooled), self.node, self.module = found, node, module


class EventRun(Layerwise):
    """`DenseRun`, with event kernels for layers whose current comes from spikes.

    With `choose`, a layer continues with dense convolutions if these were faster in its first steps; the network keeps
    that choice for later batches of the same size.
    """

    def __init__(self, network, x, choose=False):
        super().__init__(network, x)
        self.choose, self.dense = choose, set()
        self.packed, self.weights, self.spikes, self.terms = {}, {}, {}, {}
        self.needed = self.feeding
        if not serves(x, *(parameter for parameter in network.parameters())):
            return
        key = "plan", x.shape[1:], tuple(module.fires is None for module in self.neurons.values())
        if key not in network.prepared:
            for node in self.neurons:
                if self._per_channel(node):
                    self.terms[node] = self._terms(node.all_input_nodes[0])
            self._plan()
            network.prepared[key] = self.terms, self.needed, self.done
        self.terms, self.needed, self.done = network.prepared[key]
        self.terms = dict(self.terms)
        if choose and (seen := self._seen()) is not None:
            self._go_dense(seen)

    def _per_channel(self, node):
        """Whether `State` supports a layer: images, features or tokens with one threshold, or one per channel."""
        module, image = self.neurons[node], self._image(node)
        if image is None or module.fires is not None:
            return False
        shape = (1,) * (len(self.shapes[node]) - module.parameter.ndim) + tuple(module.parameter.shape)
        channel = -1 if len(shape) == 2 else 0
        return module.parameter.numel() == 1 or shape[channel] == image[0] == module.parameter.numel()

    def _source(self, node):
        """(layer, whether pooled) if a node's value is that layer's spikes, else None."""
        node = self._through(node)
        if node in self.neurons:
            return (node, False) if self._per_channel(node) else None
        module, before = module_of(self.graph, node), node.all_input_nodes[0] if node.all_input_nodes else None
        if isinstance(module, nn.AdaptiveAvgPool2d) and self.shapes[node] == self.shapes[before]:
            return self._source(before)
        if isinstance(module, nn.AvgPool2d):
            plain = [_one(value) for value in (module.kernel_size, module.stride, module.padding)] == [2, 2, 0]
            plain = plain and not module.ceil_mode and module.divisor_override is None
            found = self._source(before) if plain else None
            return (found[0], True) if found and not found[1] else None
        return None

    def _terms(self, node):
        """The terms whose sum is a node's value."""
        node = self._through(node)
        module = module_of(self.graph, node)
        if node in self.neurons and self._per_channel(node):
            return [Term(node, (node, False))]
        plain_sum = operation_of(self.graph, node) == "add" and self.kinds[node] is Kind.LINEAR
        if plain_sum and len(node.all_input_nodes) == 2:
            return [term for source in node.all_input_nodes for term in self._terms(source)]
        if isinstance(module, nn.Conv2d):
            plain = module.groups == 1 and _one(module.dilation) == 1 and module.padding_mode == "zeros"
            numbers = [_one(value) for value in (module.kernel_size, module.stride, module.padding)]
            found = self._source(node.all_input_nodes[0]) if plain and None not in numbers else None
            return [Term(node, found, module)] if found else [Term(node)]
        if isinstance(module, nn.Linear) and len(self.shapes[node]) == 2:
            found = self._source(node.all_input_nodes[0])
            return [Term(node, found, module)] if found and not found[1] else [Term(node)]
        if isinstance(module, nn.Linear) and len(self.shapes[node]) == 1:
            before = self._through(node.all_input_nodes[0])
            found = self._source(before.all_input_nodes[0] if operation_of(self.graph, before) in FLATTEN else before)
            image = self._image(found[0]) if found else None
            if image and image[1] == image[2]:
                return [Term(node, found, module)]
        return [Term(node)]

    def _plan(self):
        """Decide which layers fire bits, and which nodes need dense values: those that no term reads as bits."""
        bits = {term.source for terms in self.terms.values() for term in terms}
        kept = {n for n, terms in self.terms.items() if n in bits or n in self.packed or any(t.source for t in terms)}
        self.terms = {n: terms for n, terms in self.terms.items() if n in kept}
        stack = [term.node for terms in self.terms.values() for term in terms if term.source is None]
        stack += [node.all_input_nodes[0] for node in self.neurons if node not in self.terms]
        stack += self.ends
        self.needed = set()
        while stack:
            node = stack.pop()
            if node not in self.needed:
                self.needed.add(node)
                stack.extend(() if node in self.neurons else node.all_input_nodes)
        self.done = read_last(self.nodes, self._reads)

    @property
    def at_once(self):
        """Bits take 1/32 of the memory: twice as many steps if nothing else moves."""
        return super().at_once * (1 if self.moving & self.needed else 2)

    def _reads(self, node):
        """The nodes whose dense values a node reads."""
        if node in self.terms:
            return [term.node for term in self.terms[node] if term.source is None]
        wanted = node in self.needed or node in self.neurons or node not in self.moving
        return node.all_input_nodes if wanted else []

    def _wanted(self, node):
        return node in self.needed

    def steps(self, count):
        measured = self.choose and self._seen() is None
        if measured:
            self.times = {}
        rows = super().steps(count)
        if measured:
            slow = {node.name for node, (event, dense) in self.times.items() if dense < CLEARLY * event}
            self.network.prepared["dense", self.x.shape] = slow
            self._go_dense(slow)
        self.spikes = {}
        return rows

    def _seen(self):
        """The names of the layers that were faster with dense convolutions, None if not measured yet."""
        return self.network.prepared.get(("dense", self.x.shape))

    def _go_dense(self, names):
        """Compute these layers' currents in PyTorch from now on."""
        for node in [node for node in self.terms if node.name in names]:
            self.terms[node] = [Term(node.all_input_nodes[0])]
            self.weights[node] = []
            if node in self.packed:
                self.packed[node].bias.zero_()
        self._plan()

    def _measure(self, node):
        """Seconds of a layer's dense convolutions in a second call (the first is a warm-up)."""
        for _ in range(2):
            start = perf_counter()
            for term in self.terms[node]:
                if term.source is not None:
                    x = self._as_sample(term.source, self.spikes[term.source].dense())
                    x = F.avg_pool2d(x, 2) if term.pooled else x
                    x = x.flatten(1) if isinstance(term.module, nn.Linear) and x.ndim == 4 else x
                    x = x if term.module is None else term.module(x)
        return perf_counter() - start

    def _neuron(self, node, values, count):
        if node not in self.terms:
            return super()._neuron(node, values, count)
        state = self._state(node)
        sources = [(weights, self.spikes[term.source]) for term, weights in self.weights[node]]
        start = perf_counter()
        bits = state.fire(count, sources, self._dense(node, values, count))
        if self.choose and sources and self._seen() is None:
            self.times[node] = perf_counter() - start, self._measure(node)
        self.states[layer_name(node)].sent = self._as_sample(node, state.sent())
        self.spikes[node] = Spikes(bits, self._worth(node))
        return self._as_sample(node, self.spikes[node].dense()) if node in self.needed else None

    def _worth(self, node):
        """theta of each channel of a layer."""
        theta = self._theta(self.neurons[node], self.x.dtype)
        return theta.detach().reshape(-1).expand(self._image(node)[0]).contiguous()

    def _state(self, node):
        """The layer's state; state and weights are created on first use."""
        if node not in self.packed:
            terms = [term for term in self.terms[node] if term.source is not None]
            biases = [m.bias for m in (term.module for term in terms) if m is not None and m.bias is not None]
            start, image = self.neurons[node].start, self._image(node)
            if start is not None:
                start = self._as_image(node, start).permute(0, 2, 3, 1)
            bias = sum(biases) if biases else None
            self.packed[node] = State((len(self.x), *image), self._worth(node), bias, start)
            self.weights[node] = [(term, self._prepared(term, self.packed[node].tile)) for term in terms]
        return self.packed[node]

    def _prepared(self, term, tile):
        """The term's weights for kernels; the network keeps them until a parameter changes."""
        source, kept = self.neurons[term.source], self.network.prepared
        parts = [source.parameter, *([term.module.weight] if term.module is not None else [])]
        state = tile, term.pooled, self.x.dtype, *((part.data_ptr(), part._version) for part in parts)
        if kept.get(key := (term.node.name, tile), (None, None))[0] != state:
            kept[key] = state, self._weights(term, tile)
        return kept[key][1]

    def _weights(self, term, tile):
        worth, module = self._worth(term.source), term.module
        if module is None:  # a skip: spikes are added with weight theta
            return Weights(torch.eye(len(worth), dtype=worth.dtype)[:, :, None, None], worth, 1, 0, tile, term.pooled)
        if isinstance(module, nn.Linear):
            image, tokens = self._image(term.source), len(self.shapes[term.source]) == 2
            side = 1 if tokens else image[1] // (2 if term.pooled else 1)
            weight = module.weight.reshape(len(module.weight), len(worth), side, side)
            return Weights(weight, worth, 1, 0, tile, term.pooled)
        return Weights(module.weight, worth, _one(module.stride), _one(module.padding), tile, term.pooled)

    def _dense(self, node, values, count):
        """The sum of the terms without spikes, [count or 1, batch, channels, height, width]; None if there are none."""
        nodes = [term.node for term in self.terms[node] if term.source is None]
        moving = any(n in self.moving for n in nodes)
        parts = [self._folded(values[n], count) if moving and n not in self.moving else values[n] for n in nodes]
        return self._as_image(node, reduce(torch.add, parts).unflatten(0, (-1, len(self.x)))) if parts else None
