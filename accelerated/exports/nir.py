"""A streaming network in whole numbers as a graph of NIR (neuroir.org), and a kit that shows if others run it.

NIR's integrate-and-fire node says neither how it begins nor, over its versions, how it resets. So there are two forms:

    neurons   IF, v_threshold 1; the reset, the first membrane and the comparison in the metadata
    circuit   I -> Threshold -> out, Threshold -> Scale(-1) -> I: the same neuron of nodes that leave nothing open

A spike is 1 and is worth theta: weights are multiplied by L of the layer before and divided by L D = theta (both in
whole numbers) of their own. V, in units of theta, begins at 1/2 and fires from 1 on. In whole numbers V is a multiple
of 1 / (2 L D), so that 1 / (4 L D) more in the beginning changes no spike, and V comes no closer to 1 than that: > and
>= are the same then, and smaller rounding errors do no harm.
"""

import copy
from pathlib import Path

import numpy as np
import torch

import isospike

from ..checks import InputError, one_of
from ..pixels import Pixels
from ..simulation import simulate
from .program import Program, on_one_axis
from .weights import written

FORMS = ("neurons", "circuit")
RESET = "subtract the threshold"
FIRST, LEVELS = "first membrane", "levels"  # in the metadata of neurons


def imported():
    """The package nir."""
    try:
        import nir
    except ImportError as error:
        raise InputError("NIR needs the package nir: pip install nir") from error
    return nir


def nir(network, path: str | Path, image, form: str = "neurons") -> Path:
    """Write a streaming network in whole numbers to `path` as a NIR graph of one of `FORMS`, and return the path.

    `network` is convert(integers(...), "streaming"), `image` [1, ...] one of its images. The input of each step is the
    pixels less the one that counts as 0. The output, divided by `unit` of the metadata, is what the step adds to the
    logits: its mean over the steps is the answer. InputError names what has no form in NIR.
    """
    graph = Builder(Program(network, image), one_of(form, FORMS, "form")).graph()
    return written(path, lambda part: imported().write(part, graph))


def kit(network, path: str | Path, images, steps: int) -> Path:
    """Write images and what a streaming network in whole numbers does with them to `path`, and return the path.

    An .npz file of `frames` [n, ...], the input of every step; `spikes.NODE` [steps, n, ...] of each layer of neurons
    by the name of its node in either form of `nir`; `outputs` [steps, n, classes] of the graph.
    """
    builder = Builder(Program(network, images[:1]), "neurons")
    network, images = copy.deepcopy(network).cpu().double(), images.cpu().double()  # means times steps are sums again
    run = simulate(network, images, steps, record=[*network.layers])
    times = torch.arange(1, steps + 1).reshape(-1, 1, 1)
    totals = (run.logits.double() * times * torch.from_numpy(builder.program.unit)).round()
    frames = next(module for module in network.graph.modules() if isinstance(module, Pixels))(images)
    frames = frames.float()
    spikes = {f"spikes.{builder.neurons[name]}": run.recorded[name].spikes.to(torch.uint8) for name in builder.neurons}
    outputs = torch.cat([totals[:1], totals.diff(dim=0)])
    arrays = {name: value.numpy() for name, value in ({"frames": frames, "outputs": outputs} | spikes).items()}

    def write(part):
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)

    return written(path, write)


def node_name(name):
    """The name of a layer's node: importers turn its dots into _ themselves."""
    return name.replace(".", "_")


class Builder:
    """The nodes and edges of a program."""

    def __init__(self, program, form):
        self.nir, self.program, self.form = imported(), program, form
        if not program.schedule.streams:
            raise InputError(f"NIR's neurons fire at once: schedule streaming, got {program.schedule.name!r}")
        self.known = {node["name"]: node for node in program.nodes}
        self.nodes: dict = {}
        self.edges: list = []
        self.neurons: dict = {}  # {layer: its node}
        self.taken = {"input", "output"}
        for key in (node["name"] for node in program.nodes if node["op"] == "neuron"):
            self.neurons[key] = self._unused(node_name(key))
        self.written: dict = {}
        answer = self.known[program.answer]
        self._put("output", self.nir.Output({"output": np.array(answer["shape"])}), self._value(program.answer, 1))

    def graph(self):
        """The graph; its metadata says what answers are divided by."""
        about = {"made by": f"isospike {isospike.__version__}", "schedule": "streaming", "unit": self.program.unit}
        return self.nir.NIRGraph(self.nodes, self.edges, about)

    def _put(self, name, node, sources):
        """A node that reads the sum of `sources`; its name."""
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def _unused(self, name):
        """A name that no other node has."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def _own_unit(self, key):
        """What a value is divided by where nothing else is asked: a spike is L levels."""
        node = self.known[key]
        if node["op"] == "neuron":
            return node["levels"]
        return self._own_unit(node["inputs"][0]) if node["op"] in ("sum_pool2d", "gather") else 1

    def _value(self, key, unit):
        """Names of the nodes whose sum is a value, divided by `unit`: a number, or one for each channel."""
        unit = np.asarray(unit)
        again = key, unit.tobytes()
        if again not in self.written:
            self.written[again] = self._nodes_of(key, unit)
        return self.written[again]

    def _nodes_of(self, key, unit):
        node, own = self.known[key], self._own_unit(key)
        if node["op"] in ("conv2d", "linear", "scale"):
            return [self._put(self._unused(node_name(key)), *self._weighted(node, unit))]
        if node["op"] == "add":
            return [source for part in node["inputs"] for source in self._value(part, unit)]
        if (unit != own).any():
            name = self._unused(node_name(key))
            return [self._put(name, self._scale(own / unit, node), self._value(key, own))]
        if node["op"] == "image":
            return [self._put("input", self.nir.Input({"input": np.array(node["shape"])}), [])]
        if node["op"] == "neuron":
            return [self._neuron(node, self.neurons[key])]
        name = self._unused(node_name(key))
        return [self._put(name, self._moved(node), self._value(node["inputs"][0], own))]

    def _scale(self, factor, node):
        return self.nir.Scale(np.broadcast_to(factor, node["shape"]).copy())

    def _moved(self, node):
        """A pool of sums, or a flattened value."""
        source, *others = node["inputs"]
        before = np.array(self.known[source]["shape"])
        if node["op"] == "sum_pool2d":
            sides = (np.array(node[key]) for key in ("window", "stride", "padding"))
            return self.nir.SumPool2d(*sides)
        if node["op"] == "gather" and not others and len(node["shape"]) == 1 and (np.diff(node["index"]) == 1).all():
            return self.nir.Flatten({"input": before}, 0, len(before) - 1)
        kinds = {"max_pool2d": "takes maxima", "gather": "moves or joins numbers"}
        raise InputError(f"{node['name']!r} {kinds[node['op']]}, which has no form in NIR")

    def _weighted(self, node, unit):
        """(a node with weights, its sources): a layer, or a value times a factor."""
        (source,) = node["inputs"]
        own = self._own_unit(source)
        if node["op"] == "scale":
            return self._scale(node["factor"] * own / unit, node), self._value(source, own)
        before = self.known[source]["shape"]
        if node["op"] == "linear":
            on_one_axis(node, "NIR")
        rows = np.broadcast_to(unit, node["shape"]).reshape(node["shape"][0], -1)
        if (rows != rows[:, :1]).any():
            raise InputError(f"thresholds after {node['name']!r} differ within a channel, which weights cannot follow")
        rows = rows[:, 0]
        weight = node["weight"] * own / rows.reshape(-1, *(1,) * (node["weight"].ndim - 1))
        bias = node["bias"] / rows
        if node["op"] == "linear":
            return self.nir.Affine(weight, bias), self._value(source, own)
        sides, groups = (node["stride"], node["padding"], node["dilation"]), np.arange(len(weight)) * node["groups"]
        dense = np.zeros((len(weight), node["groups"], *weight.shape[1:]))  # nir's types know no groups
        dense[np.arange(len(weight)), groups // len(weight)] = weight
        dense = dense.reshape(len(weight), -1, *weight.shape[2:])
        return self.nir.Conv2d(tuple(before[1:]), dense, *sides, 1, bias), self._value(source, own)

    def _neuron(self, node, name):
        """A layer of neurons, in the graph's form."""
        if node["lowest"]:
            raise InputError(f"{node['name']!r} has levels below 0, which NIR's neurons have not")
        theta, ones = node["levels"] * node["factor"], np.ones(node["shape"])
        first = ones / 2 + 1 / (4 * theta)
        sources = self._value(node["inputs"][0], theta)
        if self.form == "circuit":
            membrane = self._put(self._unused(f"{name}_membrane"), self.nir.I(ones), sources)
            fires = self.nir.Threshold(ones - first, metadata={LEVELS: node["levels"]})
            fires = self._put(name, fires, [membrane])
            back = self._put(self._unused(f"{name}_reset"), self.nir.Scale(-ones), [fires])
            self.edges.append((back, membrane))
            return fires
        about = {"reset": RESET, FIRST: first, "fires": "from the threshold on", LEVELS: node["levels"]}
        known = {"v_reset": ones * 0} if "v_reset" in self.nir.IF.__dataclass_fields__ else {}
        return self._put(name, self.nir.IF(r=ones, v_threshold=ones, metadata=about, **known), sources)
