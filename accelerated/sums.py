"""How large the sums of a network in whole numbers can become (T7): `reference.sums` on a graph."""

import operator

import torch
from torch import fx

from .activation import QCFS
from .checks import InputError
from .graph.operations import FIXED, Kind, kinds_of, module_of, named
from .neuron import SpikingNeuron
from .pixels import Pixels
from .units import is_layer, is_sum, window_of


def is_whole(graph):
    """Whether a network's values are whole numbers (`integers`)."""
    return any(isinstance(module, Pixels) for module in graph.modules())


def largest(graph, node, sizes, kinds):
    """The largest size of a node's value, from those of its inputs."""
    module = module_of(graph, node)
    if isinstance(module, Pixels):
        return module.most
    if isinstance(module, (QCFS, SpikingNeuron)):
        return module.levels - module.lowest  # as numbers, after the division by D; a spike may change one that much
    inputs = [sizes[source] for source in node.all_input_nodes if kinds[source] not in FIXED]
    size = sum(inputs) if is_sum(graph, node, kinds) else max(inputs)
    if is_layer(graph, node):
        weight = module.weight.detach().double().abs().flatten(1).sum(1)
        bias = 0 if module.bias is None else module.bias.detach().double().abs()
        return float((weight * size + bias).max())
    if node.target is operator.mul:
        return size * float(graph.get_buffer(node.args[1].target).abs().max())
    return size * (window_of(graph, node) or 1)


@torch.no_grad()
def largest_sums(network) -> dict[str, float]:
    """{node: the largest number that it can hold or compare} of a network in whole numbers (15.3)."""
    graph = network.graph if isinstance(getattr(network, "graph", None), fx.GraphModule) else network
    if not isinstance(graph, fx.GraphModule) or not is_whole(graph):
        raise InputError("sums are bounded of networks in whole numbers: integers(network, sample) makes them")
    sizes: dict = {}
    sums: dict = {}
    kinds = kinds_of(graph)
    for node in graph.graph.nodes:
        if kinds[node] in (*FIXED, Kind.OUTPUT):
            continue
        sizes[node] = 0 if kinds[node] is Kind.IMAGE else largest(graph, node, sizes, kinds)
        module, sums[named(node)] = module_of(graph, node), sizes[node]
        if isinstance(module, (QCFS, SpikingNeuron)):
            step = float(module.threshold.max()) / module.levels
            sums[named(node)] = sizes[node.all_input_nodes[0]] + (module.levels + 1) * step
    return sums


def held(graph, format, images=1):
    """InputError unless a format holds every sum of a network in whole numbers, of `images` presentations of an image.

    Networks whose values are no whole numbers pass.
    """
    if not is_whole(graph):
        return
    limit = round(2 / torch.finfo(format).eps)
    for name, most in largest_sums(graph).items():
        if images * most > limit:
            raise InputError(f"{name}: sums reach {images * most:.0f}, and {format} holds whole numbers up to {limit}: "
                             "choose a wider format or fewer bits, or quantise what it reads")  # fmt: skip
