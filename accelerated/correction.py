"""Bias correction: `reference.correction` on a graph of torch modules, from any number of batches."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import fx, nn
from torch.fx.node import map_arg
from torch.utils.data import DataLoader

from .activation import QCFS
from .checks import InputError
from .conversion import SpikingNetwork, fold_batch_norms
from .graph.changes import read_directly
from .graph.modules import add_to_bias
from .graph.operations import WEIGHTED, module_of, operation_of
from .graph.trace import evaluating, output_of
from .graph.values import values_of
from .network import batches_of
from .quantisation import AT_ONCE


@torch.no_grad()
def correct_biases(
    network: fx.GraphModule, sample: torch.Tensor | np.ndarray | Sequence | DataLoader
) -> fx.GraphModule:
    """A copy of a quantised network, batch norm folded, with biases corrected on `sample` [batch, ...].

    Its levels must be those that it will run at. Layers whose input does not come from a convolution or linear layer of
    their own (directly, or through a sum) are left as they are.
    """
    if isinstance(network, SpikingNetwork) or not any(isinstance(m, QCFS) for m in network.modules()):
        raise InputError("biases are corrected in a quantised network, before it is converted")
    quantised, original = fold_batch_norms(network), _with_relus(fold_batch_norms(network))
    batches = [part for x in batches_of(network, sample) for part in x.split(AT_ONCE)]
    with evaluating(quantised), evaluating(original):
        layers = compared(quantised)
        match(quantised, layers, means(original, layers, batches), batches)
    return quantised


def _with_relus(network):
    """The network with its own activations in place of the quantised ones."""
    bounds = network.meta.get("bounds", {})
    for name, module in list(network.named_modules()):
        if isinstance(module, QCFS):
            bound = bounds.get(name, float("inf") if module.lowest == 0 else None)
            network.set_submodule(name, nn.Identity() if bound is None else nn.Hardtanh(0.0, bound))
    return network


def compared(graph):
    """{name of a node: the layer whose bias shifts its value alone}, of the inputs of activations and of the answer."""
    read = [node.all_input_nodes[0] for node in graph.graph.nodes if isinstance(module_of(graph, node), QCFS)]
    return layers_before(graph, [*read, output_of(graph)])


def layers_before(graph, nodes):
    """{name: the layer whose bias shifts its value alone} of these nodes, if there is one."""
    direct = read_directly(graph)
    layers = {node.name: _layer_before(graph, node, direct) for node in nodes}
    return {name: layer for name, layer in layers.items() if layer is not None}


def _layer_before(graph, node, direct):
    """The layer whose bias shifts the value of `node` once, and no other; weights of those in `direct` are read too."""
    stack = [node] if _read_once(node) or operation_of(graph, node) == "add" else []
    while stack:
        node = stack.pop()
        if operation_of(graph, node) in WEIGHTED and module_of(graph, node) is not None and node.target not in direct:
            return module_of(graph, node)
        if operation_of(graph, node) == "add" and "alpha" not in node.kwargs:
            stack.extend(term for term in reversed(node.all_input_nodes) if _read_once(term))
    return None


def _read_once(node):
    arguments: list = []
    for user in node.users:
        map_arg((user.args, user.kwargs), arguments.append)
    return arguments.count(node) == 1


def means(graph, layers, batches):
    """{name: the mean of each channel} of a graph's nodes over all batches; `layers` is that of `compared`."""
    return {
        node.name: _mean(layers[node.name], values) for node, values in _values(graph, batches) if node.name in layers
    }


def match(graph, layers, wanted, batches):
    """Correct the biases of these layers, one after another, until the means are those `wanted`."""
    for node, values in _values(graph, batches):
        layer, mean = layers.get(node.name), wanted.get(node.name)
        if layer is None or mean is None:
            continue
        shift = add_to_bias(layer, (mean - _mean(layer, values)).to(values[0].dtype))
        for value in values:
            value.movedim(_axis(layer), -1).add_(shift)


def _axis(layer):
    """The axis of a layer's channels."""
    return -1 if isinstance(layer, nn.Linear) else 1


def _mean(layer, values):
    """The mean of each channel, float64; None of an output that is broadcast."""
    channels_out = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if values[0].shape[_axis(layer)] != channels_out:
        return None
    rows = torch.cat([value.double().movedim(_axis(layer), 0).flatten(1) for value in values], 1)
    finite = rows.isfinite()  # a mask's infinities are the same in both networks
    return rows.where(finite, 0).sum(1) / finite.sum(1).clamp(min=1)


def _values(graph, batches):
    """(node, its values for all batches), one node after another; what was yielded may be changed."""
    for rows in zip(*(values_of(graph, x) for x in batches), strict=True):
        yield rows[0][0], [value for _, value in rows]
