"""A quantised network in whole numbers: every order of summation then gives the same bits (T7).

Images are pixels, weights small whole numbers, thresholds whole, and a level is sent as its number. One in a node's
value is worth its `unit`: a weight w becomes round(w worth / unit), where one in its input is worth `worth`. In front
of neurons the unit is d / D, with d = theta / L and an even D for each channel, so that the threshold is L D. Then

    level(z) = clip(floor((2 z + D) / (2 D)), lowest, L)

compares whole numbers, and so does a neuron on increments (`integer_step`). Floats compute the same as long as no sum
leaves the whole numbers that they hold (`largest_sums`). Formulas: docs/derivations.md (15.1) to (15.4).
Shapes: images [batch, C, H, W] or [batch, F]; a unit is [C, 1, 1] or [F].
"""

import numpy as np

from .checks import InputError, array, finite, positive, whole
from .conversion import fold_batch_norms
from .correction import matched, means
from .operators import FORWARD
from .pixels import FAR, image_of, of_whole_pixels
from .sums import held
from .thresholds import threshold_of
from .units import FINEST, WEIGHTED, Units, at, even, level_of

SUMMED = (*WEIGHTED, "add", "qcfs")
KNOWN = (*SUMMED, "avg_pool2d", "max_pool2d", "flatten")
WHOLE = ("weight", "bias", "parameter", "factor")


def integers(
    network: list[dict],
    sample: np.ndarray,
    bits: int = 8,
    mean: float | np.ndarray = 0.0,
    std: float | np.ndarray = 1.0,
    most: int = 255,
) -> list[dict]:
    """The quantised network in whole numbers, with weights of 2 to 8 bits; it takes the same images (T7).

    Images, and `sample` [batch, ...], are (pixel / most - mean) / std of whole pixels 0..most; `mean` and `std` are
    numbers, or one per channel. The first operator finds the pixels again. InputError names what cannot be whole
    numbers (layer norm, softmax, an activation that is not quantised), a sample without such pixels, and a layer whose
    sums the format cannot hold.
    """
    if not 2 <= whole(bits, "bits") <= FINEST:
        raise InputError(f"bits must be 2 to {FINEST}, got {bits}")
    network = fold_batch_norms(network)
    for node in network:
        if node["op"] == "qcfs":
            positive(threshold_of(node["parameter"], node["positivity"]), f"the threshold of {node['name']!r}")
        if node["op"] not in KNOWN:
            why = "quantise the network first" if node["op"] == "relu" else "it has no form in whole numbers"
            raise InputError(f"{node['name']} is a {node['op']}: {why}")
    sample = array(finite(sample, "sample"))
    units = Units(network, pixels_of(sample, mean, std, whole(most, "most")), sample[:1], bits)
    wanted = {name: value / units.unit(name).ravel() for name, value in means(network, network, sample).items()}
    nodes = matched(rounded(network, units), wanted, sample, np.rint)
    held(nodes, next(node["weight"] for node in network if node["op"] in WEIGHTED).dtype)
    return nodes


def pixels_of(sample, mean, std, most):
    """The operator that finds the pixels of images again; InputError if those of the sample are no whole numbers."""
    column = (-1, *(1,) * (sample.ndim - 2))
    for name, value in (("mean", mean), ("std", std)):
        if np.ndim(value) > 1 or np.size(value) not in (1, sample.shape[1]):
            raise InputError(f"{name} must be a number, or one for each of {sample.shape[1]} channels, got {value!r}")
    mean, std = (
        array(value).reshape(column) if np.size(value) > 1 else array(value).reshape(()) for value in (mean, std)
    )
    positive(std, "std")
    if np.max(np.abs(image_of(0.0, mean, std, most) * std)) > FAR:
        raise InputError(
            f"a mean of {mean.ravel().tolist()} is far from every pixel 0..{most}: give images whose mean is one"
        )
    node = {"name": "pixels", "op": "pixels", "inputs": ["image"], "mean": mean, "std": std, "most": most}
    of_whole_pixels(sample, mean, std, most)
    return node


def rounded(network, units):
    """The nodes in whole numbers."""
    nodes, renamed = [units.pixels], {"image": "pixels"}

    def widened(source, unit, reader):
        """The name of a value in this unit: the value itself, or a whole multiple."""
        factor = units.multiple(source, unit, reader)
        if np.all(factor == 1):
            return renamed.get(source, source)
        name = f"{source}_wide{sum(source in node['inputs'] for node in nodes) or ''}"
        nodes.append({"name": name, "op": "scale", "inputs": [renamed.get(source, source)], "factor": factor})
        return name

    for node in network:
        name, own, sources = node["name"], units.whole_sum(node["name"]), node["inputs"]
        unit = units.unit(sources[0] if node["op"] == "qcfs" else own) if node["op"] in SUMMED else None
        renames = [
            renamed.get(s, s) if node["op"] in WEIGHTED or unit is None else widened(s, unit, name) for s in sources
        ]
        node = node | {"inputs": renames}
        if node["op"] in WEIGHTED:
            node |= whole_layer(node, units, unit, sources[0] == "image")
        if node["op"] == "avg_pool2d":
            node["op"] = "sum_pool2d"
        nodes.append(node)
        if node["op"] == "qcfs":
            step = even(np.rint(level_of(node) / unit / 2), node["levels"])
            node |= {"parameter": node["levels"] * step, "positivity": "raw"}
            renamed[name] = f"{name}_levels"
            nodes.append({"name": renamed[name], "op": "divide", "inputs": [name], "by": step})
    last = network[-1]["name"]
    unit = units.unit(last)
    return [*nodes, {"name": "answer", "op": "divide", "inputs": [widened(last, unit, "the answer")], "by": 1 / unit}]


def whole_layer(node, units, unit, of_image):
    """A layer's weights and bias in whole numbers; one that reads the image starts from the pixel that counts as 0."""
    column, bias = unit.reshape(-1), 0 if node["bias"] is None else node["bias"]
    shape = (-1, *(1,) * (node["weight"].ndim - 1))
    grid = (units.grid * units.gains[units.whole_sum(node["name"])]).reshape(shape)
    weight = np.rint(node["weight"] / (grid * column.reshape(shape) / units.input_worths(node)))
    if of_image:
        rest = image_of(0.0, *(units.pixels[part] for part in ("mean", "std", "most")))
        rest = np.broadcast_to(rest, units.values["image"].shape[1:])
        bias = bias + (node["weight"] * at(node, rest)).reshape(len(node["weight"]), -1).sum(axis=1)
    weight = np.clip(weight, -units.most, units.most) * grid
    return {"weight": weight, "bias": np.rint(bias / column)}


def integer_level(z: np.ndarray, step: np.ndarray, levels: int, lowest: int = 0) -> np.ndarray:
    """level(z) of whole numbers with the threshold L `step`: clip((2 z + D) // (2 D), lowest, L), D = `step`."""
    return np.clip((2 * z + step) // (2 * step), lowest, levels)


def integer_step(membrane, current, sent, step, levels, worth, lowest=0):
    """One step of the halving neuron (signed: worth 1) on whole numbers, V(0) = 0. Returns (s, V).

    V <- V + z; s = 1 if 2 V >= w D and N + w <= L, -1 if 2 V < -w D and N - w >= lowest; V <- V - w s D.
    """
    membrane = membrane + current
    up = (2 * membrane >= worth * step) & (sent + worth <= levels)
    down = (2 * membrane < -worth * step) & (sent - worth >= lowest)
    spike = up.astype(int) - down
    return spike, membrane - worth * spike * step


def integer_values(network: list[dict], x: np.ndarray) -> dict[str, np.ndarray]:
    """{node: its value, int64} of a network in whole numbers, computed in whole numbers alone; the answer is undivided.

    Equal to `answer`'s values in any format that holds the sums.
    """
    values = {"image": x}
    for node in network:
        name, inputs = node["name"], [values[source] for source in node["inputs"]]
        whole_node = {k: np.asarray(v).astype(int) if k in WHOLE and v is not None else v for k, v in node.items()}
        if node["op"] == "qcfs":
            step = whole_node["parameter"] // node["levels"]
            values[name] = integer_level(inputs[0], step, node["levels"], node["lowest"])
        elif node["op"] == "divide":  # by D: a level is its number already
            (values[name],) = inputs
        else:
            values[name] = FORWARD[node["op"]](whole_node, *inputs).astype(int)
    return values
