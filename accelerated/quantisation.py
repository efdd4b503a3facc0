"""From a ReLU network to a quantised one, and from layer thresholds to finer ones (Algorithm 1, corrected).

Works on any module that torch.fx can trace.
"""

import contextlib
import copy
from numbers import Real

import torch
from torch import nn

from .activation import QCFS, Site, variant
from .checks import InputError, broadcasts, finite, one_of, positive, tensor, whole
from .graph.modules import SpikeMask
from .graph.operations import ACTIVATIONS, average_pools, is_relu, kind_of, label_of, refuse_unfoldable, refuse_unknown
from .graph.timm import is_timm_transformer, with_sites
from .graph.trace import forward, layer_name, module_of, trace
from .thresholds import parameter_for, threshold_shape

SITES = {  # site -> {granularity of the variant: granularity there}; one threshold a layer for any other
    "head": {"head": "head", "head and neuron": "head", "channel": "head"},
    "neuron": {"neuron": "neuron", "head and neuron": "neuron", "channel": "neuron"},
    "layer": {},
}
ELSEWHERE = {"head and neuron": "neuron"}


def feature_shape(graph, node):
    """(C, 1, 1) or (F,) of a node's output, read off the nearest convolution or linear layer before it."""
    start = node
    while node.op != "placeholder":
        module = module_of(graph, node)
        if isinstance(module, nn.Conv2d):
            return (module.out_channels, 1, 1)
        if isinstance(module, nn.Linear):
            return (module.out_features,)
        if isinstance(module, nn.Flatten) or node.target in (torch.flatten, "flatten", "view", "reshape"):
            break
        node = node.all_input_nodes[0]
    raise InputError(f"the feature shape at {start.name!r} is not known from the network alone: give a sample")


def activation_shape(graph, node, granularity, value=None):
    """The threshold's shape at an activation; from the value there, or else from the network.

    In a transformer the `site` decides (4.2.3): one threshold a head in attention, one a neuron in the feed-forward
    layers, one a layer on the projection (Eq. 4-5), each only if `granularity` asks for it. Elsewhere "head and neuron"
    means neuron.
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


def block_maximum(z, shape):
    """The largest activation of each block over batch and block; a silent block takes its layer's maximum, or 1."""
    lead = z.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1)
    largest = torch.amax(z, dim=axes).reshape(shape)
    layer = z.max() if z.max() > 0 else torch.ones_like(z.max())
    return torch.where(largest > 0, largest, layer)


def random_draws(network):
    """A context for each forward pass in which a network with random masks draws the same."""
    if not any(isinstance(module, SpikeMask) for module in network.modules()):
        return contextlib.nullcontext

    @contextlib.contextmanager
    def same():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            yield

    return same


@torch.no_grad()
def _values(graph, sample, network):
    """The values of all nodes for a sample in evaluation mode; empty without one.

    InputError if the graph does not give the network's own answer: tracing sees no in-place write through an alias.
    """
    if sample is None:
        return {}
    still, own = copy.deepcopy(graph).eval(), copy.deepcopy(network).eval()
    drawn = random_draws(network)
    with drawn():
        values = forward(still, finite(sample, "sample"))
    pairs = dict(zip(graph.graph.nodes, still.graph.nodes, strict=True))
    answer = next(iter(reversed(graph.graph.nodes))).all_input_nodes[0]
    with drawn():
        expected = own(sample)
    got = values[pairs[answer]]
    if not torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item()):
        off = (got - expected).abs().max().item()
        raise InputError(
            f"{type(network).__name__} as traced answers differently (by {off:.3g}): does it write in place?"
        )
    return {ours: values[theirs] for ours, theirs in pairs.items() if theirs in values}


def quantise(network, activation="cs-qcfs", levels=8, initial_threshold=4.0, sample=None, max_pool="refuse"):
    """A copy of the network in which every ReLU is a QCFS (Algorithm 1, lines 1 to 5): an nn.Module (fx.GraphModule).

    `initial_threshold` is theta, not lambda: a positive number, or "calibrated", which takes each block's largest
    activation over `sample` [batch, ...] in the network as it is. Each place where a ReLU is called gets thresholds
    of its own, and ReLU6 counts as a ReLU whose calibrated thresholds are at most 6. `max_pool="average"` puts an
    average over the same windows in the place of each maximum. `summary` says what was replaced. InputError names
    the first operation that cannot be converted, and what to do instead.
    """
    granularity, positivity = variant(activation)
    levels, calibrated = (
        whole(levels, "levels"),
        isinstance(initial_threshold, str) and initial_threshold == "calibrated",
    )
    if (calibrated and sample is None) or not (calibrated or isinstance(initial_threshold, Real)):
        choices = "a positive number, or 'calibrated' together with a sample of images"
        raise InputError(f"initial_threshold must be {choices}, got {initial_threshold!r}")
    if not calibrated:
        positive(initial_threshold)
    for name, value in network.state_dict().items():
        finite(value, name)
    one_of(max_pool, ("refuse", "average"), "max_pool")
    if is_timm_transformer(network):
        network = with_sites(network)
    graph = trace(network)
    replaced = dict(graph.meta.get("replaced", {}))
    if max_pool == "average":
        replaced |= average_pools(graph)
        network = graph if replaced else network
    refuse_unknown(graph)
    refuse_unfoldable(graph)
    values, some = _values(graph, sample, network), next(graph.parameters(), torch.zeros(()))
    relus = [node for node in graph.graph.nodes if is_relu(graph, node)]
    if not relus:
        raise InputError("the network has no ReLU to replace")
    kept = {node.target for node in graph.graph.nodes if node.op == "call_module" and node not in relus}
    used = {name for name, module in graph.named_modules() if name in kept or type(module) not in ACTIVATIONS}
    was = [(label_of(graph, node), ACTIVATIONS[kind_of(graph, node)]) for node in relus]
    inputs = [values.get(node.all_input_nodes[0]) for node in relus]
    for node, z, (label, bound) in zip(relus, inputs, was, strict=True):
        shape = activation_shape(graph, node, granularity, z)
        start = block_maximum(z, shape) if calibrated else torch.full(shape, float(initial_threshold))
        start = start.clamp(max=bound) if calibrated and bound else start
        site = module_of(graph, node)
        of_site = (site.site, site.heads) if isinstance(site, Site) else (None, None)
        module = QCFS(shape, levels, positivity, tensor(start, like=some), *of_site)
        name = node.target if node.op == "call_module" else node.name
        while name in used:
            name += "_again"
        used.add(name)
        replaced[name] = label
        graph.add_submodule(name, module)
        with graph.graph.inserting_before(node):
            replacement = graph.graph.call_module(name, (node.all_input_nodes[0],))
        node.replace_all_uses_with(replacement)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    graph.meta["replaced"] = replaced
    return graph.train(network.training)


@torch.no_grad()
def expand(network, activation="cs-qcfs", sample=None):
    """The stage switch: every QCFS gets the granularity and positivity of `activation`, its threshold unchanged.

    Algorithm 1, line 9, as derived: each block starts from the inverse of theta, not from lambda, so that no level
    changes (but within a few ulp of a tie, where softplus(softplus_inverse(theta)) differs from theta).
    InputError names the first layer whose raw threshold is not positive.
    """
    granularity, positivity = variant(activation)
    graph = trace(network)
    values = _values(graph, sample, network)
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
