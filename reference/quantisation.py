"""From a ReLU network to a quantised one, and from layer thresholds to finer ones (Algorithm 1; derivations 11.1)."""

from numbers import Real

import numpy as np

from .activation import MASKS, PAPER, variant
from .checks import InputError, broadcasts, finite, one_of, positive, whole
from .initial import block_maximum, histogram, image_maxima, method_of
from .initial import initial_threshold as threshold_from
from .network import build, forward
from .operators import TRAINED
from .thresholds import parameter_for, threshold_of, threshold_shape

SITES = {  # site -> {granularity of the variant: granularity at the site}; all others: one threshold per layer
    "head": {"head": "head", "head and neuron": "head", "channel": "head"},
    "neuron": {"neuron": "neuron", "head and neuron": "neuron", "channel": "neuron"},
    "layer": {},
}
ELSEWHERE = {"head and neuron": "neuron"}


def feature_shape(network, name):
    """(C, 1, 1) or (F,) of a node's output, from the nearest convolution or linear layer before it.

    Enough for thresholds per layer, channel and token feature; InputError if there is no such layer.
    """
    nodes = {node["name"]: node for node in network}
    while name in nodes and nodes[name]["op"] not in ("conv2d", "linear", "flatten"):
        name = nodes[name]["inputs"][0]
    if name not in nodes or nodes[name]["op"] == "flatten":
        raise InputError(f"the feature shape at {name!r} is not known from the network alone: give a sample")
    width = len(nodes[name]["weight"])
    return (width, 1, 1) if nodes[name]["op"] == "conv2d" else (width,)


def activation_shape(network, node, granularity, sample=None):
    """The threshold's shape at a node for a granularity; from `sample` (its value there), or else from the network.

    In a transformer the node's `site` decides (4.2.3): thresholds per head in attention, per neuron in the feed-forward
    layers, per layer on the projection (Eq. 4-5), the first two only if `granularity` includes them. Elsewhere
    "head and neuron" means neuron.
    """
    site = node.get("site")
    granularity = SITES[site].get(granularity, "layer") if site else ELSEWHERE.get(granularity, granularity)
    if granularity == "layer":
        return ()
    if site == "head":
        return (node["heads"], 1, 1)
    features = sample.shape[1:] if sample is not None else feature_shape(network, node["inputs"][0])
    if len(features) == 3 and granularity == "neuron":
        raise InputError(f"{node['name']}: feature maps share thresholds by channel; choose 'c-qcfs' or 'cs-qcfs'")
    return threshold_shape(granularity, features, heads=features[0])


def quantise(
    network: list[dict],
    activation: str = "cs-qcfs",
    levels: int = 8,
    initial_threshold: float | str | None = None,
    sample: np.ndarray | None = None,
    mask: str = PAPER,
) -> list[dict]:
    """A copy of the network in which every relu is a QCFS (Algorithm 1, lines 1 to 5).

    `initial_threshold` is theta, not lambda: a positive number, or "max", "mse" or a percentile ("p99.9") of each
    block's activations over `sample` [batch, ...] in the given network (initial.py). The default is "mse" with a
    sample, else 4. `mask` says where derivatives pass (`MASKS`). InputError names what is neither.
    """
    granularity, positivity = variant(activation)
    levels, mask = whole(levels, "levels"), one_of(mask, MASKS, "mask")
    start = start_of(initial_threshold, sample)
    network = build(network)
    values = {} if sample is None else forward(network, finite(sample, "sample"))
    quantised, found = [], False
    for node in network:
        if node["op"] == "relu":
            found, z = True, values.get(node["inputs"][0])
            shape = activation_shape(network, node, granularity, z)
            theta = from_sample(z, shape, levels, start) if isinstance(start, str) else np.full(shape, start)
            parameter = parameter_for(theta, positivity).astype(dtype(network))
            settings = {"parameter": parameter, "levels": levels, "lowest": 0, "positivity": positivity, "mask": mask}
            node = node | {"op": "qcfs"} | settings
        quantised.append(node)
    if not found:
        raise InputError("the network has no relu to quantise")
    return quantised


def start_of(initial_threshold, sample):
    """How thresholds start: a positive number, or the name of a method that reads the sample."""
    if initial_threshold is None:
        return 4.0 if sample is None else "mse"
    if isinstance(initial_threshold, str) and sample is not None:
        method_of(initial_threshold)
        return initial_threshold
    if not isinstance(initial_threshold, Real):
        choices = "a positive number, or 'max', 'mse' or 'p99.9' together with a sample of images"
        raise InputError(f"initial_threshold must be {choices}, got {initial_threshold!r}")
    return positive(initial_threshold, "threshold")


def from_sample(z, shape, levels, method):
    """The initial thresholds of a layer with inputs z."""
    largest = block_maximum(image_maxima(z, shape), method)
    return threshold_from(histogram(z, largest), largest, levels, method)


def dtype(network):
    """The floating format of a network's arrays (that of its first trained array); float64 if there is none."""
    return next((np.asarray(n[p]).dtype for n in network for p in TRAINED if n.get(p) is not None), np.dtype(float))


def expand(network: list[dict], activation: str = "cs-qcfs", sample: np.ndarray | None = None) -> list[dict]:
    """The stage switch: every QCFS gets the granularity and positivity of `activation`, its threshold unchanged.

    Algorithm 1, line 9, as derived: each block starts from the inverse of theta, not from lambda. No level changes,
    except within a few ulp of a tie, where softplus(softplus_inverse(theta)) differs from theta.
    InputError names the first layer whose raw threshold is not positive.
    """
    granularity, positivity = variant(activation)
    values = {} if sample is None else forward(network, sample)
    expanded = []
    for node in network:
        if node["op"] == "qcfs":
            shape = activation_shape(network, node, granularity, values.get(node["inputs"][0]))
            parameter = node["parameter"]
            theta = positive(threshold_of(parameter, node["positivity"]), f"the threshold of {node['name']!r}")
            if positivity != node["positivity"]:
                parameter = parameter_for(theta, positivity)
            broadcasts(parameter, shape, f"threshold of {node['name']!r}")
            parameter = np.broadcast_to(parameter, shape).astype(node["parameter"].dtype)
            node = node | {"parameter": parameter.copy(), "positivity": positivity}
        expanded.append(node)
    return expanded
