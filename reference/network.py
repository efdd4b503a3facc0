"""A network as data: a list of nodes in evaluation order, run forward and backward.

A node is a dict: `name`, `op`, `inputs` (names of earlier nodes, or "image") and the entries of its operator (table in
operators.py). The last node is the answer. Example: dict(name="fc", op="linear", inputs=["pool"], weight=W, bias=b).
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from . import layers
from .checks import InputError, array, finite, is_exact, one_of
from .operators import ARRAYS, BACKWARD, FORWARD, NEEDS, OPTIONAL, TRAINED, TWO_INPUTS
from .pixels import of_whole_pixels


def build(nodes: Sequence[dict]) -> list[dict]:
    """A network from a list of nodes: checked, completed with optional settings, its arrays copied.

    If one array holds Fractions, all become Fractions. InputError names the node: unknown operator, missing entry,
    unknown input or a wrong number of them, a name used twice, NaN or infinity.
    """
    network, known = [], {"image"}
    exact = any(is_exact(node.get(part)) for node in nodes for part in ARRAYS if node.get(part) is not None)
    like = np.array(Fraction(0)) if exact else None
    if not nodes:
        raise InputError("a network needs at least one node")
    for node in nodes:
        if not {"name", "op", "inputs"} <= set(node):
            raise InputError(f"a node needs 'name', 'op' and 'inputs', got {sorted(node)}")
        name, op = node["name"], one_of(node["op"], FORWARD, "operator")
        for source in node["inputs"]:
            one_of(source, known, f"input of {name!r}")
        if len(node["inputs"]) != (2 if op in TWO_INPUTS else 1):
            raise InputError(
                f"node {name!r} ({op}) has {len(node['inputs'])} inputs: {' and '.join(TWO_INPUTS)} take 2, "
                "any other operator 1"
            )
        if name in known:
            raise InputError(f"the name {name!r} is used twice")
        full = {"name": name, "op": op, "inputs": list(node["inputs"])}
        for part in NEEDS.get(op, ()):
            if part not in node and part not in OPTIONAL:
                raise InputError(f"node {name!r} ({op}) lacks {part!r}")
            value = node.get(part, OPTIONAL.get(part))
            if part in ARRAYS and value is not None:
                value = np.array(array(finite(value, f"{name}.{part}"), like=like))
            full[part] = value
        network.append(full)
        known.add(name)
    return network


def images(nodes, x):
    """x as an array in the network's arithmetic: Fractions if its weights are; InputError if only x is exact."""
    exact = any(
        is_exact(node.get(part)) for node in nodes for part in (*ARRAYS, "threshold") if node.get(part) is not None
    )
    if is_exact(x) and not exact:
        raise InputError("the images are Fractions and the weights are floats: build the network from Fractions")
    x = array(finite(x, "the images"), like=np.array(Fraction(0)) if exact else None)
    if not x.ndim or not len(x):
        raise InputError(f"the images must be a batch [batch, ...] of at least one, got shape {x.shape}")
    for node in nodes:
        if node["op"] == "pixels":
            of_whole_pixels(x, node["mean"], node["std"], node["most"])
    return x


def forward(network, x, training=False):
    """The values of all nodes in a forward pass, by name; `values[network[-1]["name"]]` is the answer.

    In training, batch norm uses this batch's statistics instead of the running ones.
    """
    values = {"image": images(network, x)}
    for node in network:
        inputs = [values[name] for name in node["inputs"]]
        if training and node["op"] == "batch_norm":
            mean, var = layers.batch_statistics(inputs[0])
            node = node | {"mean": mean, "var": var}
        values[node["name"]] = FORWARD[node["op"]](node, *inputs)
    return values


def backward(network, values, upstream):
    """Gradients of the loss by every trained array, {(node name, part): gradient}, from a training forward pass."""
    return backward_to_image(network, values, upstream)[1]


def backward_to_image(network, values, upstream):
    """(gradient by the images, gradients as in `backward`)."""
    by_value, by_parameter = {network[-1]["name"]: upstream}, {}
    for node in reversed(network):
        g = by_value.pop(node["name"], None)
        if g is None:
            continue  # the answer does not depend on it
        inputs = [values[name] for name in node["inputs"]]
        gradients = BACKWARD[node["op"]](node, inputs, g)
        for name, gradient in zip(node["inputs"], gradients, strict=False):
            by_value[name] = by_value[name] + gradient if name in by_value else gradient
        trained = [part for part in NEEDS.get(node["op"], ()) if part in TRAINED]
        for part, gradient in zip(trained, gradients[len(inputs) :], strict=True):
            if node[part] is not None:
                by_parameter[node["name"], part] = gradient
    return by_value.get("image", 0 * values["image"]), by_parameter


def answer(network: list[dict], x: np.ndarray) -> np.ndarray:
    """The network's output (its logits) for images x [batch, ...]."""
    return forward(network, x)[network[-1]["name"]]
