"""Bias correction: quantisation shifts the mean of what a layer sees, and its biases can take that back.

Layer after layer, each channel's mean input in the quantised network (whose earlier layers are corrected already) is
compared with that in the original one, and the difference is added to the bias in front. No labels, no training.
After Nagel et al., Data-free quantization through weight equalization and bias correction (ICCV 2019), 4.2, with the
means of a sample. Shapes: a sample is [batch, ...]; channels are axis 1 behind a convolution, the last behind linear.
"""

import numpy as np

from .checks import InputError, array, finite
from .conversion import fold_batch_norms
from .network import forward
from .operators import FORWARD

WEIGHTED = ("linear", "conv2d")


def correct_biases(network: list[dict], sample: np.ndarray) -> list[dict]:
    """A copy of a quantised network, batch norm folded, with biases corrected on `sample`.

    Its levels must be those that it will run at. An input that does not come from a linear or conv2d node of its own
    (directly, or through a sum) is left as it is. InputError if the network is not quantised.
    """
    network = fold_batch_norms(network)
    if not any(node["op"] == "qcfs" for node in network):
        raise InputError("biases are corrected in a quantised network, before it is converted")
    x = array(finite(sample, "sample"))
    wanted = means([original(node) if node["op"] == "qcfs" else node for node in network], network, x)
    return matched(network, wanted, x)


def means(network, quantised, x):
    """{name: the mean of each channel} in a network on images x, for the values that biases in a quantised one shift.

    These are the inputs of its activations and its answer, where a layer is in front whose bias shifts them alone.
    """
    names = {node["inputs"][0] for node in quantised if node["op"] == "qcfs"} | {quantised[-1]["name"]}
    values, found = forward(network, x), {}
    for name in names:
        layer = layer_before(quantised, name)
        if layer is not None and len(layer["weight"]) == values[name].shape[axis_of(layer, values[name])]:
            found[name] = mean(layer, values[name])
    return found


def matched(network, wanted, x, rounding=np.asarray):
    """The network with biases corrected, one layer after another, until the means are those `wanted`."""
    values = {"image": x}
    for node in network:
        name = node["name"]
        values[name] = FORWARD[node["op"]](node, *(values[source] for source in node["inputs"]))
        if name in wanted:
            layer = layer_before(network, name)
            shift = rounding(wanted[name] - mean(layer, values[name]))
            layer["bias"] = shift if layer["bias"] is None else layer["bias"] + shift
            axis = axis_of(layer, values[name])
            values[name] = values[name] + shift.reshape(-1, *(1,) * (values[name].ndim - axis - 1))
    return network


def axis_of(layer, values):
    """The axis of a layer's channels."""
    return 1 if layer["op"] == "conv2d" else values.ndim - 1


def mean(layer, values):
    """The mean of each channel of a layer."""
    return values.mean(axis=tuple(i for i in range(values.ndim) if i != axis_of(layer, values)))


def original(node):
    """The node for which a qcfs node stands: a relu, or with levels below zero the value itself."""
    return node | ({"op": "relu"} if node["lowest"] == 0 else {"op": "shift", "bias": None})


def layer_before(network, name):
    """The node whose bias shifts the value of `name` once and no other: a linear or conv2d node read once, or None."""
    node = next((node for node in network if node["name"] == name), {"op": "image"})
    if node["op"] in WEIGHTED:
        return node if read_once(network, name) else None
    if node["op"] != "add":
        return None
    sources = [source for source in node["inputs"] if read_once(network, source)]
    return next((found for source in sources if (found := layer_before(network, source)) is not None), None)


def read_once(network, name):
    """Whether at most one node reads the value of `name`, and reads it once."""
    return sum(other["inputs"].count(name) for other in network) < 2
