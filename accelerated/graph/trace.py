"""Any module as a graph of operators, and the values of its nodes.

With a sample of images the graph is recorded (`capture.py`); without one it is traced by torch.fx, which knows no
shapes.
"""

import contextlib
import copy
import inspect
import keyword
import operator
import re
from functools import partialmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import map_arg
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from ..activation import QCFS
from ..checks import InputError, first_line
from ..neuron import SpikingNeuron
from .capture import capture, dice_of, dropouts_as_modules
from .modules import is_altered
from .operations import SHARES, answers, known_as, module_of, named, operation_of, place_of
from .timm import is_drop_path, plain

COMPARED = (operator.eq, operator.ne, operator.le, operator.lt, operator.ge, operator.gt, operator.mod, getattr)


def _takes_images_alone(function):
    """Whether a forward can be called with the images alone: all other arguments have defaults."""
    _, *others = list(inspect.signature(function).parameters.values())[1:]
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in others)


def is_whole(module):
    """Whether a module stays one node: what the table knows by its type, with nothing attached that changes it."""
    known = known_as(module) is not None or isinstance(module, (QCFS, SpikingNeuron)) or is_drop_path(module)
    return known and not is_altered(module)


class _Proxy(fx.Proxy):
    """A value while torch.fx traces; it notes what `+=` and its like overwrite, which fx takes for a sum."""

    tracer: Any

    def _overwritten(self, operation, other):
        new = self.tracer.create_proxy("call_function", operation, (self, other), {})
        self.tracer.overwritten.append((self.node, new.node))
        return new

    __iadd__ = partialmethod(_overwritten, operator.add)
    __isub__ = partialmethod(_overwritten, operator.sub)
    __imul__ = partialmethod(_overwritten, operator.mul)
    __itruediv__ = partialmethod(_overwritten, operator.truediv)


class _Tracer(fx.Tracer):
    """Without a sample: modules that the table knows stay whole, and so do torch's others, to be named."""

    def __init__(self):
        super().__init__()
        self.overwritten = []  # (a value that was written over, what then stood there)

    def proxy(self, node):
        """The value of a node."""
        return _Proxy(node, self)

    def is_leaf_module(self, m, module_qualified_name):
        if is_whole(m):
            return True
        if known_as(m) is not None or is_parametrized(m):
            what = "hooks or computed weights: give a sample, so that they are recorded"
            raise InputError(f"{module_qualified_name} ({type(m).__name__}) has {what}")
        return super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """The images alone if they suffice; other arguments keep their defaults."""
        if not (is_module and _takes_images_alone(root_fn)):
            return super().create_args_for_root(root_fn, is_module, concrete_args)
        name = list(inspect.signature(root_fn).parameters)[1]
        return root_fn, [self.root, self.create_proxy("placeholder", name, (), {})]


def unwrapped(model):
    """The module itself within torch.compile or data parallelism; InputError for what was scripted."""
    wrappers = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
    while type(model).__name__ in wrappers and type(model).__module__.startswith("torch."):
        model = getattr(model, wrappers[type(model).__name__])
    if isinstance(model, torch.jit.ScriptModule) or not isinstance(model, nn.Module):
        raise InputError(f"a network must be an nn.Module that runs in Python, got {type(model).__name__}")
    return model


def trace(model, sample=None):
    """A copy of `model` as a graph of operators, in the model's mode; `sample` [batch, ...] are some of its images.

    A graph that was made here is copied as it is.
    """
    model = unwrapped(model)
    if isinstance(model, fx.GraphModule) and model.meta.get("isospike"):
        return copy.deepcopy(model)
    if sample is None:
        return _graph_of(model, None)
    try:
        return _graph_of(model, sample)
    except InputError:  # what the process keeps from a first call, in a cache of its own, is there now
        return _graph_of(model, sample)


def _graph_of(original, sample):
    """The graph of a copy of a network, in the network's mode."""
    model = plain(_copied(original))
    if is_whole(model):
        model = nn.Sequential(model).train(model.training)
    reserved = [name for name, _ in model.named_modules() if any(map(keyword.iskeyword, name.split(".")))]
    if reserved:
        raise InputError(f"a module is called {reserved[0]!r}, a word that Python reserves: rename it")
    own = set(model.modules())
    plainly = torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False), torch.inference_mode(False)
    with evaluating(model), plainly[0], plainly[1], plainly[2]:
        if any(map(is_lazy, model.parameters())):
            _shaped(model, sample)
        graph = _traced(model) if sample is None else capture(model, sample, is_whole, original)
    for module in set(graph.modules()) - own:
        module.training = model.training
    _reshape_for_view(graph)
    _one_answer(graph)
    graph.training, graph.meta["isospike"] = model.training, True
    return graph


def _copied(model):
    """A deep copy; tensors that modules compute and keep (pruning, weight norm) are copied by value."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    try:
        return copy.deepcopy(model, {id(value): value.detach().clone() for value in kept})
    except (TypeError, RuntimeError) as error:
        line = first_line(error)
        raise InputError(
            f"{type(model).__name__} cannot be copied ({line}): give a module that copy.deepcopy copies"
        ) from error


@torch.no_grad()
def _shaped(model, sample):
    """Give lazy layers their shapes."""
    if sample is None:
        raise InputError(f"{type(model).__name__} has weights without a shape: give a sample of images")
    model(sample[:2])


def _one_answer(graph):
    """Several outputs become the value of one node."""
    output = next(iter(reversed(graph.graph.nodes)))
    if not isinstance(output.args[0], fx.Node):
        with graph.graph.inserting_before(output):
            output.args = (graph.graph.call_function(answers, (output.args[0],)),)
        graph.recompile()


def _reshape_for_view(graph):
    """`view` becomes `reshape`, which gives the same values in whatever order they lie in memory."""
    for node in graph.graph.nodes:
        if node.op == "call_method" and node.target == "view":
            if any(isinstance(arg, torch.dtype) for arg in node.args):
                raise InputError(f"{named(node)}{place_of(node)} reads numbers as another format: no sum can do that")
            node.target = "reshape"
    graph.recompile()


def _traced(model):
    """The graph by torch.fx; what the network draws at random would become a constant, and is refused."""
    dice, name, tracer, again = dice_of(), type(model).__name__, _Tracer(), _Tracer()
    try:
        graph = fx.GraphModule(model, tracer.trace(model))
        same = _written_out(graph.graph) == _written_out(again.trace(copy.deepcopy(model)))
    except (fx.proxy.TraceError, TypeError, AttributeError, RuntimeError) as error:
        line = first_line(error)
        raise InputError(f"{name} cannot be read without a sample of images: {line}") from error
    if dice_of() != dice:
        raise InputError(f"{name} draws random numbers in evaluation: draw only in training")
    if not same or any(isinstance(value, fx.Proxy) for module in model.modules() for value in vars(module).values()):
        raise InputError(f"{name} keeps something from one call to the next: it is no fixed graph of operators")
    _without_asserting(graph)
    _without_overwriting(graph, tracer.overwritten)
    dropouts_as_modules(graph)
    graph.recompile()
    return graph


def _without_asserting(graph):
    """Remove checks of shapes and what only they read; `value_of` reports an image that does not fit."""
    for node in reversed(graph.graph.nodes):
        if node.target is torch._assert or (node.op == "call_function" and node.target in COMPARED and not node.users):
            graph.graph.erase_node(node)


def _written_out(graph):
    """The nodes of a graph in words, by which two are compared."""
    nodes = [(node.op, str(node.target), str(node.args), str(node.kwargs)) for node in graph.nodes]
    return re.sub(r"_tensor_constant\d+", "_tensor_constant", str(nodes))


def _without_overwriting(graph, overwritten):
    """Make in-place operations write elsewhere: a simulation keeps values between steps.

    `overwritten` are pairs of nodes: a value and what was written over it. InputError if an overwritten value, or
    another that may lie in the same memory, is used again, since the network would then change.
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
        overwritten = [*overwritten, (node.all_input_nodes[0], node)]
    place = {node: i for i, node in enumerate(graph.graph.nodes)}
    for old, new in overwritten:
        if any(
            place[user] > place[new] for value in _in_one_memory(graph, old) for user in value.users if user is not new
        ):
            raise InputError(
                f"{new.name} overwrites a value that is used again: write it without an in-place operation"
            )


def _in_one_memory(graph, node):
    """The nodes whose values may lie in the same memory as this one's: parts, other shapes."""
    while operation_of(graph, node) in SHARES:
        node = node.all_input_nodes[0]
    found, stack = {node}, [node]
    while stack:
        views = {user for user in stack.pop().users if operation_of(graph, user) in SHARES} - found
        found |= views
        stack.extend(views)
    return found


def value_of(graph, node, values, args=None, kwargs=None):
    """The value of a node, given those of the nodes before it; InputError names a node whose inputs do not fit.

    `args` and `kwargs`, if given, replace its own.
    """
    given = (node.args if args is None else args), (node.kwargs if kwargs is None else kwargs)
    args, kwargs = map_arg(given, values.__getitem__)
    try:
        if node.op == "call_module":
            return graph.get_submodule(node.target)(*args, **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        line = first_line(error)
        raise InputError(f"{named(node)}{place_of(node)}: what it is given does not fit: {line}") from error
    return operator.attrgetter(node.target)(graph)  # get_attr


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
