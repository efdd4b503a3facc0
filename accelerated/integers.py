"""A quantised network in whole numbers (T7): `reference.integers` on a graph of torch modules, and it trains on.

Weights and biases stay real parameters. A parametrisation rounds them for every forward pass, and its derivative is
that of no rounding (straight through); conversion keeps what they are rounded to.
"""

import operator
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import fx, nn
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader

from .activation import QCFS
from .checks import InputError, positive, whole
from .conversion import SpikingNetwork, fold_batch_norms
from .correction import compared, layers_before, match, means
from .graph.changes import unused
from .graph.modules import Whole, finite_state
from .graph.operations import module_of, named, operation_of
from .graph.trace import evaluating, forward
from .layers import SumPool2d
from .network import batches_of
from .pixels import Pixels, column
from .quantisation import AT_ONCE
from .sums import held
from .units import FINEST, MOST_BIAS, Units, even, is_layer, is_sum, level_of, per_channel


@torch.no_grad()
def integers(
    network: fx.GraphModule,
    sample: torch.Tensor | np.ndarray | Sequence | DataLoader,
    bits: int = 8,
    mean: float | Sequence = 0.0,
    std: float | Sequence = 1.0,
    most: int = 255,
) -> fx.GraphModule:
    """The quantised network in whole numbers, with weights of 2 to 8 bits; it takes the same images (T7).

    Images, and `sample` [batch, ...], are (pixel / most - mean) / std of whole pixels 0..most; `mean` and `std` are
    numbers, or one per channel. The first operator finds the pixels again. The network can be trained further, but for
    its thresholds. InputError names what cannot be whole numbers (layer norm, softmax, an activation that is not
    quantised), a sample without such pixels, and a layer whose sums the format cannot hold.
    """
    if not 2 <= whole(bits, "bits") <= FINEST:
        raise InputError(f"bits must be 2 to {FINEST}, got {bits}")
    if not isinstance(network, nn.Module):
        raise InputError(f"integers takes a quantised network, got {type(network).__name__}")
    if isinstance(network, SpikingNetwork) or not any(isinstance(m, QCFS) for m in network.modules()):
        raise InputError("whole numbers are those of a quantised network: quantise it first, convert it afterwards")
    finite_state(network)
    for name, module in network.named_modules():
        if isinstance(module, QCFS):
            positive(module.threshold, f"the threshold of {name!r}")
    batches = batches_of(network, sample)
    given = fold_batch_norms(network)
    columns = column(mean, batches[0], "mean"), column(std, batches[0], "std")
    pixels = Pixels(*columns, whole(most, "most")).near()
    for batch in batches:
        pixels.of(batch)
    graph = fold_batch_norms(given)
    _summing_pools(graph, batches[0])
    units = Units(graph, pixels, batches[0], bits)
    planned = [_planned(graph, node, units) for node in graph.graph.nodes]  # all of it from the graph as it is
    for plan in reversed(planned):  # readers first: what is put behind a node is then read by all of them
        plan()
    graph.recompile()
    _keep_means(given, graph, units, [part for x in batches for part in x.split(AT_ONCE)])
    held(graph, batches[0].dtype)
    return graph


def _keep_means(given, graph, units, batches):
    """Correct the biases of whole numbers until the mean input of each layer is that in the given network."""
    with evaluating(given), evaluating(graph):
        wanted = means(given, compared(given), batches)
        layers = layers_before(graph, [node for node in graph.graph.nodes if node.name in wanted])
        match(graph, layers, {name: wanted[name] / units.channels[name] for name in layers}, batches)


def _planned(graph, node, units):
    """A function that puts a node into whole numbers."""
    module = module_of(graph, node)
    if node.op == "placeholder":
        return partial(_insert, graph, node, "pixels", units.pixels)
    if is_layer(graph, node):
        return partial(_round_layer, module, *_layer_units(node, units))
    if isinstance(module, QCFS):
        (source,) = node.all_input_nodes
        unit = units.unit(source)
        step = condensed(even((level_of(module) / unit / 2).round(), module.levels))
        parts = _widening(graph, node, [source], unit, units), partial(_whole_neurons, graph, node, step)
        return lambda: [part() for part in parts]
    if is_sum(graph, node, units.kinds):
        unit = units.unit(units.whole_sum(node))
        return _widening(graph, node, node.all_input_nodes, unit, units)
    if node.op == "output":
        unit = condensed(units.unit(units.answer))
        widening = _widening(graph, node, [units.answer], units.unit(units.answer), units)
        return lambda: (
            widening(),
            _multiply(graph, node.all_input_nodes[0], "answer_unit", 1 / unit, operator.truediv),
        )
    return lambda: None


def condensed(values):
    """Values [1, ...] without the axes along which they are the same: a shape that broadcasts to one image's."""
    if len(values) > 1:
        raise InputError("a value whose first axis is not the batch has no form in whole numbers")
    for axis in range(1, values.ndim):
        first = values.narrow(axis, 0, 1)
        values = first if (values == first).all() else values
    return values[0].reshape(()) if values.numel() == 1 else values[0]


def _insert(graph, node, name, module):
    """A module behind a node, for all its readers."""
    name = unused(graph, name)
    graph.add_submodule(name, module)
    with graph.graph.inserting_after(node):
        new = graph.graph.call_module(name, (node,))
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def _multiply(graph, node, name, factor, operation, reader=None):
    """A product or quotient of a node and whole numbers, for one of its readers or for all."""
    name = unused(graph, f"{name}".replace(".", "_"))
    some = next(graph.parameters())
    graph.register_buffer(name, factor.to(some))
    with graph.graph.inserting_after(node):
        constant = graph.graph.get_attr(name)
    with graph.graph.inserting_after(constant):
        new = graph.graph.call_function(operation, (node, constant))
    node.replace_all_uses_with(
        new, delete_user_cb=lambda user: user is reader if reader is not None else user is not new
    )


def _widening(graph, node, sources, unit, units):
    """A function that brings the inputs of a sum or of neurons to its unit, by whole factors."""
    factors = [(source, condensed(units.multiple(source, unit, node))) for source in sources]
    wide = [(source, factor) for source, factor in factors if (factor != 1).any()]
    return lambda: [_multiply(graph, s, f"{named(s)}_factor", f, operator.mul, node) for s, f in wide]


def _layer_units(node, units):
    """The unit of a layer's weights, that of its sums [out], what the pixel that counts as 0 adds, and the grid."""
    (source,), module, axis = node.all_input_nodes, module_of(units.graph, node), units.axis(node)
    unit, factor = units.of_channels(node)
    column, grid = (value.reshape(-1, *(1,) * (module.weight.ndim - 1)) for value in (unit, factor * units.grid))
    gain = torch.zeros_like(unit)
    if source.op == "placeholder":
        rest = per_channel(units.pixels.rest().expand(units.values[source].shape), axis, node)
        rest = rest.reshape(module.groups, -1).repeat_interleave(len(unit) // module.groups, 0) if axis == 1 else rest
        gain = (module.weight.double().flatten(2).sum(2) if axis == 1 else module.weight.double()).mul(rest).sum(1)
    return grid * column / units.input_worths(node), unit, gain, units.most, grid


def _round_layer(module, weight_unit, unit, gain, most, grid):
    """Round a layer's weights and bias."""
    bias = (0 if module.bias is None else module.bias) + gain.to(module.weight)
    largest = 2 * max(MOST_BIAS, float((bias.double().abs() / unit).max()))  # `held` says whether sums of it fit
    module.bias = nn.Parameter(bias, requires_grad=module.weight.requires_grad)
    for name, rounding in (
        ("weight", Whole(weight_unit.to(bias), most, grid.to(bias))),
        ("bias", Whole(unit.to(bias), largest)),
    ):
        parametrize.register_parametrization(module, name, rounding, unsafe=True)  # trains as it is, real


def _whole_neurons(graph, node, step):
    """Thresholds L D, and a division by D behind the neurons, so that a level is sent as its number."""
    old = module_of(graph, node)
    new = QCFS(step.shape, old.levels, "raw", (old.levels * step).to(old.parameter), old.site, old.heads, old.lowest)
    new.parameter.requires_grad_(False)
    graph.set_submodule(str(node.target), new.train(old.training))
    _multiply(graph, node, f"{named(node)}_step", step, operator.truediv)


def _summing_pools(graph, x):
    """Sums in place of averages over equal windows."""
    with evaluating(graph):
        values = forward(graph, x[:1])
    for node in list(graph.graph.nodes):
        if operation_of(graph, node) not in ("avg_pool2d", "adaptive_avg_pool2d", "mean"):
            continue
        shapes = [tuple(values[n].shape) for n in (node.all_input_nodes[0], node)]
        pool = _pool_of(graph, node, *shapes)
        if pool is None:
            continue
        graph.add_submodule(name := unused(graph, f"{node.name}_sums"), pool)
        with graph.graph.inserting_before(node):
            new = graph.graph.call_module(name, (node.all_input_nodes[0],))
            if len(shapes[1]) == 2:
                new = graph.graph.call_method("flatten", (new, 1))
        values[new] = values[node]
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()


def _pool_of(graph, node, before, after):
    """The sum over the windows of a mean of images; None where windows differ or are not those of images."""
    module, name = module_of(graph, node), operation_of(graph, node)
    if len(before) != 4 or len(after) not in (2, 4) or after[:2] != before[:2]:
        return None
    if name == "avg_pool2d":
        names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
        own = (
            {key: getattr(module, key) for key in names}
            if module is not None
            else dict(zip(names, node.args[1:], strict=False), **{k: v for k, v in node.kwargs.items() if k != "input"})
        )
        if own.get("ceil_mode") or own.get("divisor_override"):
            return None
        if own.get("padding", 0) not in (0, (0, 0)) and not own.get("count_include_pad", True):
            return None
        return SumPool2d(own["kernel_size"], own.get("stride"), own.get("padding", 0))
    if name == "mean":
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis"))
        if not isinstance(dims, (tuple, list)) or {dim % 4 for dim in dims} != {2, 3}:
            return None
    sides = (1, 1) if len(after) == 2 else after[2:]
    if before[2] % sides[0] or before[3] % sides[1]:
        return None
    return SumPool2d((before[2] // sides[0], before[3] // sides[1]))
