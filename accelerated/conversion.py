"""From a quantised network to a spiking one: fold batch norm, replace each activation by a neuron."""

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from .activation import QCFS
from .checks import InputError, one_of, positive
from .engines.structure import batch_leads
from .graph.changes import foldable, unused
from .graph.modules import SpikeMask, finite_state
from .graph.operations import FIXED, Kind, is_max_pool, is_relu, kinds_of, label_of, module_of, named, refuse_unknown
from .graph.trace import evaluating, layer_name, trace
from .neuron import SpikingNeuron, State
from .schedules import Schedule, arithmetic_of, schedule_of
from .stepping import OnIncrements, OnTotals
from .sums import held
from .tokens import FORMS

MANY = 6  # names in one line; more are counted
REAL_VALUED = (Kind.PRODUCT, Kind.MONOTONE, Kind.FUNCTION)


class Prepared(dict):
    """What engines keep between runs of a network, by key; a copy of the network starts with nothing."""

    def __deepcopy__(self, memo):
        return Prepared()


class SpikingNetwork(nn.Module):
    """A quantised network whose activations are neurons; a module with the same parameters.

    `graph` is the network, `schedule` a `Schedule`; `operators` says on what nonlinear operators act (see
    `convert`). `depth[node.name]` counts the spiking layers on the longest path from the image up to and including
    that node. `simulate` runs it. A call advances its own run by one step; `reset` starts that run again.
    """

    def __init__(self, graph, schedule, operators="accumulated"):
        super().__init__()
        self.graph, self.schedule, self.operators = graph, schedule_of(schedule), operators
        calls = [node for node in graph.graph.nodes if isinstance(module_of(graph, node), SpikingNeuron)]
        self.layers = {layer_name(node): graph.get_submodule(node.target) for node in calls}
        self.pre_steps, self.pre_spikes = 0, {}  # steps and spikes of a calibration, and its images
        self.images: torch.Tensor | None = None
        self.prepared = Prepared()
        self.reset()

    @property
    def depth(self) -> dict[str, int]:
        """{node name: spiking layers on the longest path up to and including it}."""
        return depths(self.graph, SpikingNeuron)

    @property
    def latency_depth(self) -> int:
        """D: the number of spiking layers on the longest path (the linear read-out does not count)."""
        return max(neuron.depth for neuron in self.layers.values())

    @property
    def phases(self) -> int:
        """The number of phases of T steps until the answer: D + 1 under integrate-then-fire, else 1."""
        return self.schedule.phases(self.latency_depth)

    @property
    def steps(self) -> int:
        """T, or the number of steps, at which every answer is the quantised network's; L while streaming."""
        levels = max(neuron.levels for neuron in self.layers.values())
        lowest = min(neuron.lowest for neuron in self.layers.values())
        return self.schedule.exact_at(self.latency_depth, levels, lowest) or levels

    @property
    def coarse(self) -> int:
        """K: the steps at first in which some layer's spikes may be worth more than one level."""
        return self.schedule.coarse(self.latency_depth, max(neuron.levels for neuron in self.layers.values()))

    def begin(self, x, steps, arithmetic, states=None):
        """(a stepped run on images x, its states {layer: `State`}); `steps` is T (per phase)."""
        if self.schedule.streams:
            batch_leads(self, x)
        totals = arithmetic == "totals"
        states = states or {name: State(steps, totals) for name in self.layers}
        return (OnTotals if totals else OnIncrements)(self, x, states), states

    def reset(self, steps: int | None = None, arithmetic: str | None = None) -> None:
        """Start the run that calls advance again; `steps` is T (per phase), by default L."""
        steps = steps or max(neuron.levels for neuron in self.layers.values())
        arithmetic = arithmetic_of(self.schedule, arithmetic)
        for name in ("stepped", "shape"):
            self.prepared.pop(name, None)
        for neuron in self.layers.values():
            neuron.state = State(steps, arithmetic == "totals")

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The next time step of the network's own run: the logits of `simulate` after that step. See `reset`."""
        states = {name: neuron.state for name, neuron in self.layers.items()}
        first = next(iter(states.values()))
        shape = self.prepared.setdefault("shape", x.shape)
        if x.shape != shape:
            raise InputError(f"the state is of images of shape {tuple(shape)}, got {tuple(x.shape)}: reset() first")
        with evaluating(self):
            if "stepped" not in self.prepared:
                self.prepared["stepped"] = self.begin(x, None, "totals" if first.totals else "increments", states)[0]
            return self.prepared["stepped"].step(x, first.now, lambda *_: None)


def fold_batch_norm(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    eps: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(W', b') with W' = gamma W / sigma, b' = gamma (b - mean) / sigma + beta, sigma = sqrt(var + eps) (Eq. 2-27)."""
    scale = gamma / torch.sqrt(positive(var + eps, "var + eps"))
    bias = torch.zeros_like(mean) if bias is None else bias
    return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), (bias - mean) * scale + beta


def _one_module_a_call(graph):
    """Give each call of a module its own copy: neurons have state, and weights are folded in place."""
    called = set()
    for node in graph.graph.nodes:
        if node.op != "call_module":
            continue
        if node.target in called:
            name = unused(graph, node.target, "_again")
            graph.add_submodule(name, copy.deepcopy(graph.get_submodule(node.target)))
            node.target = name
        called.add(node.target)


def _features_only(module, inputs):
    """A linear layer with a folded batch norm is correct for [batch, F] only: on tokens, batch norm acts on axis 1."""
    if inputs[0].ndim != 2:
        shape = tuple(inputs[0].shape)
        raise InputError(f"a batch norm was folded into this linear layer: its input must be [batch, F], got {shape}")


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> fx.GraphModule:
    """A copy in evaluation mode, each batch norm folded into the convolution or linear layer of its own before it.

    Any other batch norm stays. A module that is called in several places becomes one copy per place.
    """
    graph = trace(network).eval()
    _one_module_a_call(graph)
    for node in list(graph.graph.nodes):
        if not foldable(graph, node):
            continue
        norm: Any = module_of(graph, node)
        before = node.all_input_nodes[0]
        source: Any = module_of(graph, before)
        statistics = norm.weight, norm.bias, norm.running_mean, norm.running_var
        weight, bias = fold_batch_norm(source.weight, source.bias, *statistics, norm.eps)
        trained = source.weight.requires_grad
        source.weight, source.bias = (nn.Parameter(value, requires_grad=trained) for value in (weight, bias))
        if isinstance(source, nn.Linear):
            source.register_forward_pre_hook(_features_only)
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def computed_once(graph):
    """The graph with weights that were computed for every pass, such as rounded ones, as parameters of their own."""
    for module in [module for module in graph.modules() if is_parametrized(module)]:
        values = {name: getattr(module, name).detach() for name in module.parametrizations}
        module.__class__ = type(module).__mro__[1]  # torch's removal would change copies, which share the class
        del module.parametrizations
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value))
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


def one_phase(schedule, levels):
    """InputError where a schedule waits and layers have different L: its phases have T = L steps. {name: L} -> None."""
    (first, steps), *others = levels.items()
    other = next((f"{name!r} L = {own}" for name, own in others if own != steps), "") if schedule.waits else ""
    if other:
        both = f"{first!r} has L = {steps}, {other}"
        raise InputError(f"{schedule.name!r} needs one L, for phases of L steps, but {both}: choose signed or halving")


@torch.no_grad()
def convert(network: nn.Module, schedule: str | Schedule, operators: str = "accumulated") -> SpikingNetwork:
    """The spiking network of a quantised one under a schedule, by its name in `SCHEDULES` (Algorithm 1).

    Nonlinear operators (layer norm, softmax, products) act on the "accumulated" input so far or, as published and under
    streaming only, on each step's spikes alone ("per-step": Eq. 2-28 to 2-30).

    Folds batch norm, then checks: finite weights, positive thresholds V_th = theta (Softplus(lambda), or lambda where
    the network is raw), levels that the format represents exactly, one L if layers wait, no ReLU left. Memory format
    and device stay.
    """
    schedule = schedule_of(schedule)
    one_of(operators, FORMS, "operators")
    if operators == "per-step" and not schedule.streams:
        raise InputError(f"operators 'per-step' need a schedule that streams; {schedule.name!r} carries totals")
    if not any(isinstance(module, QCFS) for module in network.modules()):
        raise InputError("the network has no QCFS activation to convert: quantise the network before it is converted")
    graph = computed_once(fold_batch_norms(network))
    refuse_unknown(graph)
    finite_state(graph)
    depth = depths(graph, QCFS)
    neurons: dict[str, SpikingNeuron] = {}
    schedule.known([layer_name(node) for node in graph.graph.nodes if isinstance(module_of(graph, node), QCFS)])
    for node, kind in kinds_of(graph).items():
        if is_relu(graph, node) and kind not in FIXED:
            raise InputError(f"{named(node)} is still a ReLU: quantise the network before it is converted")
        module = module_of(graph, node)
        if isinstance(module, QCFS):
            positive(module.threshold, f"the threshold of {layer_name(node)!r}")
            exact_levels(module.levels, module.parameter.dtype, layer_name(node))
            worths = schedule.worths_of(layer_name(node), module.levels, depth[node.name], max(depth.values()))
            neurons[layer_name(node)] = SpikingNeuron(module, schedule, depth[node.name], worths)
            graph.set_submodule(str(node.target), neurons[layer_name(node)])
    one_phase(schedule, {name: neuron.levels for name, neuron in neurons.items()})
    held(graph, next(graph.parameters()).dtype)
    if not schedule.streams and any(isinstance(module, SpikeMask) for module in graph.modules()):
        raise InputError(f"random spike masks change in every step: {schedule.name!r} cannot be exact with them")
    return SpikingNetwork(graph, schedule, operators)


def summary(network: nn.Module) -> str:
    """One line on a network: what was replaced, and which operators stay real-valued.

    An operator that is neither linear nor an activation (layer norm, softmax, a product) is computed on real numbers
    in every step, with multiplications instead of spikes: exact by T5, but not what a spiking chip does. Max pooling
    right after a spiking layer is none of these: the largest count of a window is again a count (M1).
    """
    graph = network.graph if isinstance(network, SpikingNetwork) else trace(network)
    changes: dict[str, int] = {}
    for change in graph.meta.get("replaced", {}).values():
        changes[change] = changes.get(change, 0) + 1
    parts = [f"{count} {change}" for change, count in changes.items()] or ["nothing replaced"]
    kinds = kinds_of(graph)
    real = [node for node, kind in kinds.items() if kind in REAL_VALUED and not is_relu(graph, node)]
    real = [node for node in real if not (is_max_pool(graph, node) and kinds[node.all_input_nodes[0]] is Kind.NEURON)]
    labels = [label_of(graph, node) for node in real]
    pairs = zip(labels, map(named, real), strict=True)
    names = [label if label == name else f"{label} ({name})" for label, name in pairs]
    if len(real) > MANY:
        names = [f"{labels.count(label)} {label}" for label in dict.fromkeys(labels)]
    return ", ".join(parts) + (f"; real-valued operators: {', '.join(names)}" if real else "")
