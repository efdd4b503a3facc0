"""A network from a list of nodes, and its answer. The node list is that of `reference.network`."""

import operator
from collections.abc import Sequence

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from .checks import InputError, finite, first_line, one_of
from .graph.trace import evaluating
from .operators import CONSTANTS, FUNCTIONS, MODULES, TWO_INPUTS, parameter
from .pixels import Pixels
from .sums import held


def put(root, name, module):
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
                put(root, name, MODULES[op](node, first))
                values[name] = graph.call_module(name, tuple(inputs))
                continue
            if op == "shift" and node.get("bias") is not None:
                put(root, f"{name}_bias", parameter(node, "bias"))
                inputs.append(graph.get_attr(f"{name}_bias"))
            if op in CONSTANTS and isinstance(node[CONSTANTS[op]], torch.Tensor):
                constant = f"{name}_{CONSTANTS[op]}".replace(".", "_")
                root.register_buffer(constant, node[CONSTANTS[op]].clone())
                inputs.append(graph.get_attr(constant))
            if op == "add":
                values[name] = graph.create_node("call_function", operator.add, tuple(inputs), name=name)
                continue
            traced = (fx.Proxy(value, tracer) for value in inputs)
            values[name] = FUNCTIONS[op](node, *traced).node
        except KeyError as missing:
            raise InputError(f"node {name!r} ({op}) lacks {missing}") from missing
    graph.output(values[name])
    network = fx.GraphModule(root, graph)
    network.meta["isospike"] = True
    return network


def images(network, x, name="the images"):
    """x as a tensor [batch, ...] in the format and on the device of the weights; InputError if it cannot be one."""
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        line = first_line(error)
        raise InputError(f"{name} must be a tensor or an array [batch, ...], got {type(x).__name__}: {line}") from error
    if not x.is_floating_point() or x.is_sparse or x.is_quantized:
        raise InputError(f"{name} must hold plain real numbers (bytes: scaled as in training, x.float() / 255), "
                         f"got {x.dtype} in layout {x.layout}")  # fmt: skip
    some = next(iter(network.parameters()), torch.zeros((), dtype=torch.get_default_dtype(), device=x.device))
    if any(x.dtype == parameter.dtype for parameter in network.parameters()):
        some = some.to(x.dtype)
    if x.device != some.device:
        raise InputError(f"{name} are on {x.device} and the network is on {some.device}: move one to the other")
    if not x.ndim or not x.numel():
        raise InputError(f"{name} must be a batch [batch, ...] of at least one, got shape {tuple(x.shape)}")
    x = finite(x.to(some.dtype), name)
    for module in network.modules():
        if isinstance(module, Pixels):
            module.of(x)
    return x


def batches_of(network, sample) -> list[torch.Tensor]:
    """A sample as batches [batch, ...]: of a tensor, an array, a list of images, or a DataLoader.

    Of a DataLoader's batches that are tuples or lists, the first entry holds the images.
    """
    if not isinstance(sample, DataLoader):
        if isinstance(sample, (list, tuple)) and all(hasattr(image, "shape") for image in sample):
            shapes = {tuple(image.shape) for image in sample}
            if len(shapes) > 1:
                raise InputError(f"a sample that is a list holds images of one shape, got {sorted(shapes)[:3]}")
            sample = torch.stack([torch.as_tensor(image) for image in sample]) if sample else sample
        return [images(network, sample, "the sample")]
    found = []
    for batch in sample:
        first = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
        if not isinstance(first, torch.Tensor):
            raise InputError(
                f"a batch of the DataLoader must be images, or begin with them, got {type(batch).__name__}"
            )
        found.append(images(network, first, "the sample"))
    if not found:
        raise InputError("the sample has no images: the DataLoader is empty")
    return found


@torch.no_grad()
def answer(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The network's output (its logits) for images x [batch, ...], in evaluation mode; its own mode is kept."""
    try:
        x = images(network, x)
        if isinstance(network, fx.GraphModule):
            held(network, x.dtype)
        with evaluating(network):  # a called graph prints a traceback with its error; its forward does not
            found = network.forward(x) if isinstance(network, fx.GraphModule) else network(x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the images do not fit the network: {first_line(error)}") from error
    for value in tree_leaves(found):
        if isinstance(value, torch.Tensor) and value.isnan().any():
            raise InputError(f"the answer is not a number (NaN): a value overflowed in {x.dtype}; use a wider format")
    return found
