"""What one is worth, when the values of a quantised network become whole numbers (T7): `reference.units` on a graph.

Worths and units are kept in the shape of a node's value for one image, [1, ...], in float64: an operator that moves
values, or takes the largest of some, moves their worths, and is executed on them.
"""

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from .activation import QCFS
from .checks import InputError
from .graph.operations import (
    FIXED,
    SHARES,
    WEIGHTED,
    Kind,
    answers,
    is_max_pool,
    kinds_of,
    label_of,
    module_of,
    named,
    operation_of,
    place_of,
)  # fmt: skip
from .graph.trace import evaluating, forward, output_of, value_of
from .layers import SumPool2d

FINEST = 8  # bits; weights of fewer bits are multiples of 2^(8 - bits)
MOST_BIAS = 2**21
PARTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # of the unit for the largest weight: a smaller one clips some
COARSE = 16  # least multiple of a skip beside a layer, whose weights get a whole factor if theirs is less
MOST_GAIN = 8  # of that factor, if the skip is of levels
SKIP = 128  # parts of a level that a skip may have at least
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
JOINS = ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack")
MOVES = (*SHARES, *JOINS, "flip", "fliplr", "flipud", "roll", "rot90", "pixel_shuffle", "pixel_unshuffle",
         "channel_shuffle", "repeat", "tile", "index_select", "upsample_nearest")  # fmt: skip


def level_of(activation):
    """d = theta / L, the value of a level."""
    return activation.threshold.detach().double() / activation.levels


def largest_step(levels):
    """The largest even D for which float32 finds every level: (3 L + 4) D < 2^24, L^2 D < 2^24 unless L is 2^n (15.2).

    At most 2^12, so that what a dead channel compares stays small. InputError where there is none.
    """
    power = levels & (levels - 1) == 0
    most = min(2**12, (2**24 - 1) // max(3 * levels + 4, 0 if power else levels**2))
    if most < 2:
        raise InputError(f"{levels} levels have no form in whole numbers: choose fewer, or a power of two")
    return most // 2 * 2


def even(halves, levels):
    """D = 2 `halves`, from 2 to the largest: the membrane then starts at a whole number, D / 2."""
    return 2 * halves.clamp(1, largest_step(levels) // 2)


def is_layer(graph, node):
    """Whether a node is a layer with weights of its own."""
    return isinstance(module_of(graph, node), LAYERS) and operation_of(graph, node) in WEIGHTED


def is_sum(graph, node, kinds):
    """Whether a node is a plain sum of two values."""
    return operation_of(graph, node) == "add" and kinds[node] is Kind.LINEAR and len(node.all_input_nodes) == 2


def window_of(graph, node):
    """How many values each output of a pooling adds up; None for another node."""
    module = module_of(graph, node)
    if not isinstance(module, SumPool2d):
        return None
    sides = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,) * 2
    return sides[0] * sides[1]


def per_channel(values, axis, node):
    """One worth per index of an axis of `values` [1, ...], 0 for padding; InputError where other axes matter."""
    rows = values.movedim(axis, 0).flatten(1)
    most = rows.amax(1)
    if ((rows != most[:, None]) & (rows != 0)).any():
        raise InputError(
            f"{named(node)}: thresholds beside it differ within a channel, which whole weights cannot follow"
        )
    return most


def along(vector, axis, shape):
    """A vector along an axis, in a shape [1, ...]."""
    return vector.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))]).expand(shape)


class Units:
    """The unit of each node's value; InputError for a node that has no form in whole numbers."""

    def __init__(self, graph, pixels, sample, bits):
        self.graph, self.pixels, self.kinds, self.units, self.gains = graph, pixels, kinds_of(graph), {}, {}
        self.grid, self.most = 2 ** (FINEST - bits), 2 ** (bits - 1) - 1
        self.answer, self.worths, self.channels = output_of(graph), {}, {}
        with evaluating(graph):
            self.values = forward(graph, sample[:1])
        for node in graph.graph.nodes:
            self._known(node)

    def _known(self, node):
        """InputError for a node that has no form in whole numbers."""
        name = operation_of(self.graph, node)
        known = self.kinds[node] in (*FIXED, Kind.IMAGE, Kind.NEURON) or node.op == "output" or name in MOVES
        known = known or is_layer(self.graph, node) or is_sum(self.graph, node, self.kinds)
        known = known or (name == "pad" and self.kinds[node] is Kind.LINEAR)
        what = f"{named(node)} ({label_of(self.graph, node)}){place_of(node)}"
        if node.target is answers:
            raise InputError("a network of several outputs has no form in whole numbers: take one of them")
        if is_sum(self.graph, node, self.kinds):
            shapes = {tuple(self.values[source].shape) for source in node.all_input_nodes}
            if len(shapes) > 1:
                raise InputError(f"{what} adds values of several shapes, which has no form in whole numbers")
        if not (known or is_max_pool(self.graph, node) or window_of(self.graph, node)):
            raise InputError(f"{what} has no form in whole numbers")
        if is_layer(self.graph, node) and not self._of_levels(node.all_input_nodes[0]):
            raise InputError(f"{what} reads another layer's sums, which whole weights cannot: quantise what it reads")

    def _of_levels(self, node):
        """Whether a node's value is made of levels or pixels alone."""
        if self.kinds[node] in (Kind.NEURON, Kind.IMAGE):
            return True
        moving = [source for source in node.all_input_nodes if self.kinds[source] not in FIXED]
        return not is_layer(self.graph, node) and all(map(self._of_levels, moving))

    def summed(self, node):
        """Whether a node's value is a term of one sum, and nothing else."""
        readers = list(node.users)
        return len(readers) == 1 and is_sum(self.graph, readers[0], self.kinds)

    def whole_sum(self, node):
        """The sum of which a node's value is in the end a term; the node itself if of none."""
        return self.whole_sum(next(iter(node.users))) if self.summed(node) else node

    def terms(self, node):
        """The terms of a sum."""
        sources = node.all_input_nodes if is_sum(self.graph, node, self.kinds) else ()
        return [t for s in sources for t in (self.terms(s) if self.summed(s) else [s])] if sources else [node]

    def worth(self, node):
        """What one in a node's value is worth to its readers, in the shape of the value."""
        if node not in self.worths:
            self.worths[node] = tree_map(lambda w, v: w.double().expand(v.shape), self._worth(node), self.values[node])
        return self.worths[node]

    def _worth(self, node):
        module = module_of(self.graph, node)
        if node.op == "placeholder":
            return 1 / (self.pixels.most * self.pixels.std.double())
        if isinstance(module, QCFS):
            return level_of(module)
        if is_layer(self.graph, node) or is_sum(self.graph, node, self.kinds):
            return self.unit(self.whole_sum(node))
        moving = {s: self.worth(s) for s in node.all_input_nodes if self.kinds[s] not in FIXED}
        if window_of(self.graph, node):
            (source,) = moving
            worth = per_channel(moving[source], 1, node) / window_of(self.graph, node)
            return along(worth, 1, self.values[node].shape)
        found = value_of(self.graph, node, {**self.values, **moving})
        if is_max_pool(self.graph, node):
            ((source, worth),) = moving.items()
            least = -value_of(self.graph, node, {**self.values, source: -torch.where(worth > 0, worth, torch.inf)})
            if ((found != least) & (found > 0)).any():
                raise InputError(f"{named(node)} takes maxima over thresholds that differ, which have no common unit")
        return found

    def axis(self, node):
        """The axis of a layer's channels."""
        return -1 if isinstance(module_of(self.graph, node), nn.Linear) else 1

    def input_worths(self, node):
        """The worth of one in what each of a layer's weights reads, [out or 1, in / groups, 1, ...]."""
        module, (source,) = module_of(self.graph, node), node.all_input_nodes
        worth = per_channel(self.worth(source), self.axis(node), node)
        if isinstance(module, nn.Linear):
            return worth[None]
        worth = worth.reshape(module.groups, -1)
        worth = worth if module.groups == 1 else worth.repeat_interleave(module.out_channels // module.groups, 0)
        return worth.reshape(*worth.shape, *(1,) * (module.weight.ndim - 2))

    def unit(self, node):
        """The unit of a sum: d / D in front of neurons, a power of two for the answer, else what weights need."""
        if node not in self.units:
            layers = [term for term in self.terms(node) if is_layer(self.graph, term)]
            modules = [module_of(self.graph, user) for user in node.users]
            neuron = next((module for module in modules if isinstance(module, QCFS)), None)
            level = None if neuron is None else level_of(neuron)
            finest, least = self.beside(node, layers) if layers else self.without_layers(node, level)
            if neuron is not None:
                step = even((level / least / 2).floor(), neuron.levels)
                unit = torch.maximum(level / step, least)  # a level less than two counts as two
            elif node is self.answer:
                needed = float(least.max().log2().ceil() if layers else least.max().log2().floor())
                unit = torch.full_like(least, 2.0**needed if least.any() else 1.0)
            else:
                unit = torch.where(least > 0, least, 1.0)
            self.units[node], self.gains[node] = unit, (finest / unit - 1e-9).ceil().clamp(min=1)
        return self.units[node]

    def beside(self, node, layers):
        """(the unit of the weights of a sum's layers, the least unit that its skips want beside them)."""
        finest = torch.stack([self.finest(term) for term in layers]).amax(0)
        least = finest
        for term in [term for term in self.terms(node) if term not in layers]:
            worth = self.worth(term)
            wanted = torch.maximum(worth / COARSE, finest / MOST_GAIN if self._of_levels(term) else worth * 0)
            least = torch.where(worth > 0, torch.minimum(least, wanted), least)
        return finest, least

    def without_layers(self, node, level):
        """`beside` for a sum of skips alone: sums among them are exact only in their own unit."""
        sums = [term for term in self.terms(node) if not self._of_levels(term)]
        units = torch.stack([self.skipping(term, level) for term in sums or self.terms(node)])
        least = torch.where(units > 0, units, torch.inf).amin(0) if sums else units.amax(0)
        return least, least

    def of_channels(self, node):
        """(the unit of the sum of which a layer is a term, the factor of its weights), for each of its channels."""
        whole = self.whole_sum(node)
        unit = self.channels[whole.name] = per_channel(self.unit(whole), self.axis(node), node)
        return unit, per_channel(self.gains[whole], self.axis(node), node)

    def finest(self, node):
        """The unit in which whole weights of the given bits are nearest to a layer's, and its bias is held."""
        module: Any = module_of(self.graph, node)
        weight = (module.weight.detach().double() * self.input_worths(node)).flatten(1)
        units = weight.abs().amax(1) / (self.most * self.grid) * torch.tensor(PARTS).double()[:, None]
        steps = torch.where(units > 0, units * self.grid, 1)[..., None]
        squares = torch.stack([((weight / step).round().clamp(-self.most, self.most) * step - weight).square().sum(1)
                               for step in steps])  # fmt: skip
        unit = units.gather(0, squares.argmin(0)[None])[0]
        bias = torch.zeros_like(unit) if module.bias is None else module.bias.detach().double().abs()
        return along(torch.maximum(unit, bias / MOST_BIAS), self.axis(node), self.values[node].shape)

    def multiple(self, node, unit, reader):
        """The whole multiple that brings a node's value to a unit; InputError if a sum of many is far from it.

        Of levels the unit is fine enough, or so fine already (`largest_step`) that they hardly count.
        """
        worth = self.worth(node)
        factor = (worth / unit).round()
        far = (factor * unit - worth).abs() > worth / (2 * COARSE)
        if far.any() and not self._of_levels(node):
            raise InputError(f"{named(node)} has no form in the whole numbers of {named(reader)}, which reads it: "
                             "quantise it before")  # fmt: skip
        return factor

    def skipping(self, node, level):
        """A unit for a value that no weights bring to the unit of its sum: 1/128 of a level, or the value's own."""
        worth = self.worth(node)
        return worth / (SKIP * worth / (worth if level is None else level)).round().clamp(min=1)
