"""Graphs of NIR as streaming networks: of the nodes that ours can express; the others are refused by name.

Known are Input, Output, Affine, Linear, Conv2d, SumPool2d, AvgPool2d, Flatten, Scale, and neurons in the two forms that
`nir` writes: IF whose metadata say that the threshold is subtracted, and I -> Threshold with its way back.
"""

import keyword
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..activation import QCFS
from ..checks import InputError, first_line, whole
from ..conversion import SpikingNetwork, convert
from ..layers import SumPool2d
from .nir import FIRST, LEVELS, RESET, imported


class Scale(nn.Module):
    """A value times a constant."""

    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x):
        """x scale."""
        return x * self.scale


class Graph(nn.Module):
    """Modules in an order in which each reads the sum of what some before it give; `output` is the last one's."""

    def __init__(self, modules, sources, order, output):
        super().__init__()
        self.nodes = nn.ModuleDict(modules)
        self.sources, self.order, self.output = sources, order, output

    def forward(self, x):
        """The values of `output`; modules that read nothing read x."""
        values: dict = {}
        for name in self.order:
            total = [values[source] for source in self.sources[name]] or [x]
            values[name] = self.nodes[own_name(name)](sum(total[1:], total[0]))
        return values[self.output]


def own_name(name):
    """The name of a node's module: "if" is a usual one, and containers have attributes of their own."""
    own = name.replace(".", "_")
    return own + "_" if keyword.iskeyword(own) or hasattr(nn.ModuleDict, own) or own in ("", "training") else own


def from_nir(graph, levels: int | None = None) -> SpikingNetwork:
    """The streaming network of a NIR graph (or of the file at a path), in the widest of the graph's formats of numbers.

    `levels` is the L of the quantised network that belongs to it, T = L; by default that of the metadata. Inputs are
    constant over the steps, logits are means of the graph's outputs over them. InputError names what has no such form.
    """
    package = imported()
    if isinstance(graph, (str, Path)):
        try:
            graph = package.read(graph)
        except Exception as error:  # of any kind, by h5py and nir
            raise InputError(f"{graph} is not a readable NIR file: {first_line(error)}") from error
    if not isinstance(graph, package.NIRGraph):
        raise InputError(f"from_nir takes a NIRGraph or the path of its file, got {type(graph).__name__}")
    return Reader(package, graph, levels).network()


def sides_of(value):
    """A setting of both sides as Python has it: "same", a number, or a pair."""
    value = np.asarray(value)
    return str(value) if value.dtype.kind in "US" else tuple(value.reshape(-1).tolist()) if value.ndim else int(value)


class Reader:
    """The modules of a graph's nodes, by their kinds."""

    def __init__(self, package, graph, levels):
        self.nir, self.nodes, self.levels = package, dict(graph.nodes), levels
        self.sources: dict = {name: [] for name in self.nodes}
        for source, target in graph.edges:
            if unknown := {source, target} - self.nodes.keys():
                raise InputError(f"an edge goes from {source!r} to {target!r}, and there is no {unknown.pop()!r}")
            self.sources[target].append(source)
        self.first: dict = {}  # {module of neurons: their first membrane}

    def network(self):
        """The spiking network."""
        self._only(self.nir.Input)
        output = self._only(self.nir.Output)
        made = {name: self._circuit(name) for name, node in [*self.nodes.items()] if type(node) is self.nir.Threshold}
        for name, node in self.nodes.items():
            if type(node) is not self.nir.Threshold:
                made[name] = self._if(name, node) if type(node) is self.nir.IF else stateless(self.nir, name, node)
        modules = {own_name(name): module for name, module in made.items()}
        if len(modules) < len(made):
            raise InputError("two nodes have the same name once its dots are _: rename one")
        for name in self.nodes:
            if not self.sources[name] and type(self.nodes[name]) is not self.nir.Input:
                raise InputError(f"{name!r} reads nothing")
        try:
            order = [*TopologicalSorter(self.sources).static_order()]
        except CycleError as error:
            raise InputError(f"recurrent graphs have no form here: {' -> '.join(error.args[1])}") from error
        whole_graph = Graph(modules, self.sources, order, output).eval()
        kinds = [value.dtype for value in (*whole_graph.parameters(), *whole_graph.buffers())]
        dtype = max(kinds, key=lambda kind: kind.itemsize, default=torch.float32)
        network = convert(whole_graph.to(dtype), "streaming")
        for name, neuron in network.layers.items():
            neuron.start = self.first[name.removeprefix("nodes.")].to(dtype)
        return network

    def _only(self, kind):
        found = [name for name, node in self.nodes.items() if type(node) is kind]
        if len(found) != 1:
            raise InputError(f"the graph has {len(found)} nodes {kind.__name__}, and one is needed")
        return found[0]

    def _circuit(self, name):
        """The neurons of I -> Threshold with a way back through Scale; its other two nodes go."""
        readers = {source: [target for target, read in self.sources.items() if source in read] for source in self.nodes}
        if len(self.sources[name]) != 1:
            raise InputError(f"{name!r} is a Threshold without I before it and a Scale back to it alone")
        (membrane,), threshold = self.sources[name], array(self.nodes[name].threshold, name)
        back = [node for node in readers[name] if readers[node] == [membrane] and self.sources[node] == [name]]
        kinds = [type(self.nodes[node]) for node in (membrane, *back)]
        if kinds != [self.nir.I, self.nir.Scale] or readers[membrane] != [name]:
            raise InputError(f"{name!r} is a Threshold without I before it and a Scale back to it alone")
        theta = -array(self.nodes[back[0]].scale, back[0])
        self._unit(membrane, self.nodes[membrane].r)
        self.sources[name] = [source for source in self.sources[membrane] if source != back[0]]
        for gone in (membrane, back[0]):
            del self.nodes[gone], self.sources[gone]
        return self._neurons(name, theta, theta - threshold - 2 * np.spacing(theta))  # NIR fires above, ours from on

    def _unit(self, name, r):
        r = np.ravel(array(r, name))
        if (r != 1).any():
            raise InputError(f"{name!r} has r = {r[r != 1][0]:g}, and steps of 1 with r = 1 are read")

    def _if(self, name, node):
        """The neurons of an IF node."""
        self._unit(name, node.r)
        reset = node.metadata.get("reset")
        reset = reset.decode() if isinstance(reset, bytes) else reset
        if reset != RESET or FIRST not in node.metadata:
            raise InputError(
                f"{name!r} does not say that it resets as ours: its metadata need reset {RESET!r} and {FIRST!r}"
            )
        return self._neurons(name, array(node.v_threshold, name), array(node.metadata[FIRST], name))

    def _neurons(self, name, theta, first):
        """Neurons with soft reset, each with its threshold and first membrane."""
        levels = self.nodes[name].metadata.get(LEVELS) if self.levels is None else self.levels
        if levels is None:
            raise InputError(f"the L of {name!r} is not in its metadata: give levels")
        self.first[own_name(name)] = torch.from_numpy(first)
        return QCFS(theta.shape, whole(levels, "levels"), "raw", torch.from_numpy(theta))


def stateless(package, name, node):
    """The module of a node without a state; InputError for any other."""
    kind = type(node)
    if kind in (package.Input, package.Output):
        return nn.Identity()
    if kind is package.Scale:
        return Scale(torch.from_numpy(array(node.scale, name)))
    if kind is package.Flatten:
        return nn.Flatten(
            *(int(axis) + (axis >= 0) for axis in (node.start_dim, node.end_dim))
        )  # ours have the images'
    if kind in (package.SumPool2d, package.AvgPool2d):
        pool = SumPool2d if kind is package.SumPool2d else nn.AvgPool2d
        return pool(*map(sides_of, (node.kernel_size, node.stride, node.padding)))
    if kind in (package.Affine, package.Linear):
        out, inside = node.weight.shape
        return with_weights(nn.Linear(inside, out, bias=kind is package.Affine), node, name)
    if kind is package.Conv2d:
        out, inside, *window = node.weight.shape
        stride, padding, dilation = map(sides_of, (node.stride, node.padding, node.dilation))
        groups = int(node.groups)
        layer = nn.Conv2d(inside * groups, out, tuple(window), stride, padding, dilation, groups)
        return with_weights(layer, node, name)
    raise InputError(f"{name!r} is {kind.__name__}, which has no form here")


def with_weights(module, node, name):
    """A layer with a node's weights."""
    for key, _ in [*module.named_parameters()]:
        setattr(module, key, nn.Parameter(torch.from_numpy(array(getattr(node, key), name))))
    return module


def array(values, name):
    """A copy of a node's numbers in a floating format; InputError if they are none."""
    try:
        found = np.array(values)
        return found if found.dtype in (np.float32, np.float64) else found.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name!r} holds {str(values)[:40]!r}, which are no numbers") from error
