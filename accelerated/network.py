"""Networks as graphs: built from a list of nodes, or traced from any module by torch.fx.

The node list is that of `reference.network`; see there for the operators and what each needs.
"""

import copy
import inspect
import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import map_arg

from .activation import QCFS, Site
from .checks import InputError, finite, one_of, tensor, whole
from .neuron import SpikingNeuron
from .timm_modules import is_drop_path, plain
from .transformers import FeatureBatchNorm, SpikeMask

COMPARED = (operator.eq, operator.ne, operator.le, operator.lt, operator.ge, operator.gt, operator.mod, getattr)


class _Tracer(fx.Tracer):
    """Leaves our own modules whole, as it does torch's, and timm's stochastic depth, which looks at `training`."""

    def is_leaf_module(self, m, module_qualified_name):
        own = isinstance(m, (QCFS, Site, SpikingNeuron, FeatureBatchNorm, SpikeMask)) or is_drop_path(m)
        return own or super().is_leaf_module(m, module_qualified_name)


def _of_one_input(model):
    """The model with a forward that takes the images alone: what has a default keeps it."""
    _, *others = inspect.signature(model.forward).parameters.values()
    if others and all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in others):
        kind = type(model)
        model.__class__ = type(kind.__name__, (kind,), {"forward": lambda self, x: kind.forward(self, x)})
    return model


def trace(model):
    """A copy of `model` as a graph of operators (torch.fx), so that nothing in it can be overlooked."""
    if isinstance(model, fx.GraphModule):
        return copy.deepcopy(model)
    model = _of_one_input(plain(copy.deepcopy(model)))
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
    """Take out checks of shapes and what only they read; an image that does not fit is named where it does not."""
    for node in reversed(graph.graph.nodes):
        if node.target is torch._assert or (node.op == "call_function" and node.target in COMPARED and not node.users):
            graph.graph.erase_node(node)


def _without_overwriting(graph):
    """Make in-place operations write elsewhere: a simulation keeps values between steps.

    InputError where the value that would be overwritten is used again, since the network would then change.
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


def evaluate(graph, node, values):
    """One node of a graph, given the values of those before it; InputError names a node whose inputs do not fit."""
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
    """How a spiking or quantised layer is called in results: the path of its module."""
    return str(node.target)


def forward(graph, x):
    """All values of a forward pass, by node."""
    values = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = x
        elif node.op != "output":
            values[node] = evaluate(graph, node, values)
    return values


def _parameter(node, part):
    value = node.get(part)
    if value is None:
        return None
    return nn.Parameter(finite(tensor(value).clone(), f"{node['name']}.{part}"))


def _affine(node, module):
    module.weight, module.bias = _parameter(node, "weight"), _parameter(node, "bias")
    return module


def _normalisation(node, module):
    module.weight, module.bias = _parameter(node, "gamma"), _parameter(node, "beta")
    if "mean" in node:
        module.running_mean = finite(tensor(node["mean"]).clone(), f"{node['name']}.mean")
        module.running_var = finite(tensor(node["var"]).clone(), f"{node['name']}.var")
    return module


def _qcfs(node):
    module = QCFS((), whole(node["levels"], "levels"), node["positivity"], 4.0, node.get("site"), node.get("heads"))
    module.parameter = _parameter(node, "parameter")
    return module


def _conv2d(node):
    out, into, *kernel = node["weight"].shape
    return _affine(node, nn.Conv2d(into, out, kernel, node.get("stride", 1), node.get("padding", 0)))


def _batch_norm(node, after):
    kind = nn.BatchNorm2d if after == "conv2d" else nn.BatchNorm1d
    return _normalisation(node, kind(len(node["gamma"]), node.get("eps", 1e-5)))


MODULES = {  # operator -> module, from the node and the kind of layer whose output it sees
    "linear": lambda n, after: _affine(n, nn.Linear(*n["weight"].shape[::-1])),
    "conv2d": lambda n, after: _conv2d(n),
    "batch_norm": _batch_norm,
    "layer_norm": lambda n, after: _normalisation(n, nn.LayerNorm(len(n["gamma"]), n.get("eps", 1e-5))),
    "softmax": lambda n, after: nn.Softmax(dim=-1),
    "avg_pool2d": lambda n, after: nn.AvgPool2d(whole(n["size"], "the pooling size")),
    "flatten": lambda n, after: nn.Flatten(),
    "relu": lambda n, after: Site(n["site"], n.get("heads")) if n.get("site") else nn.ReLU(),
    "qcfs": lambda n, after: _qcfs(n),
}


def _heads(node, x):
    return x.unflatten(-1, (whole(node["heads"], "heads"), -1)).transpose(-3, -2)


FUNCTIONS: dict[str, Callable] = {  # operator -> what it does to the values that a graph is made of
    "product": lambda n, x, y: torch.matmul(x, y.transpose(-2, -1) if n.get("transpose") else y),
    "split_heads": _heads,
    "merge_heads": lambda n, x: x.transpose(-3, -2).flatten(-2),
    "tokens": lambda n, x: x.flatten(2).transpose(1, 2),
    "mean_tokens": lambda n, x: x.mean(1),
    "scale": lambda n, x: x * float(n["factor"]),
    "shift": lambda n, x, bias=None: x if bias is None else x + bias,
}
TWO_INPUTS = ("add", "product")


def _put(root, name, module):
    """Set `root.a.b` for the name "a.b"."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    setattr(root, last, module)


def build(nodes):
    """A module (fx.GraphModule) from a list of nodes, with the checks of `reference.build`."""
    root, graph = nn.Module(), fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    values, after = {"image": graph.placeholder("image")}, {"image": "image"}
    if not nodes:
        raise InputError("a network needs at least one node")
    for node in nodes:
        if not {"name", "op", "inputs"} <= set(node):
            raise InputError(f"a node needs 'name', 'op' and 'inputs', got {sorted(node)}")
        name, op = node["name"], one_of(node["op"], [*MODULES, *FUNCTIONS, "add"], "operator")
        for source in node["inputs"]:
            one_of(source, values, f"input of {name!r}")
        if len(node["inputs"]) != (2 if op in TWO_INPUTS else 1):
            raise InputError(
                f"node {name!r} ({op}) has {len(node['inputs'])} inputs: {' and '.join(TWO_INPUTS)} take 2, "
                "any other operator 1"
            )
        if name in values:
            raise InputError(f"the name {name!r} is used twice")
        inputs = [values[source] for source in node["inputs"]]
        first = after[node["inputs"][0]]
        after[name] = op if op in ("conv2d", "linear", "flatten") else first
        try:
            if op in MODULES:
                _put(root, name, MODULES[op](node, first))
                values[name] = graph.call_module(name, tuple(inputs))
                continue
            if op == "shift" and node.get("bias") is not None:
                _put(root, f"{name}_bias", _parameter(node, "bias"))
                inputs.append(graph.get_attr(f"{name}_bias"))
            if op == "add":
                values[name] = graph.create_node("call_function", operator.add, tuple(inputs), name=name)
                continue
            traced = (fx.Proxy(value, tracer) for value in inputs)
            values[name] = FUNCTIONS[op](node, *traced).node
        except KeyError as missing:
            raise InputError(f"node {name!r} ({op}) lacks {missing}") from missing
    graph.output(values[name])
    return fx.GraphModule(root, graph)


def images(network, x):
    """x as a tensor [batch, ...] in the format of the weights; InputError for NaN, infinity or an empty batch."""
    x = torch.as_tensor(x)
    x = x.to(next((p.dtype for p in network.parameters()), torch.get_default_dtype()))
    if not x.ndim or not len(x):
        raise InputError(f"the images must be a batch [batch, ...] of at least one, got shape {tuple(x.shape)}")
    return finite(x, "the images")


@torch.no_grad()
def answer(network, x):
    """The network's output (its logits) for images x [batch, ...], in evaluation mode."""
    try:
        network, x = network.eval(), images(network, x)
        return network.forward(x) if isinstance(network, fx.GraphModule) else network(x)  # fx prints a traceback else
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise InputError(f"the images do not fit the network: {str(error).splitlines()[0]}") from error
