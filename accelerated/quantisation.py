"""From a ReLU network to a quantised one, and from layer thresholds to finer ones (Algorithm 1, corrected).

Works on any module that torch.fx can trace.
"""

import contextlib
import copy
from numbers import Real

import torch
from torch import fx, nn

from .activation import QCFS, Site, variant
from .checks import InputError, broadcasts, finite, one_of, positive, tensor, whole
from .graph.modules import SpikeMask
from .graph.operations import ACTIVATIONS, average_pools, is_relu, kind_of, label_of, refuse_unfoldable, refuse_unknown
from .graph.timm import is_timm_transformer, with_sites
from .graph.trace import forward, layer_name, module_of, trace
from .thresholds import parameter_for, threshold_shape

SITES = {  # site -> {granularity of the variant: granularity at the site}; all others: one threshold per layer
    "head": {"head": "head", "head and neuron": "head", "channel": "head"},
    "neuron": {"neuron": "neuron", "head and neuron": "neuron", "channel": "neuron"},
    "layer": {},
}
FROM_SAMPLE = ("max", "calibrated")  # initial thresholds from the maximum; two names for the same
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


def block_maximum(z, shape):
    """The largest activation of each block, over batch and block; a silent block gets its layer's maximum, or 1."""
    lead = z.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1)
    largest = torch.amax(z, dim=axes).reshape(shape)
    layer = z.max() if z.max() > 0 else torch.ones_like(z.max())
    return torch.where(largest > 0, largest, layer)


def random_draws(network):
    """A context manager in which every forward pass draws the same random masks."""
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

    InputError if the graph's answer is not the network's: tracing misses in-place writes through an alias.
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


def _from_sample(initial_threshold, sample):
    """Whether initial thresholds come from the sample; InputError if they are neither that nor a positive number."""
    if isinstance(initial_threshold, str) and initial_threshold in FROM_SAMPLE and sample is not None:
        return True
    if not isinstance(initial_threshold, Real):
        choices = "a positive number, or 'max' together with a sample of images"
        raise InputError(f"initial_threshold must be {choices}, got {initial_threshold!r}")
    positive(initial_threshold)
    return False


def _captured(network, max_pool):
    """(graph, network with the expected answer, what was replaced so far); InputError for what cannot be converted."""
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
    return graph, network, replaced


def _put_in_place(graph, node, module, used):
    """Replace `node` by a call of `module`, under a name that is not in `used`; returns the name."""
    name = node.target if node.op == "call_module" else node.name
    while name in used:
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
    initial_threshold: float | str = 4.0,
    sample: torch.Tensor | None = None,
    max_pool: str = "refuse",
) -> fx.GraphModule:
    """A copy of the network in which every ReLU is a QCFS (Algorithm 1, lines 1 to 5): an nn.Module (fx.GraphModule).

    `initial_threshold` is theta, not lambda: a positive number, or "max": each block's largest activation
    over `sample` [batch, ...] in the given network. Each call of a ReLU gets its own
    thresholds; ReLU6 counts as a ReLU whose initial thresholds from the maximum are at most 6. `max_pool="average"`
    replaces max pooling by average pooling over the same windows. `summary` says what was replaced. InputError names
    the first operation that cannot be converted, and what to do instead.
    """
    granularity, positivity = variant(activation)
    levels, from_sample = whole(levels, "levels"), _from_sample(initial_threshold, sample)
    training = network.training
    graph, network, replaced = _captured(network, max_pool)
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
        start = block_maximum(z, shape) if from_sample else torch.full(shape, float(initial_threshold))
        start = start.clamp(max=bound) if from_sample and bound else start
        site = module_of(graph, node)
        of_site = (site.site, site.heads) if isinstance(site, Site) else (None, None)
        module = QCFS(shape, levels, positivity, tensor(start, like=some), *of_site)
        replaced[_put_in_place(graph, node, module, used)] = label
    graph.delete_all_unused_submodules()
    graph.recompile()
    graph.meta["replaced"] = replaced
    return graph.train(training)


@torch.no_grad()
def expand(network: nn.Module, activation: str = "cs-qcfs", sample: torch.Tensor | None = None) -> fx.GraphModule:
    """The stage switch: every QCFS gets the granularity and positivity of `activation`, its threshold unchanged.

    Algorithm 1, line 9, as derived: each block starts from the inverse of theta, not from lambda. No level changes,
    except within a few ulp of a tie, where softplus(softplus_inverse(theta)) differs from theta.
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
