"""From a ReLU network to a quantised one, and from layer thresholds to finer ones (Algorithm 1, corrected).

Works on any module that torch.fx can trace. What is replaced is decided by the type of a module or the identity of a
function, never by a name.
"""

import copy
import operator
from numbers import Real

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from .activation import QCFS, variant
from .checks import InputError, broadcasts, finite, positive, tensor, whole
from .network import forward, layer_name, module_of, trace
from .thresholds import parameter_for, threshold_shape

RELU_FUNCTIONS = (F.relu, torch.relu)
RELU_METHODS = ("relu",)
CONVERTIBLE = (
    nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.Softmax, nn.AvgPool2d,
    nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.ReLU, QCFS,
)  # fmt: skip


CONVERTIBLE_FUNCTIONS = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul, operator.getitem, operator.floordiv,
    getattr, torch.add, torch.sub, torch.mul, torch.div, torch.matmul, torch.bmm, torch.cat, torch.stack, torch.chunk,
    torch.split, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.mean, torch.sum, torch.softmax,
    F.linear, F.conv2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.layer_norm, F.softmax, F.pad, *RELU_FUNCTIONS,
)  # fmt: skip
CONVERTIBLE_METHODS = (
    "add", "sub", "mul", "div", "matmul", "flatten", "view", "reshape", "permute", "transpose", "contiguous", "chunk",
    "split", "unsqueeze", "squeeze", "expand", "mean", "sum", "softmax", "size", "dim", *RELU_METHODS,
)  # fmt: skip


def is_relu(graph, node):
    """Whether a node is a ReLU: as a module, a function or a method."""
    if node.op == "call_function":
        return node.target in RELU_FUNCTIONS
    return node.target in RELU_METHODS if node.op == "call_method" else type(module_of(graph, node)) is nn.ReLU


def refuse_unknown(graph):
    """InputError naming the first operation that has no spiking form here; silence would leave it in place."""
    given = sum(node.op == "placeholder" for node in graph.graph.nodes)
    (answer,) = next(iter(reversed(graph.graph.nodes))).args
    if given != 1 or not isinstance(answer, Node):
        raise InputError(
            f"a network must take one batch of images and return one tensor; this one takes {given} inputs"
        )
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if module is not None and not isinstance(module, CONVERTIBLE):
            raise InputError(
                f"{node.target} ({type(module).__name__}) cannot be converted; use ReLU and average pooling"
            )
        known = {"call_function": CONVERTIBLE_FUNCTIONS, "call_method": CONVERTIBLE_METHODS}.get(node.op)
        if known is not None and node.target not in known:
            name = getattr(node.target, "__name__", node.target)
            advice = "use ReLU and average pooling, and modules for dropout and batch norm"
            raise InputError(f"{node.name} ({name}) cannot be converted; {advice}")


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
    """The threshold's shape at an activation; from the value there, or else from the network."""
    if granularity == "layer":
        return ()
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


@torch.no_grad()
def _values(graph, sample, network):
    """The values of all nodes for a sample in evaluation mode; empty without one.

    InputError if the graph does not give the network's own answer: tracing sees no in-place write through an alias.
    """
    if sample is None:
        return {}
    still, own = copy.deepcopy(graph).eval(), copy.deepcopy(network).eval()
    values = forward(still, finite(sample, "sample"))
    pairs = dict(zip(graph.graph.nodes, still.graph.nodes, strict=True))
    answer = next(iter(reversed(graph.graph.nodes))).all_input_nodes[0]
    expected, got = own(sample), values[pairs[answer]]
    if not torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item()):
        off = (got - expected).abs().max().item()
        raise InputError(
            f"{type(network).__name__} as traced answers differently (by {off:.3g}): does it write in place?"
        )
    return {ours: values[theirs] for ours, theirs in pairs.items() if theirs in values}


def quantise(network, activation="cs-qcfs", levels=8, initial_threshold=4.0, sample=None):
    """A copy of the network in which every ReLU is a QCFS (Algorithm 1, lines 1 to 5): an nn.Module (fx.GraphModule).

    `initial_threshold` is theta, not lambda: a positive number, or "calibrated", which takes each block's largest
    activation over `sample` [batch, ...] in the network as it is. Each place where a ReLU is called gets thresholds
    of its own. InputError names the first module that cannot be converted.
    """
    granularity, positivity = variant(activation)
    levels, calibrated = (
        whole(levels, "levels"),
        isinstance(initial_threshold, str) and initial_threshold == "calibrated",
    )
    if (calibrated and sample is None) or not (calibrated or isinstance(initial_threshold, Real)):
        choices = "a positive number or 'calibrated' with a sample"
        raise InputError(f"initial_threshold must be {choices}, got {initial_threshold!r}")
    if not calibrated:
        positive(initial_threshold)
    for name, value in network.state_dict().items():
        finite(value, name)
    graph = trace(network)
    refuse_unknown(graph)
    values, some = _values(graph, sample, network), next(graph.parameters(), torch.zeros(()))
    relus = [node for node in graph.graph.nodes if is_relu(graph, node)]
    if not relus:
        raise InputError("the network has no ReLU to replace")
    kept = {node.target for node in graph.graph.nodes if node.op == "call_module" and node not in relus}
    used = {name for name, module in graph.named_modules() if name in kept or not isinstance(module, nn.ReLU)}
    for node, z in [(node, values.get(node.all_input_nodes[0])) for node in relus]:
        shape = activation_shape(graph, node, granularity, z)
        start = block_maximum(z, shape) if calibrated else torch.full(shape, float(initial_threshold))
        module = QCFS(shape, levels, positivity, tensor(start, like=some))
        name = node.target if node.op == "call_module" else node.name
        while name in used:
            name += "_again"
        used.add(name)
        graph.add_submodule(name, module)
        with graph.graph.inserting_before(node):
            replacement = graph.graph.call_module(name, (node.all_input_nodes[0],))
        node.replace_all_uses_with(replacement)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
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
