"""From a quantised network to a spiking one: fold batch norm, put a neuron where an activation was."""

import copy

import torch
from torch import nn

from .activation import QCFS
from .checks import InputError, finite, one_of, positive
from .graph.modules import SpikeMask
from .graph.operations import BATCH_NORMS, is_real_valued, is_relu, label_of, refuse_unfoldable, refuse_unknown
from .graph.trace import layer_name, module_of, trace
from .neuron import SpikingNeuron
from .tokens import OPERATORS

MANY = 6  # names in one line; more are counted
SCHEDULES = ("streaming", "integrate-then-fire", "signed")


class Prepared(dict):
    """What an engine keeps between runs of a network, by the name of a node; a copy of the network begins without."""

    def __deepcopy__(self, memo):
        return Prepared()


class SpikingNetwork(nn.Module):
    """A quantised network whose activations are neurons; a module with the same parameters.

    `graph` is the network, one call of it one time step; `operators` says what operators that are not linear see (see
    `convert`). `depth[node.name]` counts the spiking layers on the longest
    path from the image up to and including that node. `simulate` runs it; calling it takes a single step.
    """

    def __init__(self, graph, schedule, operators="accumulated"):
        super().__init__()
        self.graph, self.schedule, self.operators = graph, schedule, operators
        calls = [node for node in graph.graph.nodes if isinstance(module_of(graph, node), SpikingNeuron)]
        self.layers = {layer_name(node): graph.get_submodule(node.target) for node in calls}
        self.pre_steps, self.pre_spikes = 0, {}  # what a calibration took, and the images that it is for
        self.images: torch.Tensor | None = None
        self.prepared = Prepared()

    @property
    def depth(self):
        """{node name: spiking layers on the longest path up to and including it}."""
        return depths(self.graph, SpikingNeuron)

    @property
    def latency_depth(self) -> int:
        """D: the number of spiking layers on the longest path (the linear read-out is none)."""
        return max(neuron.depth for neuron in self.layers.values())

    @property
    def phases(self):
        """How often T steps pass until the answer: D + 1 under integrate-then-fire, else once."""
        return self.latency_depth + 1 if self.schedule == "integrate-then-fire" else 1

    def reset(self, steps=1, arithmetic="totals"):
        """Forget all that was sent; `steps` is T (per phase)."""
        for neuron in self.layers.values():
            neuron.reset(steps, "increments" if self.schedule == "streaming" else arithmetic)

    def forward(self, x):
        """One time step from the state that the last one left: the read-out of what was sent (streaming: is sent)."""
        return self.graph(x)


def fold_batch_norm(weight, bias, gamma, beta, mean, var, eps=1e-5):
    """(W', b') with W' = gamma W / sigma, b' = gamma (b - mean) / sigma + beta, sigma = sqrt(var + eps) (Eq. 2-27)."""
    scale = gamma / torch.sqrt(positive(var + eps, "var + eps"))
    bias = torch.zeros_like(mean) if bias is None else bias
    return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), (bias - mean) * scale + beta


def _one_module_a_call(graph):
    """Give each call of a module a copy of its own: neurons have state, and weights are folded where they stand."""
    called = set()
    for node in graph.graph.nodes:
        if node.op != "call_module":
            continue
        name = node.target
        while name in called:
            name += "_again"
        if name != node.target:
            graph.add_submodule(name, copy.deepcopy(graph.get_submodule(node.target)))
            node.target = name
        called.add(name)


def _features_only(module, inputs):
    """A linear layer with a folded batch norm is right for [batch, F] only: on tokens that norm acts on axis 1."""
    if inputs[0].ndim != 2:
        shape = tuple(inputs[0].shape)
        raise InputError(f"a batch norm was folded into this linear layer: its input must be [batch, F], got {shape}")


@torch.no_grad()
def fold_batch_norms(network):
    """A copy without batch norm, in evaluation mode: each is folded into the convolution or linear layer before it.

    A module that is called in several places becomes one copy for each.
    """
    graph = trace(network).eval()
    refuse_unfoldable(graph)
    _one_module_a_call(graph)
    for node in list(graph.graph.nodes):
        norm = module_of(graph, node)
        if not isinstance(norm, BATCH_NORMS):
            continue
        before = node.all_input_nodes[0]
        source = module_of(graph, before)
        statistics = norm.weight, norm.bias, norm.running_mean, norm.running_var
        weight, bias = fold_batch_norm(source.weight, source.bias, *statistics, norm.eps)
        source.weight, source.bias = nn.Parameter(weight), nn.Parameter(bias)
        if isinstance(source, nn.Linear):
            source.register_forward_pre_hook(_features_only)
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def depths(graph, kind):
    """{node name: number of modules of `kind` on the longest path from the image up to and including it}."""
    depth = {}
    for node in graph.graph.nodes:
        before = max((depth[source.name] for source in node.all_input_nodes), default=0)
        depth[node.name] = before + isinstance(module_of(graph, node), kind)
    return depth


def exact_levels(levels, dtype, name, what="levels"):
    """InputError unless every count up to L (or T) is exact in the format: at most 2^p for p significand bits."""
    limit = round(2 / torch.finfo(dtype).eps)
    if levels > limit:
        raise InputError(f"{name}: {what} must be at most {limit} in {dtype}, got {levels}")


@torch.no_grad()
def convert(network, schedule, operators="accumulated"):
    """The spiking network of a quantised one, under "streaming", "integrate-then-fire" or "signed" (Algorithm 1).

    Operators that are not linear (layer norm, softmax, products) see what has "accumulated" so far, or, as published
    and under streaming only, each step's spikes alone ("per-step": Eq. 2-28 to 2-30).

    Folds batch norm, then checks: finite weights, positive thresholds V_th = theta (Softplus(lambda), or lambda where
    the network is raw), levels that the format represents exactly, no ReLU left. Memory format and device stay.
    """
    one_of(schedule, SCHEDULES, "schedule"), one_of(operators, OPERATORS, "operators")
    if operators == "per-step" and schedule != "streaming":
        raise InputError(f"operators 'per-step' need schedule 'streaming'; {schedule!r} carries what has accumulated")
    graph = trace(network)
    kinds = [is_relu(graph, node) or isinstance(module_of(graph, node), QCFS) for node in graph.graph.nodes]
    if not any(kinds):
        raise InputError("the network has no QCFS activation to convert: quantise it first")
    graph = fold_batch_norms(graph)
    refuse_unknown(graph)
    for name, value in graph.state_dict().items():
        finite(value, name)
    depth = depths(graph, QCFS)
    for node in graph.graph.nodes:
        if is_relu(graph, node):
            raise InputError(f"{node.target} is still a ReLU: quantise the network before it is converted")
        module = module_of(graph, node)
        if isinstance(module, QCFS):
            positive(module.threshold, f"the threshold of {layer_name(node)!r}")
            exact_levels(module.levels, module.parameter.dtype, layer_name(node))
            graph.set_submodule(node.target, SpikingNeuron(module, schedule, depth[node.name]))
    if schedule != "streaming" and any(isinstance(module, SpikeMask) for module in graph.modules()):
        raise InputError(f"random spike masks change in every step: {schedule!r} cannot be exact, choose 'streaming'")
    return SpikingNetwork(graph, schedule, operators)


def summary(network):
    """What became of a network, in one line: what was replaced, and which operators stay real-valued.

    An operator that is neither linear nor an activation (layer norm, softmax, a product) is computed on real numbers
    in each step, by multiplications and not by spikes: exact by T5, but not what a spiking chip does.
    """
    graph = network.graph if isinstance(network, SpikingNetwork) else trace(network)
    became = {"MaxPool2d": "AvgPool2d", "max_pool2d": "AvgPool2d"}
    kinds: dict[str, int] = {}
    for was in graph.meta.get("replaced", {}).values():
        change = f"{was} -> {became.get(was, 'QCFS')}"
        kinds[change] = kinds.get(change, 0) + 1
    parts = [f"{count} {change}" for change, count in kinds.items()] or ["nothing replaced"]
    real = [node for node in graph.graph.nodes if is_real_valued(graph, node)]
    named = [node.name for node in real]
    if len(real) > MANY:
        labels = [label_of(graph, node) for node in real]
        named = [f"{labels.count(label)} {label}" for label in dict.fromkeys(labels)]
    return ", ".join(parts) + (f"; real-valued operators: {', '.join(named)}" if real else "")
