"""How large the sums of a network in whole numbers can become, and which formats hold them (T7).

A sum, in any order, and each of its parts is at most sum |weight| times the largest input, plus |bias| (15.3). What a
neuron compares adds up to (L + 1) D. A format of p significant bits holds whole numbers up to 2^p.
"""

import numpy as np

from .checks import InputError


def is_whole(network):
    """Whether a network's values are whole numbers (`integers`)."""
    return any(node["op"] == "pixels" for node in network)


def largest(node, *sizes):
    """The largest size of a node's value, from those of its inputs."""
    op, size = node["op"], sum(sizes)
    if op in ("linear", "conv2d"):
        weight = np.abs(node["weight"]).reshape(len(node["weight"]), -1).sum(axis=1, dtype=float)
        return np.max(weight * size + np.abs(0 if node["bias"] is None else node["bias"]))
    if op == "pixels":
        return node["most"]
    if op in ("qcfs", "spiking"):
        return node["levels"] - node["lowest"]  # as numbers, after the division by D; a spike may change one that much
    factor = {"sum_pool2d": lambda: node["size"] ** 2, "scale": lambda: np.max(node["factor"])}
    return size * factor[op]() if op in factor else size


def largest_sums(network: list[dict]) -> dict[str, float]:
    """{node: the largest number that it can hold or compare} of a network in whole numbers (15.3)."""
    sizes, sums = {"image": 0}, {}
    for node in network:
        name, inputs = node["name"], [sizes[source] for source in node["inputs"]]
        sizes[name] = sums[name] = largest(node, *inputs)
        if node["op"] in ("qcfs", "spiking"):
            threshold = node["threshold"] if node["op"] == "spiking" else node["parameter"]
            sums[name] = inputs[0] + (node["levels"] + 1) * float(np.max(threshold)) / node["levels"]
    return sums


def held(network, format, images=1):
    """InputError unless a format holds every sum of a network in whole numbers, of `images` presentations of an image.

    Networks whose values are no whole numbers pass.
    """
    if format.hasobject or not is_whole(network):
        return
    limit = 2 ** (np.finfo(format).nmant + 1)
    for name, most in largest_sums(network).items():
        if images * most > limit:
            raise InputError(
                f"{name}: sums reach {images * most:.0f}, and {format} holds whole numbers up to {limit}: "
                "choose a wider format or fewer bits, or quantise what it reads"
            )
