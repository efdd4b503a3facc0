"""Bias correction: quantisation shifts the mean of what a layer sees, and its biases can take that back.

Layer after layer, each channel's mean input in the quantised network (whose earlier layers are corrected already) is
compared with that in the original one, and the difference is added to the bias in front. No labels, no training.
After Nagel et al., Data-free quantization through weight equalization and bias correction (ICCV 2019), 4.2, with the
means of a sample. Shapes: a sample is [batch, ...]; channels are axis 1 behind a convolution, the last behind linear.
"""

import numpy as np

from .checks import InputError, array, finite
from .conversion import fold_batch_norms
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
    compared = {node["inputs"][0] for node in network if node["op"] == "qcfs"} | {network[-1]["name"]}
    values = {"image": array(finite(sample, "sample"))}
    wanted = dict(values)
    for node in network:
        own = original(node) if node["op"] == "qcfs" else node
        values[node["name"]] = FORWARD[node["op"]](node, *(values[name] for name in node["inputs"]))
        wanted[node["name"]] = FORWARD[own["op"]](own, *(wanted[name] for name in node["inputs"]))
        layer = layer_before(network, node["name"]) if node["name"] in compared else None
        axis = 1 if layer is not None and layer["op"] == "conv2d" else values[node["name"]].ndim - 1
        if layer is not None and len(layer["weight"]) == values[node["name"]].shape[axis]:
            others = tuple(i for i in range(values[node["name"]].ndim) if i != axis)
            shift = (wanted[node["name"]] - values[node["name"]]).mean(axis=others)
            layer["bias"] = shift if layer["bias"] is None else layer["bias"] + shift
            by_channel = shift.reshape(-1, *(1,) * (values[node["name"]].ndim - axis - 1))
            values[node["name"]] = values[node["name"]] + by_channel
    return network


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
