"""A network from a list of nodes, and its answer. The node list is that of `reference.network`."""

import operator
from collections.abc import Sequence

import torch
from torch import fx, nn

from .checks import InputError, finite, one_of
from .graph.trace import evaluating
from .operators import FUNCTIONS, MODULES, TWO_INPUTS, parameter


def _put(root, name, module):
    """Set `root.a.b` for the name "a.b"."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    setattr(root, last, module)


def build(nodes: Sequence[dict]) -> fx.GraphModule:
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
                _put(root, f"{name}_bias", parameter(node, "bias"))
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
def answer(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The network's output (its logits) for images x [batch, ...], in evaluation mode; its own mode is kept."""
    try:
        x = images(network, x)
        with evaluating(network):  # a called graph prints a traceback with its error; its forward does not
            return network.forward(x) if isinstance(network, fx.GraphModule) else network(x)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise InputError(f"the images do not fit the network: {str(error).splitlines()[0]}") from error
