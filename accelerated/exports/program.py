"""A spiking network in whole numbers (T7) as a list of plain nodes: what the exports write down in other languages.

A node is a dictionary of its `name`, `op`, `inputs` (names), `shape` (of one image's value) and settings. Weights and
constants are whole, and a neuron's value is its level. What is sent in a step is the change of a value:

    image       pixels less the ones that count as 0: `most`, `zero` (of each channel), `mean`, `std`
    conv2d      weight [out, in / groups, kh, kw], bias [out], stride, padding, dilation (pairs), groups
    linear      weight [out, in], bias [out]
    sum_pool2d, max_pool2d   window, stride, padding (pairs)
    scale       factor: see `spread`
    add         of two values
    gather      index [numbers] into those of all inputs in a row, -1 where there is none: views, joins, padding
    neuron      step D (as factor), levels L, lowest, depth, worths (of its spikes, step by step, the last for ever)
"""

import operator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..checks import InputError
from ..conversion import SpikingNetwork
from ..graph.operations import FIXED, WEIGHTED, Kind, kinds_of, label_of, module_of, named, operation_of, place_of
from ..graph.trace import evaluating, layer_name, value_of
from ..layers import SumPool2d
from ..neuron import SpikingNeuron
from ..pixels import Pixels
from ..sums import is_whole

HELD = 2**30 - 1  # twice a membrane is compared, in 32 bits


def pair(value):
    """A pair of whole numbers, for down and across."""
    down, across = value if isinstance(value, (tuple, list)) else (value, value)
    return int(down), int(across)


def whole_array(values, name):
    """A tensor's whole numbers, int64; InputError if one of them is none."""
    numbers = values.detach().cpu().double().numpy()
    if (numbers != np.rint(numbers)).any():
        raise InputError(f"{name} is not of whole numbers: export what integers(network, sample) gave")
    return numbers.astype(np.int64)


def spread(factor, shape):
    """A constant of a value as one number, as one for each index of its first axis [n, 1, ...], or in its shape."""
    factor = factor.reshape((1,) * (len(shape) - factor.ndim) + factor.shape)
    if factor.size == 1:
        return factor.reshape(())
    return factor if factor.size == factor.shape[0] == shape[0] else np.broadcast_to(factor, shape).copy()


def on_one_axis(node, form):
    """InputError unless a linear layer acts on one axis alone, of several of which a form knows nothing."""
    if len(node["shape"]) != 1:
        axes = len(node["shape"])
        raise InputError(f"{node['name']!r} acts on {axes} axes, which has no form in {form}: on one alone")


def _signs(weight, least, most, apply):
    """(least, most) of a linear operator's output, from those of its inputs, all of which may still be 0."""
    weight = torch.from_numpy(weight).double()
    up, down = weight.clamp(min=0), weight.clamp(max=0)
    return apply(up, least) + apply(down, most), apply(up, most) + apply(down, least)


def span(node, inputs):
    """(least, most) that each number of a node's total can be, [1, ...]: inputs arrive one by one, so that 0 counts."""
    op = node["op"]
    if op == "image":
        zero = torch.from_numpy(node["zero"]).double().reshape(-1, *(1,) * (len(node["shape"]) - 1))
        return tuple(value.expand(node["shape"])[None] for value in (-zero, node["most"] - zero))
    if op == "neuron":
        return tuple(torch.full((1, *node["shape"]), float(n)).double() for n in (node["lowest"], node["levels"]))
    if op == "add":
        return tuple(map(sum, zip(*inputs, strict=True)))
    if op == "gather":
        index = torch.from_numpy(node["index"])
        rows = (torch.cat([each.flatten() for each in side]) for side in zip(*inputs, strict=True))
        return tuple(torch.where(index < 0, 0, row[index]).reshape(1, *node["shape"]) for row in rows)
    ((least, most),) = inputs
    if op == "scale":
        return _signs(node["factor"], least, most, torch.mul)
    if op in ("conv2d", "linear"):
        sides = {key: node[key] for key in ("stride", "padding", "dilation", "groups") if key in node}
        function = partial(F.conv2d, **sides) if op == "conv2d" else F.linear
        found = _signs(node["weight"], least, most, lambda w, x: function(x, w))
        behind = len(node["shape"]) - 1 if op == "conv2d" else 0  # a linear layer's are on the last axis
        bias = torch.from_numpy(node["bias"]).double().reshape(-1, *(1,) * behind)
        return found[0] + bias.clamp(max=0), found[1] + bias.clamp(min=0)
    windows = node["window"], node["stride"], node["padding"]
    if op == "max_pool2d":
        return tuple(F.max_pool2d(side, *windows) for side in (least, most))
    area = node["window"][0] * node["window"][1]
    return tuple(F.avg_pool2d(side, *windows).mul(area).round() for side in (least, most))


def in_8_bits(node):
    """(weights of 8 bits [out, ...], the gain of each of its channels [out]): a layer's weights are their products."""
    weight = node["weight"].reshape(len(node["weight"]), -1)
    large = np.abs(weight).max(axis=1) > 127
    gain = np.where(large, np.maximum(np.gcd.reduce(weight, axis=1), 1), 1)
    small = weight // gain[:, None]
    if np.abs(small).max() > 127:
        raise InputError(f"the weights of {node['name']!r} reach {np.abs(weight).max()}: they do not fit 8 bits")
    return small.reshape(node["weight"].shape), gain


class Program:
    """`nodes` in order, the name of the last as `answer`, what its numbers are divided by as `unit`; see the module.

    `schedule` is its `Schedule`, `steps_to_exact` how many steps make every answer exact (L while streaming), `coarse`
    those at first in which spikes may be worth more than a level, `spans`
    are {name: (least, most)} of its totals, whatever the image, at any time under an exact schedule.
    """

    def __init__(self, network: SpikingNetwork, x: torch.Tensor):
        if not isinstance(network, SpikingNetwork) or not is_whole(network.graph):
            raise InputError(
                "a spiking network in whole numbers is exported: convert(integers(network, sample), schedule)"
            )
        if network.pre_steps or network.operators != "accumulated":
            raise InputError("a calibrated network, or one with operators per step, has no form in exports")
        self.schedule, self.graph, self.kinds = network.schedule, network.graph, kinds_of(network.graph)
        self.used = {"image", *network.layers}
        if "image" in network.layers:
            raise InputError("a spiking layer is called 'image', as the images are in exports: rename it")
        self.unit, self.nodes = np.ones(1), []
        self.levels = max(neuron.levels for neuron in network.layers.values())
        self.steps_to_exact, self.coarse = network.phases * network.steps, network.coarse
        self.values: dict = {}
        with evaluating(network.graph):
            for node in network.graph.graph.nodes:
                if node.op != "output":
                    self.values[node] = x[:1] if node.op == "placeholder" else self._value(node)
        self.named: dict[Any, str] = {}
        for node in network.graph.graph.nodes:
            self._add(node)
        self.spans: dict = {}
        for node in self.nodes:
            self.spans[node["name"]] = span(node, [self.spans[source] for source in node["inputs"]])
        for node in self.nodes:
            if self.reach(node) > HELD:
                raise InputError(f"{node['name']}: sums reach {self.reach(node)}, and exports hold them up to {HELD}")

    def _value(self, node):
        module = module_of(self.graph, node)
        if isinstance(module, SpikingNeuron):
            return module.quantised(self.values[node.all_input_nodes[0]])
        return value_of(self.graph, node, self.values)

    def _add(self, node):
        if self.kinds[node] in FIXED or node.op in ("get_attr",):
            return
        if node.op == "placeholder":
            self.named[node] = "image"
            return
        if node.op == "output":
            self.answer = self.named[node.all_input_nodes[0]]
            return
        if not isinstance(self.values[node], torch.Tensor):
            return  # a tuple: what takes a part of it reads what it was made of
        sources = self._sources(node)
        source, *others = [self.named[n] for n in sources]
        found = self._node(node, source, others)
        if found is None:
            self.named[node] = source
            return
        if len(self.values[node]) != 1:
            raise InputError(f"{named(node)}{place_of(node)}: its first axis is not that of images, which exports need")
        shape = tuple(self.values[node].shape[1:])
        same = found["op"] == "gather" and not others and shape == tuple(self.values[sources[0]].shape[1:])
        if same and (np.diff(found["index"]) == 1).all():
            self.named[node] = source
            return
        names = {"neuron": layer_name, "image": lambda node: "image"}
        name = names.get(found["op"], self._unused)(node)
        if "factor" in found:
            found["factor"] = spread(found["factor"], shape)
        self.nodes.append({"name": name, "inputs": [source, *others], "shape": shape} | found)
        self.named[node] = name

    def _unused(self, node):
        """A name for a node that no other has: modules and functions may share theirs."""
        name = named(node)
        while name in self.used:
            name += "_"
        self.used.add(name)
        return name

    def reach(self, node):
        """The largest number that a node's value, or its neurons' membranes, can be under an exact schedule."""
        least, most = self.spans[node["name"]]
        if node["op"] != "neuron":
            return int(torch.maximum(least.abs(), most.abs()).max())
        step, (lowest, highest) = torch.from_numpy(node["factor"]).double(), self.spans[node["inputs"][0]]
        return int(torch.maximum((lowest - most * step).abs(), (highest - least * step).abs()).max())

    def _sources(self, node):
        """The nodes whose tensors a node reads, through tuples."""
        moving = [source for source in node.all_input_nodes if self.kinds[source] not in FIXED]
        tensors = [[n] if isinstance(self.values[n], torch.Tensor) else self._sources(n) for n in moving]
        return list(dict.fromkeys(source for each in tensors for source in each))

    def _constant(self, node):
        return value_of(self.graph, next(n for n in node.all_input_nodes if self.kinds[n] in FIXED), {})

    def _node(self, node, source, others):
        """Operation and settings of a node; None for one that is its source."""
        module, name = module_of(self.graph, node), operation_of(self.graph, node)
        if isinstance(module, Pixels):
            zero = whole_array(module.zero(), "the zero pixel").reshape(-1)
            mean, std = (value.detach().cpu().reshape(-1).tolist() for value in (module.mean, module.std))
            return {"op": "image", "inputs": [], "most": module.most, "zero": zero, "mean": mean, "std": std}
        if isinstance(module, SpikingNeuron):
            step = whole_array(module.threshold / module.levels, f"theta / L of {layer_name(node)!r}")
            return {"op": "neuron", "factor": step, "levels": module.levels, "lowest": module.lowest,
                    "depth": module.depth, "worths": module.worths}  # fmt: skip
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return self._layer(module, named(node))
        if (
            name in ("max_pool2d",)
            and isinstance(module, nn.MaxPool2d)
            and not module.ceil_mode
            and pair(module.dilation) == (1, 1)
        ):
            return {"op": "max_pool2d", **self._windows(module)}
        if isinstance(module, SumPool2d):
            return {"op": "sum_pool2d", **self._windows(module)}
        if name == "add" and len(others) == 1 and node.target is operator.add:
            return {"op": "add"}
        if node.target is operator.mul and not others:
            return {"op": "scale", "factor": whole_array(self._constant(node), f"the factor of {named(node)}")}
        if node.target is operator.truediv and not others:
            return self._divided(node)
        return self._gathered(node) or self._refused(node)

    def _gathered(self, node):
        """A node that only moves numbers, found by moving their places: the same whichever way they are numbered."""
        if self.kinds[node] is not Kind.LINEAR or operation_of(self.graph, node) in WEIGHTED:
            return None
        moving = self._sources(node)
        sizes = [self.values[source].numel() for source in moving]
        order = -1 - torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(0))

        def value(of, seen):
            for source in of.all_input_nodes:
                if source not in moving and self.kinds[source] not in FIXED:
                    value(source, seen)  # a tuple
            seen[of] = value_of(self.graph, of, seen)
            return seen[of]

        def moved(numbers):
            parts = zip(moving, numbers.double().split(sizes), strict=True)
            seen = self.values | {source: part.reshape(self.values[source].shape) for source, part in parts}
            return value(node, seen).reshape(-1)

        try:
            places, others = moved(torch.arange(sum(sizes)) + 1), moved(order)
        except (RuntimeError, TypeError):
            return None
        index = places.round().long() - 1
        there = index >= 0
        if not (places == index + 1).all() or (index >= len(order)).any() or (others[~there] != 0).any():
            return None
        if not (others[there] == order[index[there]]).all():
            return None
        return {"op": "gather", "index": index.numpy()}

    def _refused(self, node):
        raise InputError(f"{named(node)} ({label_of(self.graph, node)}){place_of(node)} has no form in exports")

    def _windows(self, module):
        stride = module.kernel_size if module.stride is None else module.stride
        return {"window": pair(module.kernel_size), "stride": pair(stride), "padding": pair(module.padding)}

    def _layer(self, module, name):
        bias = torch.zeros(len(module.weight)) if module.bias is None else module.bias
        arrays = {"weight": whole_array(module.weight, f"{name}.weight"), "bias": whole_array(bias, f"{name}.bias")}
        if isinstance(module, nn.Linear):
            return {"op": "linear", **arrays}
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise InputError(
                f"{name}: padding {module.padding!r} of mode {module.padding_mode!r} has no form in exports"
            )
        sides = {key: pair(getattr(module, key)) for key in ("stride", "padding", "dilation")}
        return {"op": "conv2d", **arrays, **sides, "groups": module.groups}

    def _divided(self, node):
        """A division: of a neuron's value by D, which gives its level, or of the answer by a power of two."""
        (before, *_), by = node.all_input_nodes, self._constant(node)
        module = module_of(self.graph, before)
        if isinstance(module, SpikingNeuron):
            if not (module.levels * by == module.threshold).all():
                self._refused(node)
            return None
        if any(user.op != "output" for user in node.users):
            self._refused(node)
        self.unit = by.detach().cpu().double().reshape(-1).numpy()
        return None
