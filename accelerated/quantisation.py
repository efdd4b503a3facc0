"""From a network to a quantised one, and from layer thresholds to finer ones (Algorithm 1, corrected).

Works on any module that torch.fx can trace.
"""

from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
from torch import fx, nn
from torch.utils.data import DataLoader

from .activation import PAPER, QCFS, unchecked_level, variant
from .checks import InputError, broadcasts, finite, one_of, positive, tensor, whole
from .graph.changes import average_pools, unused
from .graph.modules import finite_state
from .graph.operations import is_activation, module_of, named, operation_of, refuse_unknown
from .graph.places import KEEPS_AXES, Place, features_last, places
from .graph.trace import evaluating, forward, layer_name, trace, unwrapped
from .graph.values import leading
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


def activation_shape(graph, place, granularity, value, leads):
    """The threshold's shape for the levels of a `Place`; from the source's value, or (None) else from the network.

    In a transformer the `site` decides (4.2.3): thresholds per head in attention, per neuron in the feed-forward
    layers, per layer on the projection (Eq. 4-5), the first two only if `granularity` includes them. Elsewhere
    "head and neuron" means neuron. Features are the last axis behind a linear layer, the first one otherwise. A value
    whose first axis is not the batch (it is not in `leads`) has one threshold unless its features are last.
    """
    source, site, heads = place.source, place.site, place.heads
    granularity = SITES[site].get(granularity, "layer") if site else ELSEWHERE.get(granularity, granularity)
    if granularity == "layer":
        return ()
    if site == "head":
        return (heads, 1, 1)
    features = tuple(value.shape[1:]) if value is not None else feature_shape(graph, source)
    last = features_last(graph, source)
    if site == "neuron" or (len(features) > 2 and last):
        return features[-1:]
    if not features or (value is not None and source not in leads):
        return features[-1:] if last else ()
    if len(features) == 3 and granularity == "neuron":
        raise InputError(f"{source.name}: feature maps share thresholds by channel; choose 'c-qcfs' or 'cs-qcfs'")
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
    finite_state(network)
    one_of(max_pool, ("keep", "average"), "max_pool")
    graph = trace(network, sample)
    replaced = dict(graph.meta.get("replaced", {}))
    if max_pool == "average":
        replaced |= average_pools(graph)
    refuse_unknown(graph)
    return graph, replaced


def _put_in_place(graph, place, module, used):
    """Put `module` in the place of a ReLU or behind a value, under a name that is not in `used`; returns the name."""
    node, replaces = place.node, place.replaces
    name = named(node) if replaces else f"{named(node)}_levels"
    if name in used or not (replaces and node.op == "call_module"):
        name = unused(graph, name, "_again")
    used.add(name)
    graph.add_submodule(name, module)
    with graph.graph.inserting_before(node) if replaces else graph.graph.inserting_after(node):
        replacement = graph.graph.call_module(name, (place.source,))
    for reader in list(node.users) if replaces else place.readers:
        if reader is not replacement:
            reader.replace_input_with(node, replacement)
    if replaces:
        graph.graph.erase_node(node)
    return name


def quantise(
    network: nn.Module,
    activation: str = "cs-qcfs",
    levels: int = 8,
    initial_threshold: float | str | None = None,
    sample: torch.Tensor | np.ndarray | Sequence | DataLoader | None = None,
    mask: str = PAPER,
    max_pool: str = "keep",
) -> fx.GraphModule:
    """A copy of the network with quantised activations (Algorithm 1, lines 1 to 5): an nn.Module (fx.GraphModule).

    Every ReLU becomes a QCFS. Other activations (GELU, SiLU, ...) stay, and a QCFS behind them has levels below zero;
    so have queries, keys, values, softmax and residual branches of transformers (graph/places.py).

    `initial_threshold` is theta, not lambda: a positive number, or "max", "mse" or a percentile ("p99.9") of each
    block's activations over `sample` in the given network (initial.py). The default is "mse" with a sample, else 4.
    `sample` [batch, ...] is a tensor, an array, a list of images, or a DataLoader. With it, the network is recorded
    while it answers (graph/record.py); without it, only what torch.fx can trace is quantised. Each call of a ReLU gets
    its own thresholds; a ReLU with an upper bound (ReLU6, clamp) is one whose activations end there.
    `mask` says where derivatives pass (`MASKS`), the paper's unless given.
    `max_pool="average"` replaces max pooling by average pooling over the same windows, which changes the answer.
    `summary` says what was replaced. InputError names the first operation that cannot be converted.
    """
    granularity, positivity = variant(activation)
    levels, start = whole(levels, "levels"), start_of(initial_threshold, sample)
    network = unwrapped(network)
    batches = [] if sample is None else [part for x in batches_of(network, sample) for part in x.split(AT_ONCE)]
    first = batches[0] if batches else None
    graph, replaced = _captured(network, max_pool, first)
    values, leads = _values(graph, first), _leading(graph, first)
    found = _found(graph, values, leads)
    shapes = [activation_shape(graph, p, granularity, values.get(p.source), leads) for p in found]
    del values
    thetas, lowest = _starts(graph, found, shapes, batches, levels, start)
    some, bounds = next(graph.parameters(), torch.zeros(())), {}
    gone = [place.node for place in found if place.replaces]
    kept = {node.target for node in graph.graph.nodes if node.op == "call_module" and node not in gone}
    used = {name for name, module in graph.named_modules() if name in kept or not is_activation(module)}
    for place, shape, theta, below in zip(found, shapes, thetas, lowest, strict=True):
        theta = tensor(theta, like=some)
        positive(theta * levels, f"theta L of {named(place.node)!r} in {theta.dtype}")
        module = QCFS(shape, levels, positivity, theta, place.site, place.heads, below, mask)
        name = _put_in_place(graph, place, module.train(graph.training), used)
        replaced[name] = f"{place.was} -> QCFS" if place.replaces else f"QCFS {place.was}"
        bounds[name] = place.bound
    graph.delete_all_unused_submodules()
    graph.recompile()
    graph.meta["replaced"], graph.meta["bounds"] = replaced, bounds
    return graph


def _found(graph, values, leads):
    """The places to quantise; InputError where there are none."""
    found = places(graph, values, leads)
    if not found and any(isinstance(module, QCFS) for module in graph.modules()):
        raise InputError("the network is quantised already, and has no other activation to quantise")
    if not found:
        raise InputError("the network has no activation to quantise")
    return found


def _leading(graph, x):
    """The nodes whose first axis is the batch; none without images."""
    if x is None:
        return ()
    with evaluating(graph):
        return leading(graph, x)[0]


def _starts(graph, found, shapes, batches, levels, start):
    """(theta of each place, its lowest level): first from the maxima of all batches, then from their histograms.

    Where values may be negative, thresholds are those of their sizes, and the lowest level is that of the least value.
    """
    if not batches:
        lowest = [0 if place.replaces else -levels for place in found]
        return [torch.full(shape, start) for shape in shapes], lowest
    largest, least = _ranges(graph, found, shapes, batches, start)
    for place, most in zip(found, largest, strict=True):
        finite(most.clamp(min=0), f"the largest size of {named(place.source)} over the sample")
    if isinstance(start, str):
        thetas = _from_sample(graph, found, largest, batches, levels, start)
    else:
        thetas = [torch.full(shape, start) for shape in shapes]
    reached = [unchecked_level(low, theta.to(low), levels, lowest=-levels).min()
               for low, theta in zip(least, thetas, strict=True)]  # fmt: skip
    return thetas, [min(0, int(level)) for level in reached]


def _ranges(graph, found, shapes, batches, start):
    """(the largest size of each place's values, block by block; their least, 0 for a ReLU)."""
    maxima: list = [[] for _ in found]
    minima: list = [[] for _ in found]
    for batch in batches:
        for i, (place, z) in enumerate(zip(found, _sources(graph, found, batch), strict=True)):
            bound = float("inf") if place.bound is None else place.bound
            maxima[i].append(image_maxima(_size(place, z), shapes[i], bound))
            minima[i].append(z.new_zeros(shapes[i]) if place.replaces else -image_maxima(-z, shapes[i]).amax(0))
    method = start if isinstance(start, str) else "max"
    return [block_maximum(torch.cat(of), method) for of in maxima], [torch.stack(of).amin(0) for of in minima]


def _size(place, z):
    """What a threshold bounds: |z|, or z itself in place of a ReLU."""
    return z if place.replaces else z.abs()


def _from_sample(graph, found, largest, batches, levels, method):
    """The thresholds by the method of a name."""
    if method_of(method)[0] == "max":
        return list(map(filled, largest))
    counts: list = [None] * len(found)
    for batch in batches:
        for i, (place, z) in enumerate(zip(found, _sources(graph, found, batch), strict=True)):
            seen = histogram(_size(place, z), largest[i])
            counts[i] = seen if counts[i] is None else counts[i].add_(seen)
    of_layers = zip(counts, largest, strict=True)
    return [threshold_from(count, most, levels, method) for count, most in of_layers]


def _sources(graph, found, batch):
    """What each place quantises, for a batch."""
    values = _values(graph, batch)
    return [values[place.source] for place in found]


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
    values, leads = (found(graph, batches[0] if batches else None) for found in (_values, _leading))
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if not isinstance(module, QCFS):
            continue
        name, parameter = layer_name(node), module.parameter.detach()
        place = Place(node, None, "", module.site, module.heads)
        shape = activation_shape(graph, place, granularity, values.get(place.source), leads)
        theta = positive(module.threshold, f"the threshold of {name!r}")
        if positivity != module.positivity:
            parameter = parameter_for(theta, positivity)
        broadcasts(parameter, shape, f"threshold of {name!r}")
        module.parameter = nn.Parameter(parameter.expand(shape).clone())
        module.positivity = positivity
    return graph
