"""What an answer costs: the synaptic operations and joules of `reference.energy`, on a graph of modules."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from .conversion import SpikingNetwork
from .graph.operations import is_difference, is_linear, is_product, is_scaling, is_shape, is_sum
from .graph.trace import layer_name, module_of, value_of
from .neuron import SpikingNeuron
from .simulation import Simulation

MAC, AC = 4.6e-12, 0.9e-12  # joules: multiply 3.7 pJ and add 0.9 pJ


class Energy(NamedTuple):
    """Operations of one image (means over the batch) and joules."""

    acs: dict  # node -> accumulates
    macs: dict  # node -> multiply-accumulates
    ann_macs: dict  # node -> multiply-accumulates of the quantised network
    totals_macs: dict  # node -> multiply-accumulates of a simulation on totals

    @property
    def joules(self) -> float:
        """Energy on hardware that adds increments, as spiking chips do."""
        return sum(self.acs.values()) * AC + sum(self.macs.values()) * MAC

    @property
    def ann_joules(self) -> float:
        """Energy of the quantised network."""
        return sum(self.ann_macs.values()) * MAC

    @property
    def totals_joules(self) -> float:
        """Energy of a simulation on totals."""
        return sum(self.totals_macs.values()) * MAC


def _weighted(module):
    return isinstance(module, (nn.Linear, nn.Conv2d))


def dense(graph, node, values):
    """MACs of one image: outputs times the inputs of each; 1 per output of an operator without weights."""
    module, fan_in = module_of(graph, node), 1
    if _weighted(module):
        fan_in = module.weight[0].numel()
    elif node.target in (F.linear, F.conv2d):
        fan_in = values[node.all_input_nodes[1]][0].numel()
    elif is_product(node):
        fan_in = values[node.all_input_nodes[0]].shape[-1]
    return values[node][0].numel() * fan_in


def structure(graph, node, values):
    """How many spikes reach each output: the operator with all weights 1, and sums in place of means."""
    module, first = module_of(graph, node), values[node.all_input_nodes[0]]
    if isinstance(module, nn.Linear):
        return F.linear(first, torch.ones_like(module.weight, dtype=first.dtype))
    if isinstance(module, nn.Conv2d):
        return module._conv_forward(first, torch.ones_like(module.weight, dtype=first.dtype), None)
    if is_scaling(node):
        return first
    if is_difference(node):  # a subtracted spike costs as much as an added one
        return sum(values[source] for source in node.args)
    out = value_of(graph, node, values)
    if isinstance(module, nn.AvgPool2d):
        return out * math.prod(nn.modules.utils._pair(module.kernel_size))
    mean = isinstance(module, nn.AdaptiveAvgPool2d) or node.target in (
        torch.mean,
        "mean",
        F.avg_pool2d,
        F.adaptive_avg_pool2d,
    )
    return out * (first.numel() / out.numel()) if mean else out


@torch.no_grad()
def energy(network: SpikingNetwork, x: torch.Tensor, simulation: Simulation) -> Energy:
    """The `Energy` of a simulation of a spiking network on images x [batch, ...]."""
    batch, graph = len(x), network.graph
    steps = simulation.latency // network.phases  # integrate-then-fire: T
    format = next((p.dtype for p in network.parameters()), torch.get_default_dtype())
    kind: dict[fx.Node, str | None] = {}  # what a node's values come from: image, spikes or values
    values, acs, macs, ann_macs = {}, {}, {}, {}  # values: the spikes that reach a node, or ones of its shape
    for node in graph.graph.nodes:
        module, sources = module_of(graph, node), [s for s in node.all_input_nodes if kind.get(s) is not None]
        kinds = {kind[source] for source in sources}
        spikes = [values[source] for source in sources if kind[source] == "spikes"]
        name = node.target if node.op == "call_module" else node.name
        if node.op == "placeholder":
            kind[node], values[node] = "image", torch.ones(tuple(x.shape), dtype=torch.float64, device=x.device)
        elif isinstance(module, SpikingNeuron):
            kind[node], values[node] = "spikes", simulation.emitted[layer_name(node)].double()
            acs[name] = sum(float(traffic.sum()) for traffic in spikes) / batch
        elif node.op == "output":
            break
        elif not sources or is_shape(node):  # weights and sizes
            kind[node], values[node] = None, value_of(graph, node, values)
        elif _weighted(module):
            values[node] = structure(graph, node, values)
            kind[node] = "image" if kinds == {"image"} else "values"
            ann_macs[name] = dense(graph, node, values)
            acs[name] = float(values[node].sum()) / batch if spikes else 0.0
            macs[name] = 0 if spikes else ann_macs[name] * (steps if kinds == {"values"} else 1)
        elif is_sum(node):
            kind[node] = "values" if kinds not in ({"spikes"}, {"image"}) else next(iter(kinds))
            terms = [values[arg] for arg in node.args if isinstance(arg, fx.Node) and kind.get(arg)]
            values[node] = torch.stack(torch.broadcast_tensors(*terms)).sum(0)  # a constant adds no spikes
            acs[name] = sum(float(t.sum()) for t in spikes) / batch if kind[node] == "values" else 0.0
        elif is_product(node) and len(spikes) == 2:
            a, b = spikes
            kind[node], values[node] = "values", value_of(graph, node, values)
            ann_macs[name], macs[name] = dense(graph, node, values), 0
            acs[name] = (float(a.sum()) * b.shape[-1] + float(b.sum()) * a.shape[-2]) / batch
        elif is_linear(graph, node):
            kind[node] = next(iter(kinds)) if len(kinds) == 1 else "values"
            values[node] = structure(graph, node, values)
        else:
            real = {n: values[n].to(format) if kind.get(n) else values[n] for n in node.all_input_nodes}
            kind[node] = "image" if kinds == {"image"} else "values"
            values[node] = value_of(graph, node, real).double()
            ann_macs[name] = dense(graph, node, values)
            macs[name] = ann_macs[name] * (steps if kinds != {"image"} else 1)
    return Energy(acs, macs, ann_macs, {name: count * steps for name, count in ann_macs.items()})
