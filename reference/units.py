"""What one is worth, when the values of a quantised network become whole numbers (T7; integers.py).

In front of neurons the unit of a sum is d / D: d = theta / L is the value of a level, D an even number for each
channel. The answer's unit is a power of two, the same for all classes. Elsewhere it is the least that weights allow.
Formulas: docs/derivations.md (15.1), (15.2). Shapes: a unit is [C, 1, 1] or [F].
"""

import numpy as np

from .checks import InputError, array
from .operators import FORWARD
from .thresholds import threshold_of

WEIGHTED = ("conv2d", "linear")
FINEST = 8  # bits; weights of fewer bits are multiples of 2^(8 - bits)
MOST_BIAS = 2**21
PARTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # of the unit for the largest weight: a smaller one clips some
COARSE = 16  # least multiple of a skip beside a layer, whose weights get a whole factor if theirs is less
MOST_GAIN = 8  # of that factor, if the skip is of levels
SKIP = 128  # parts of a level that a skip may have at least


def level_of(node):
    """d = theta / L, the value of a level."""
    return np.asarray(threshold_of(node["parameter"], node["positivity"]), float) / node["levels"]


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
    return 2 * np.clip(halves, 1, largest_step(levels) // 2)


def at(node, values):
    """Of the values of a layer's inputs for one image, those that its weights are multiplied by, channel by channel."""
    return values[:, :1, :1] if node["op"] == "conv2d" else values


class Units:
    """The unit of each node's value, and from it the whole numbers."""

    def __init__(self, network, pixels, sample, bits):
        self.network, self.pixels, self.units, self.gains = network, pixels, {}, {}
        self.by_name = {node["name"]: node for node in network}
        self.readers = {name: [n for n in network if name in n["inputs"]] for name in ("image", *self.by_name)}
        self.grid, self.most = 2 ** (FINEST - bits), 2 ** (bits - 1) - 1
        self.values = {"image": array(sample)}
        for node in network:
            if node["op"] in WEIGHTED and not self.of_levels(node["inputs"][0]):
                raise InputError(f"{node['name']} reads another layer's sums: quantise what it reads")
            shapes = {self.values[source].shape for source in node["inputs"]}
            if len(shapes) > 1:
                raise InputError(f"{node['name']} adds values of several shapes, which has no form in whole numbers")
            self.values[node["name"]] = FORWARD[node["op"]](node, *(self.values[name] for name in node["inputs"]))

    def of_levels(self, name):
        """Whether a node's value is made of levels or pixels alone."""
        node = self.by_name.get(name)
        if node is None or node["op"] == "qcfs":
            return True
        return node["op"] not in WEIGHTED and all(map(self.of_levels, node["inputs"]))

    def summed(self, name):
        """Whether a node's value is a term of one sum, and nothing else."""
        readers = self.readers[name]
        return [(n["op"], n["inputs"].count(name)) for n in readers] == [("add", 1)]

    def whole_sum(self, name):
        """The sum of which a node's value is in the end a term; the node itself if of none."""
        return self.whole_sum(self.readers[name][0]["name"]) if self.summed(name) else name

    def terms(self, name):
        """The terms of a sum."""
        sources = self.by_name[name]["inputs"] if self.by_name[name]["op"] == "add" else ()
        return [t for s in sources for t in (self.terms(s) if self.summed(s) else [s])] if sources else [name]

    def worth(self, name):
        """What one in a node's value is worth to its readers."""
        if name == "image":
            return 1 / (self.pixels["most"] * np.asarray(self.pixels["std"]))
        node = self.by_name[name]
        if node["op"] == "qcfs":
            return level_of(node)
        if node["op"] in (*WEIGHTED, "add"):
            return self.unit(self.whole_sum(name))
        (source,) = node["inputs"]
        if node["op"] == "avg_pool2d":
            return self.worth(source) / node["size"] ** 2
        return self.spread(source).ravel() if node["op"] == "flatten" else self.worth(source)

    def spread(self, name):
        """`worth` in the shape of a node's value for one image."""
        return np.broadcast_to(self.worth(name), self.values[name].shape[1:])

    def input_worths(self, node):
        """What one in each of a layer's inputs is worth."""
        return at(node, self.spread(self.by_name[node["name"]]["inputs"][0]))

    def unit(self, name):
        """The unit of a sum: d / D in front of neurons, a power of two for the answer, else what weights need."""
        if name not in self.units:
            layers = [t for t in self.terms(name) if self.by_name.get(t, self.pixels)["op"] in WEIGHTED]
            neurons = [node for node in self.readers[name] if node["op"] == "qcfs"]
            level = level_of(neurons[0]) if neurons else np.inf
            finest, least = self.beside(name, layers) if layers else self.without_layers(name, level)
            if neurons:
                with np.errstate(divide="ignore"):
                    step = even(np.floor(level / least / 2), neurons[0]["levels"])
                unit = np.maximum(level / step, least)  # a level less than two counts as two
            elif name == self.network[-1]["name"]:
                needed = np.max(least) if np.any(least) else 1.0
                unit = np.full(least.shape, 2.0 ** (np.ceil if layers else np.floor)(np.log2(needed)))
            else:
                unit = np.where(least > 0, least, 1.0)
            self.units[name], self.gains[name] = unit, np.maximum(np.ceil(finest / unit - 1e-9), 1)
        return self.units[name]

    def beside(self, name, layers):
        """(the unit of the weights of a sum's layers, the least unit that its skips want beside them)."""
        shape = self.feature_shape(name)
        finest = np.maximum.reduce([np.broadcast_to(self.finest(term), shape) for term in layers])
        least = finest
        for term in [term for term in self.terms(name) if term not in layers]:
            wanted = self.worth(term) / COARSE
            least = np.minimum(least, np.maximum(wanted, finest / MOST_GAIN) if self.of_levels(term) else wanted)
        return finest, least

    def without_layers(self, name, level):
        """`beside` for a sum of skips alone: sums among them are exact only in their own unit."""
        shape = self.feature_shape(name)
        sums = [term for term in self.terms(name) if not self.of_levels(term)]
        units = [np.broadcast_to(self.skipping(term, level), shape) for term in sums or self.terms(name)]
        least = np.min(units, axis=0) if sums else np.max(units, axis=0)
        return least, least

    def feature_shape(self, name):
        """The shape of a unit."""
        shape = self.values[name].shape[1:]
        return (shape[0], *(1,) * (len(shape) - 1)) if len(shape) == 3 else shape

    def finest(self, name):
        """The unit in which whole weights of the given bits are nearest to a layer's, and its bias is held."""
        node = self.by_name[name]
        weight = (node["weight"] * self.input_worths(node)).reshape(len(node["weight"]), -1)
        units = np.abs(weight).max(axis=1) / (self.most * self.grid) * np.array(PARTS)[:, None]
        steps = np.where(units > 0, units * self.grid, 1)[..., None]
        rounded = np.clip(np.rint(weight / steps), -self.most, self.most) * steps
        best = ((rounded - weight) ** 2).sum(axis=2).argmin(axis=0)
        bias = np.abs(0 if node["bias"] is None else node["bias"])
        unit = np.maximum(np.take_along_axis(units, best[None], axis=0)[0], bias / MOST_BIAS)
        return unit.reshape(self.feature_shape(name))

    def multiple(self, name, unit, reader):
        """The whole multiple that brings a node's value to a unit; InputError if a sum of many is far from it.

        Of levels the unit is fine enough, or so fine already (`largest_step`) that they hardly count.
        """
        worth = self.worth(name)
        factor = np.rint(worth / unit)
        if (np.abs(factor * unit - worth) > worth / (2 * COARSE)).any() and not self.of_levels(name):
            raise InputError(f"{name} has no form in the whole numbers of {reader}, which reads it: quantise it before")
        return factor

    def skipping(self, name, level):
        """A unit for a value that no weights bring to the unit of its sum: 1/128 of a level, or the value's own."""
        worth = self.worth(name)
        return worth / np.maximum(1, np.rint(SKIP * worth / np.where(level < np.inf, level, worth)))
