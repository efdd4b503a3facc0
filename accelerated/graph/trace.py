"""Any module as a graph of operators (torch.fx), and the values of its nodes."""

import contextlib
import copy
import inspect
import operator

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.node import map_arg

from ..activation import QCFS, Site
from ..checks import InputError
from ..neuron import SpikingNeuron
from .modules import FeatureBatchNorm, SpikeMask
from .timm import is_drop_path, plain

COMPARED = (operator.eq, operator.ne, operator.le, operator.lt, operator.ge, operator.gt, operator.mod, getattr)


def _takes_images_alone(function):
    """Whether a forward can be called with the images alone: all other arguments have defaults."""
    _, *others = list(inspect.signature(function).parameters.values())[1:]
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in others)


class _Tracer(fx.Tracer):
    """Keeps our modules whole, like torch's, and timm's stochastic depth, which reads `training`."""

    def is_leaf_module(self, m, module_qualified_name):
        own = isinstance(m, (QCFS, Site, SpikingNeuron, FeatureBatchNorm, SpikeMask)) or is_drop_path(m)
        return own or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """The images alone if they suffice; other arguments keep their defaults."""
        if not (is_module and _takes_images_alone(root_fn)):
            return super().create_args_for_root(root_fn, is_module, concrete_args)
        name = list(inspect.signature(root_fn).parameters)[1]
        return root_fn, [self.root, self.create_proxy("placeholder", name, (), {})]


def trace(model):
    """A copy of `model` as a graph of operators (torch.fx), so that no operation is missed."""
    if isinstance(model, fx.GraphModule):
        return copy.deepcopy(model)
    model = plain(copy.deepcopy(model))
    try:
        graph = fx.GraphModule(model, _Tracer().trace(model))
    except (fx.proxy.TraceError, TypeError) as error:
        raise InputError(
            f"{type(model).__name__} cannot be traced by torch.fx: {str(error).splitlines()[0]}"
        ) from error
    _without_asserting(graph)
    _without_overwriting(graph)
    graph.recompile()
    return graph


def _without_asserting(graph):
    """Remove checks of shapes and what only they read; `value_of` reports an image that does not fit."""
    for node in reversed(graph.graph.nodes):
        if node.target is torch._assert or (node.op == "call_function" and node.target in COMPARED and not node.users):
            graph.graph.erase_node(node)


def _without_overwriting(graph):
    """Make in-place operations write elsewhere: a simulation keeps values between steps.

    InputError if the overwritten value is used again, since the network would then change.
    """
    in_place = {name for name, module in graph.named_modules() if getattr(module, "inplace", False)}
    for node in graph.graph.nodes:
        if node.target is F.relu_ or node.target is torch.relu_:
            node.target = F.relu
        elif node.op == "call_method" and node.target == "relu_":
            node.target = "relu"
        elif node.op == "call_module" and node.target in in_place:
            setattr(module_of(graph, node), "inplace", False)  # noqa: B010 (mypy knows modules only)
        elif node.kwargs.get("inplace", False):
            node.kwargs = {**node.kwargs, "inplace": False}
        else:
            continue
        if len(node.all_input_nodes[0].users) > 1:
            raise InputError(
                f"{node.name} overwrites a value that is used again: write it without an in-place operation"
            )


def value_of(graph, node, values):
    """The value of a node, given those of the nodes before it; InputError names a node whose inputs do not fit."""
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    try:
        if node.op == "call_module":
            return graph.get_submodule(node.target)(*args, **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        name = node.target if node.op == "call_module" else node.name
        raise InputError(f"{name}: what it is given does not fit: {str(error).splitlines()[0]}") from error
    return operator.attrgetter(node.target)(graph)  # get_attr


def module_of(graph, node):
    """The module that a node calls, or None."""
    return graph.get_submodule(node.target) if node.op == "call_module" else None


def output_of(graph):
    """The node whose value is the network's answer."""
    return next(node for node in graph.graph.nodes if node.op == "output").all_input_nodes[0]


def layer_name(node):
    """The name of a spiking or quantised layer in results: the path of its module."""
    return str(node.target)


def forward(graph, x):
    """All values of a forward pass, by node."""
    values = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = x
        elif node.op != "output":
            values[node] = value_of(graph, node, values)
    return values


@contextlib.contextmanager
def evaluating(network):
    """Evaluation mode within the context; afterwards every module has its previous mode."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield network
    finally:
        for module, mode in modes.items():
            module.training = mode
