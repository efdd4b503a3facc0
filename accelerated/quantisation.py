"""From a ReLU network to a quantised one, and from layer thresholds to finer ones (Algorithm 1, corrected).

Works on any module that torch.fx can trace.
"""

from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from .activation import QCFS, Site, variant
from .checks import InputError, broadcasts, finite, one_of, positive, tensor, whole
from .graph.operations import (
    FIXED,
    average_pools,
    is_activation,
    is_relu,
    kinds_of,
    label_of,
    module_of,
    named,
    operation_of,
    refuse_unknown,
    relu_bound,
)  # fmt: skip
from .graph.timm import is_timm_transformer, with_sites
from .graph.trace import evaluating, forward, layer_name, trace, unwrapped
from .initial import block_maximum, filled, histogram, image_maxima, method_of
from .initial import initial_threshold as threshold_from
from .network import batches_of
from .thresholds import parameter_for, threshold_shape

SITES = {  # site -> {granularity of the variant: granularity at the site}; all others: one threshold per layer
    "head": {"head": "head", "head and neuron": "head", "channel": "head"},
    "neuron": {"neuron": "neuron", "head and neuron": "neuron", "channel": "neuron"},
    "layer": {},
}
AT_ONCE = 256  # images of a sample in one pass
KEEPS_AXES = (  # operations whose output has the axes of their first input
    "add", "sub", "mul", "div", "batch_norm", "layer_norm", "softmax", "relu", "relu6", "hardtanh", "clamp", "dropout",
    "identity", "contiguous", "clone", "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
)  # fmt: skip
ELSEWHERE = {"head and neuron": "neuron"}


def feature_shape(graph, node):
    """(C, 1, 1) or (F,) of a node's output, read off the convolution or linear layer before it.

    InputError if anything between them changes axes: then only a sample shows the shape.
    """
    start = node
    while node.op != "placeholder":
        module = module_of(graph, node)
        if isinstance(module, nn.Conv2d):
            return (module.out_channels, 1, 1)
        if isinstance(module, nn.Linear):
            return (module.out_features,)
        if operation_of(graph, node) not in KEEPS_AXES and not isinstance(module, QCFS):
            break
        node = node.all_input_nodes[0]
    raise InputError(f"the feature shape at {start.name!r} is not known from the network alone: give a sample")


def activation_shape(graph, node, granularity, value=None):
    """The threshold's shape at an activation; from its value, or else from the network.

    In a transformer the `site` decides (4.2.3): thresholds per head in attention, per neuron in the feed-forward
    layers, per layer on the projection (Eq. 4-5), the first two only if `granularity` includes them. Elsewhere
    "head and neuron" means neuron.
    """
    module = module_of(graph, node)
    site = getattr(module, "site", None)
    granularity = SITES[site].get(granularity, "layer") if site else ELSEWHERE.get(granularity, granularity)
    if granularity == "layer":
        return ()
    if site == "head":
        return (module.heads, 1, 1)
    if site == "neuron":
        return feature_shape(graph, node.all_input_nodes[0])
    source = node.all_input_nodes[0]
    features = tuple(value.shape[1:]) if value is not None else feature_shape(graph, source)
    if len(features) == 3 and granularity == "neuron":
        raise InputError(f"{node.name}: feature maps share thresholds by channel; choose 'c-qcfs' or 'cs-qcfs'")
    return threshold_shape(granularity, features, heads=features[0])


@torch.no_grad()
def _values(graph, sample):
    """The values of all nodes for a sample in evaluation mode; empty without one."""
    if sample is None:
        return {}
    plainly = torch.autocast(sample.device.type, enabled=False)
    with evaluating(graph), plainly:
        return forward(graph, sample)


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
    return positive(float(initial_threshold))


def _captured(network, max_pool, sample):
    """(graph, what was replaced so far); InputError for what cannot be converted."""
    for name, value in network.state_dict().items():
        if not is_lazy(value):
            finite(value, name)
    one_of(max_pool, ("keep", "average"), "max_pool")
    if is_timm_transformer(network):
        network = with_sites(network)
    graph = trace(network, sample)
    replaced = dict(graph.meta.get("replaced", {}))
    if max_pool == "average":
        replaced |= average_pools(graph)
    refuse_unknown(graph)
    return graph, replaced


def _put_in_place(graph, node, module, used):
    """Replace `node` by a call of `module`, under a name that is not in `used`; returns the name."""
    name = named(node)
    while name in used or (node.op != "call_module" and hasattr(graph, name)):
        name += "_again"
    used.add(name)
    graph.add_submodule(name, module)
    with graph.graph.inserting_before(node):
        replacement = graph.graph.call_module(name, (node.all_input_nodes[0],))
    node.replace_all_uses_with(replacement)
    graph.graph.erase_node(node)
    return name


def quantise(
    network: nn.Module,
    activation: str = "cs-qcfs",
    levels: int = 8,
    initial_threshold: float | str | None = None,
    sample: torch.Tensor | np.ndarray | Sequence | DataLoader | None = None,
    max_pool: str = "keep",
) -> fx.GraphModule:
    """A copy of the network in which every ReLU is a QCFS (Algorithm 1, lines 1 to 5): an nn.Module (fx.GraphModule).

    `initial_threshold` is theta, not lambda: a positive number, or "max", "mse" or a percentile ("p99.9") of each
    block's activations over `sample` in the given network (initial.py). The default is "mse" with a sample, else 4.
    `sample` [batch, ...] is a tensor, an array, a list of images, or a DataLoader. With it, the network is recorded
    while it answers (graph/record.py); without it, only what torch.fx can trace is quantised. Each call of a ReLU gets
    its own thresholds; a ReLU with an upper bound (ReLU6, clamp) is one whose activations end there.
    `max_pool="average"` replaces max pooling by average pooling over the same windows, which changes the answer.
    `summary` says what was replaced. InputError names the first operation that cannot be converted.
    """
    granularity, positivity = variant(activation)
    levels, start = whole(levels, "levels"), start_of(initial_threshold, sample)
    network = unwrapped(network)
    batches = [] if sample is None else [part for x in batches_of(network, sample) for part in x.split(AT_ONCE)]
    graph, replaced = _captured(network, max_pool, batches[0] if batches else None)
    moving = [node for node, kind in kinds_of(graph).items() if kind not in FIXED]
    relus = [node for node in moving if is_relu(graph, node)]
    if not relus:
        raise InputError("the network has no ReLU to replace")
    was = [(label_of(graph, node), module_of(graph, node), relu_bound(graph, node)) for node in relus]
    bounds: dict[str, float] = {}
    shapes, thetas = _starts(graph, relus, granularity, batches, levels, start)
    some = next(graph.parameters(), torch.zeros(()))
    kept = {node.target for node in graph.graph.nodes if node.op == "call_module" and node not in relus}
    used = {name for name, module in graph.named_modules() if name in kept or not is_activation(module)}
    for node, shape, theta, (label, site, bound) in zip(relus, shapes, thetas, was, strict=True):
        of_site = (site.site, site.heads) if isinstance(site, Site) else (None, None)
        module = QCFS(shape, levels, positivity, tensor(theta, like=some), *of_site)
        name = _put_in_place(graph, node, module.train(graph.training), used)
        replaced[name], bounds[name] = label, bound
    graph.delete_all_unused_submodules()
    graph.recompile()
    graph.meta["replaced"], graph.meta["bounds"] = replaced, bounds
    return graph


def _starts(graph, relus, granularity, batches, levels, start):
    """(the shape of each ReLU's threshold, its start): first from the maxima of all batches, then their histograms."""
    shapes: list = []
    maxima: list = [[] for _ in relus]
    counts: list = []
    for batch in batches or [None]:
        inputs = _inputs(graph, relus, batch)
        shapes = [activation_shape(graph, node, granularity, z) for node, z in zip(relus, inputs, strict=True)]
        if isinstance(start, str):
            for found, z, shape, node in zip(maxima, inputs, shapes, relus, strict=True):
                found.append(image_maxima(z, shape, relu_bound(graph, node)))
    if not isinstance(start, str):
        return shapes, [torch.full(shape, start) for shape in shapes]
    largest = [block_maximum(torch.cat(found), start) for found in maxima]
    if method_of(start)[0] == "max":
        return shapes, list(map(filled, largest))
    for batch in batches:
        found = [histogram(z, most) for z, most in zip(_inputs(graph, relus, batch), largest, strict=True)]
        counts = list(map(torch.add, counts, found)) if counts else found
    of_layers = zip(counts, largest, strict=True)
    return shapes, [threshold_from(count, most, levels, start) for count, most in of_layers]


def _inputs(graph, relus, batch):
    """What each ReLU reads for a batch; None for each without a batch."""
    values = _values(graph, batch)
    return [values.get(node.all_input_nodes[0]) for node in relus]


@torch.no_grad()
def expand(network: nn.Module, activation: str = "cs-qcfs", sample: torch.Tensor | None = None) -> fx.GraphModule:
    """The stage switch: every QCFS gets the granularity and positivity of `activation`, its threshold unchanged.

    Algorithm 1, line 9, as derived: each block starts from the inverse of theta, not from lambda. No level changes,
    except within a few ulp of a tie, where softplus(softplus_inverse(theta)) differs from theta.
    InputError names the first layer whose raw threshold is not positive.
    """
    granularity, positivity = variant(activation)
    batches = [] if sample is None else batches_of(network, sample)
    graph = trace(network, batches[0] if batches else None)
    values = _values(graph, batches[0] if batches else None)
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if not isinstance(module, QCFS):
            continue
        name, parameter = layer_name(node), module.parameter.detach()
        shape = activation_shape(graph, node, granularity, values.get(node.all_input_nodes[0]))
        theta = positive(module.threshold, f"the threshold of {name!r}")
        if positivity != module.positivity:
            parameter = parameter_for(theta, positivity)
        broadcasts(parameter, shape, f"threshold of {name!r}")
        module.parameter = nn.Parameter(parameter.expand(shape).clone())
        module.positivity = positivity
    return graph
