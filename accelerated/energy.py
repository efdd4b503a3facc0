"""What an answer costs: the synaptic operations and joules of `reference.energy`, on a graph of modules."""

import copy
from functools import partial
from typing import NamedTuple

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map

from .conversion import SpikingNetwork
from .graph.operations import (
    FIXED,
    KIND,
    MATRIX_PRODUCTS,
    WEIGHTED,
    Kind,
    kinds_of,
    module_of,
    named,
    operands,
    operation_of,
    unbiased_arguments,
)  # fmt: skip
from .graph.trace import layer_name, value_of
from .simulation import Simulation

WINDOWS = (  # their supports are products of one interval per axis, behind batch and channel
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "interpolate", "upsample", "upsample_nearest", "upsample_bilinear",
)  # fmt: skip
ADDING = ("add", "sub", "subtract", "rsub")
MAC, AC = 4.6e-12, 0.9e-12  # joules: multiply 3.7 pJ and add 0.9 pJ
MULTIPLY, ADD = 0.2e-12, 0.1e-12  # of 8-bit whole numbers, and of 32-bit ones
BYTE = 1.25e-12  # of a memory of 8 kB: 10 pJ for 64 bits


class Energy(NamedTuple):
    """Operations of one image (means over the batch) and joules."""

    acs: dict  # node -> accumulates
    macs: dict  # node -> multiply-accumulates
    ann_macs: dict  # node -> multiply-accumulates of the quantised network
    totals_macs: dict  # node -> multiply-accumulates of a simulation on totals
    neurons: int  # spiking
    steps: int  # from the image to the answer
    bits: int  # that tell as many levels as a layer sends at most

    @property
    def joules(self) -> float:
        """Energy on hardware that adds increments, as spiking chips do."""
        return sum(self.acs.values()) * AC + sum(self.macs.values()) * MAC

    @property
    def ann_joules(self) -> float:
        """Energy of the quantised network."""
        return sum(self.ann_macs.values()) * MAC

    @property
    def totals_joules(self) -> float:
        """Energy of a simulation on totals."""
        return sum(self.totals_macs.values()) * MAC

    @property
    def whole_joules(self) -> float:
        """Energy in whole numbers: an addition of 32 bits for each spike and synapse, 8-bit products for the image."""
        return sum(self.acs.values()) * ADD + sum(self.macs.values()) * (MULTIPLY + ADD)

    @property
    def rival_joules(self) -> float:
        """Energy of the quantised network with weights of 8 and activations of `bits` bits; the image has 8."""
        return sum(macs * (MULTIPLY * self._width(name) / 8 + ADD) for name, macs in self.ann_macs.items())

    @property
    def whole_memory(self) -> float:
        """Joules of memory: a weight for each addition, both factors of products, membranes in and out in each step."""
        state = 2 * 4 * self.neurons * self.steps
        return BYTE * (sum(self.acs.values()) + 2 * sum(self.macs.values()) + state)

    @property
    def rival_memory(self) -> float:
        """Joules of the rival's memory: a weight and an activation for each product."""
        return BYTE * sum(macs * (1 + self._width(name) / 8) for name, macs in self.ann_macs.items())

    @property
    def break_even(self) -> float:
        """How many times as many spikes would cost as much as the rival, with memory; 0 where none would."""
        spikes = sum(self.acs.values()) * (ADD + BYTE)
        rest = self.whole_joules + self.whole_memory - spikes
        return max(0.0, self.rival_joules + self.rival_memory - rest) / spikes if spikes else 0.0

    def _width(self, name):
        return 8 if self.macs.get(name) else self.bits


def dense(graph, node, values):
    """MACs of one image: outputs times the inputs of each; 1 per output of an operator without weights."""
    module, name, out = module_of(graph, node), operation_of(graph, node), values[node]
    if name in MATRIX_PRODUCTS:
        ones = {
            n: torch.ones_like(values[n], dtype=torch.float64) for n in node.all_input_nodes if _is_float(values[n])
        }
        return round(float(value_of(graph, node, {**values, **ones}).sum()) / len(out))
    if name not in WEIGHTED:
        return out[0].numel() if isinstance(out, torch.Tensor) else sum(o[0].numel() for o in out)
    weight = module.weight if module is not None else values[node.all_input_nodes[1]]
    transposed = name.startswith("conv_transpose")  # each input reaches weight[0] outputs
    return (values[node.all_input_nodes[0]] if transposed else out)[0].numel() * weight[0].numel()


def _is_float(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def structure(graph, node, values):
    """How many spikes reach each output of a linear node: all its weights 1, no bias, and sums in place of means."""
    name, first = operation_of(graph, node), values[node.all_input_nodes[0]]
    if name in WINDOWS:
        return _by_windows(graph, node, values, first)
    module, args, kwargs = module_of(graph, node), node.args, dict(node.kwargs)
    if name in WEIGHTED and module is not None:
        module = copy.copy(module)
        weight = torch.ones_like(module.weight, dtype=first.dtype)
        module._parameters = {**module._parameters, "weight": weight, "bias": None}
        return module(first)
    if name in WEIGHTED:
        args, kwargs = unbiased_arguments(node)
    ones = {}
    if name in WEIGHTED or KIND.get(name) == "product":
        fixed = (n for n in node.all_input_nodes if n in values["fixed"] and _is_float(values[n]))
        ones = {n: torch.ones_like(values[n], dtype=first.dtype) for n in fixed}
        args = tuple(1.0 if isinstance(arg, (int, float)) and KIND.get(name) == "product" else arg for arg in args)
    out = value_of(graph, node, {**values, **ones}, args, kwargs)
    return out * (first.numel() / out.numel()) if name == "mean" else out


def _by_windows(graph, node, values, traffic):
    """Sums over the windows of a pooling or interpolation: along each axis, the inputs on which an output depends."""
    source, counts = node.all_input_nodes[0], traffic
    for axis in range(2, traffic.ndim):
        length = traffic.shape[axis]
        shape = [length if i == 0 else 1 if i == 1 else n for i, n in enumerate(traffic.shape)]
        places = torch.arange(length, device=traffic.device)
        impulses = traffic.new_zeros(shape)
        impulses.movedim(axis, 1)[places, places] = 1  # image i is 1 in row i
        reached = value_of(graph, node, {**values, source: impulses}) != 0  # [length, 1, ...]
        others = [i for i in range(1, reached.ndim) if i != axis]
        pattern = reached.any(dim=tuple(others)).to(traffic.dtype)  # [length, outputs along this axis]
        counts = torch.tensordot(counts, pattern, dims=([axis], [0])).movedim(-1, axis)
    return counts


def _meeting(graph, node, values):
    """Accumulates of a product of two spike trains: each spike of one meets what the other has sent."""
    total = 0.0
    for kept in ((True, False), (False, True)):
        args, kwargs = map_arg((node.args, node.kwargs), partial(_or_ones, values, iter(kept)))
        total += float(value_of(graph, node, values, args, kwargs).sum())
    return total


def _or_ones(values, kept, source):
    return values[source] if next(kept) else torch.ones_like(values[source])


@torch.no_grad()
def energy(network: SpikingNetwork, x: torch.Tensor, simulation: Simulation) -> Energy:
    """The `Energy` of a simulation of a spiking network on images x [batch, ...]."""
    graph, count = network.graph, _Count(network, x, simulation)
    for node in graph.graph.nodes:
        count.node(node)
    totals = {name: macs * count.steps for name, macs in count.ann_macs.items()}
    neurons = sum(layer[0].numel() for layer in simulation.counts.values())
    rows = count.steps if network.schedule.waits else len(tree_leaves(simulation.logits)[0])
    numbers = max(
        network.schedule.resolution(rows, rows, neuron.levels) * (neuron.levels - neuron.lowest) // neuron.levels
        for neuron in network.layers.values()
    )
    return Energy(count.acs, count.macs, count.ann_macs, totals, neurons, simulation.latency, numbers.bit_length())


class _Count:
    """Counts the operations of a simulation, node by node.

    `fed` says what a node's values come from: "image", "spikes" or "values"; `values` holds the spikes that reach it,
    or ones of its shape.
    """

    def __init__(self, network, x, simulation):
        self.graph, self.simulation, self.batch, self.x = network.graph, simulation, len(x), x
        self.steps = simulation.latency // network.phases  # integrate-then-fire: T
        self.format = next((p.dtype for p in network.parameters()), torch.get_default_dtype())
        self.kinds = kinds_of(network.graph)
        self.fed: dict[fx.Node, str] = {}
        self.values: dict = {"fixed": {node for node, kind in self.kinds.items() if kind in FIXED}}
        self.acs: dict[str, float] = {}
        self.macs: dict[str, float] = {}
        self.ann_macs: dict[str, float] = {}

    def node(self, node):
        """Count a node, after those before it."""
        kind, name = self.kinds[node], named(node)
        moving = [source for source in node.all_input_nodes if source in self.fed]
        fed = {self.fed[source] for source in moving}
        spikes = [self.values[source] for source in moving if self.fed[source] == "spikes"]
        if kind is Kind.OUTPUT:
            return
        if kind is Kind.IMAGE:
            self.fed[node] = "image"
            self.values[node] = torch.ones(tuple(self.x.shape), dtype=torch.float64, device=self.x.device)
        elif kind in FIXED:
            self.values[node] = value_of(self.graph, node, self.values)
        elif kind is Kind.NEURON:
            self.fed[node], self.values[node] = "spikes", self.simulation.emitted[layer_name(node)].double()
            self.acs[name] = sum(float(traffic.sum()) for traffic in spikes) / self.batch
        elif kind is Kind.LINEAR and operation_of(self.graph, node) in (*WEIGHTED, *MATRIX_PRODUCTS):
            self._layer(node, name, fed, spikes)
        elif operation_of(self.graph, node) in ADDING:
            self._sum(node, name, moving, fed, spikes)
        elif kind in (Kind.LINEAR, Kind.AFFINE):
            self.fed[node] = next(iter(fed)) if len(fed) == 1 else "values"
            self.values[node] = self._passed_on(node, moving)
        elif kind is Kind.PRODUCT and fed == {"spikes"}:
            self.fed[node], self.values[node] = "values", value_of(self.graph, node, self.values)
            self.ann_macs[name], self.macs[name] = dense(self.graph, node, self.values), 0
            self.acs[name] = _meeting(self.graph, node, self.values) / self.batch
        else:
            self._real(node, name, fed)

    def _layer(self, node, name, fed, spikes):
        """A layer with weights: accumulates for spikes; multiplications once for the image, else in every step."""
        self.values[node] = structure(self.graph, node, self.values)
        self.fed[node] = "image" if fed == {"image"} else "values"
        self.ann_macs[name] = dense(self.graph, node, self.values)
        self.acs[name] = float(self.values[node].sum()) / self.batch if spikes else 0.0
        self.macs[name] = 0 if spikes else self.ann_macs[name] * (self.steps if fed == {"values"} else 1)

    def _sum(self, node, name, moving, fed, spikes):
        """A sum or difference: a subtracted spike costs as much as an added one, a constant nothing."""
        self.fed[node] = "values" if fed not in ({"spikes"}, {"image"}) else next(iter(fed))
        terms = [source for source in operands(node) if source in moving]
        shape = torch.broadcast_shapes(*(self.values[source].shape for source in node.all_input_nodes))
        self.values[node] = sum(self.values[source].expand(shape) for source in terms)
        counted = self.fed[node] == "values"
        self.acs[name] = sum(float(t.sum()) for t in spikes) / self.batch if counted else 0.0

    def _passed_on(self, node, moving):
        """What a linear or affine operator without weights of its own passes on; it is part of the next weights."""
        if operation_of(self.graph, node) == "batch_norm":
            return self.values[moving[0]]
        if self.kinds[node] is Kind.LINEAR:
            return structure(self.graph, node, self.values)
        nothing = {n: torch.zeros_like(v) for n, v in self.values.items() if n in moving}
        return value_of(self.graph, node, self.values) - value_of(self.graph, node, {**self.values, **nothing})

    def _real(self, node, name, fed):
        """Anything else is computed on real numbers: in every step, or once if it reads the image alone."""
        sources = [source for source in node.all_input_nodes if source in self.fed]
        real = {source: self.values[source].to(self.format) for source in sources}
        self.fed[node] = "image" if fed == {"image"} else "values"
        value = value_of(self.graph, node, {**self.values, **real})
        self.values[node] = tree_map(lambda part: part.double() if _is_float(part) else part, value)
        self.ann_macs[name] = dense(self.graph, node, self.values)
        self.macs[name] = self.ann_macs[name] * (self.steps if fed != {"image"} else 1)
