"""The operations of a network: which are replaced, which commute with sums over time, which are rejected.

The type of a module or the identity of a function decides, never a name.
"""

import operator

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from ..activation import QCFS, Site
from ..checks import InputError
from .modules import FeatureBatchNorm, SpikeMask
from .timm import is_drop_path
from .trace import module_of

ACTIVATIONS = {  # what a QCFS replaces: type, function or method -> upper bound, if any
    nn.ReLU: None, F.relu: None, torch.relu: None, "relu": None, nn.ReLU6: 6.0, F.relu6: 6.0,
    Site: None,
}  # fmt: skip
SHAPES = ("size", "dim", getattr)  # operations that read a shape: the same in every step
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)  # folded by conversion
OTHER_ACTIVATIONS = (F.gelu, F.silu, F.hardswish, F.hardsigmoid, torch.sigmoid, torch.tanh, "sigmoid", "tanh", F.elu)
MAX_POOLS = (F.max_pool2d, torch.max_pool2d)
CONVERTIBLE = (
    nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.Softmax, nn.AvgPool2d,
    nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.ReLU, nn.ReLU6, QCFS, Site, FeatureBatchNorm,
    SpikeMask,
)  # fmt: skip


CONVERTIBLE_FUNCTIONS = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul, operator.getitem, operator.floordiv,
    operator.mod, getattr, torch.roll, torch.add, torch.sub, torch.mul, torch.div, torch.matmul, torch.bmm, torch.cat,
    torch.stack, torch.chunk, torch.split, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.mean,
    torch.sum, torch.softmax, F.linear, F.conv2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.layer_norm, F.softmax, F.pad,
    F.relu, torch.relu, F.relu6,
)  # fmt: skip
CONVERTIBLE_METHODS = (
    "add", "sub", "mul", "div", "matmul", "flatten", "view", "reshape", "permute", "transpose", "contiguous", "chunk",
    "split", "unsqueeze", "squeeze", "expand", "mean", "sum", "softmax", "size", "dim", "relu", "unflatten",
)  # fmt: skip
LINEAR_MODULES = (
    nn.Linear, nn.Conv2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Dropout, SpikeMask,
)  # fmt: skip
PRODUCTS = (operator.matmul, torch.matmul, torch.bmm, "matmul")
SUMS = (operator.add, torch.add, "add")
JOINS = (torch.cat, torch.stack)
DIFFERENCES = (operator.sub, torch.sub, "sub")
SCALINGS = (operator.mul, operator.truediv, torch.mul, torch.div, "mul", "div")  # by a number
LINEAR_FUNCTIONS = (
    operator.getitem, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.chunk, torch.split,
    torch.mean, torch.sum, torch.roll, F.avg_pool2d, F.adaptive_avg_pool2d,
)  # fmt: skip
LINEAR_METHODS = (
    "flatten", "view", "reshape", "permute", "transpose", "contiguous", "chunk", "split", "unsqueeze", "squeeze",
    "expand", "mean", "sum", "unflatten",
)  # fmt: skip


def kind_of(graph, node):
    """What a node calls: the type of its module, its function, or its method's name; None if it calls nothing."""
    if node.op == "call_module":
        return type(module_of(graph, node))
    return node.target if node.op in ("call_function", "call_method") else None


def is_relu(graph, node):
    """Whether a node is a ReLU (or ReLU6): as a module, a function or a method."""
    return kind_of(graph, node) in ACTIVATIONS


def is_shape(node):
    """Whether a node reads a shape."""
    return node.op != "call_module" and node.target in SHAPES


def is_sum(node):
    """Whether a node adds two values, or a value and a constant."""
    return node.op != "call_module" and node.target in SUMS


def is_scaling(node):
    """Whether a node multiplies a value by a number, or divides it by one."""
    if node.op == "call_module" or node.target not in SCALINGS or node.kwargs or len(node.args) != 2:
        return False
    numbers = [isinstance(arg, (int, float)) for arg in node.args]
    quotient = node.target in (operator.truediv, torch.div, "div")
    return numbers == [False, True] or (numbers == [True, False] and not quotient)


def is_constant(node):
    """Whether a node's value is computed from weights, numbers and shapes alone."""
    if node.op == "get_attr" or is_shape(node):
        return True
    return bool(node.all_input_nodes) and all(map(is_constant, node.all_input_nodes))


def is_difference(node):
    """Whether a node subtracts one value from another."""
    return node.op != "call_module" and node.target in DIFFERENCES


def is_product(node):
    """Whether a node multiplies two matrices, or batches of them."""
    return node.op != "call_module" and node.target in PRODUCTS


def is_max_pool(graph, node):
    """Whether a node takes maxima over windows: as a module or a function."""
    return isinstance(module_of(graph, node), nn.MaxPool2d) or kind_of(graph, node) in MAX_POOLS


def label_of(graph, node):
    """The usual name of what a node calls: ReLU, relu, MaxPool2d, ..."""
    if node.target in MAX_POOLS:
        return "max_pool2d"
    module = module_of(graph, node)
    if isinstance(module, Site):
        return f"activation of a {module.site}"
    kind = kind_of(graph, node)
    return getattr(kind, "__name__", str(kind))


def advice(graph, node):
    """What to do instead of an operation that cannot be converted."""
    if is_max_pool(graph, node):
        return "quantise it with max_pool='average' (and train on), or build the network with average pooling"
    module = module_of(graph, node)
    if type(module).__module__ == nn.GELU.__module__ or kind_of(graph, node) in OTHER_ACTIVATIONS:
        return "use ReLU in its place (and train on)"
    if node.target is F.scaled_dot_product_attention:
        return "timm's Attention (ViT, DeiT) and Swin's window attention can be: choose a model with these"
    return "use ReLU and average pooling, and modules for dropout and batch norm"


def refuse_unknown(graph):
    """InputError names the first operation that has no spiking form here."""
    given = sum(node.op == "placeholder" for node in graph.graph.nodes)
    (answer,) = next(iter(reversed(graph.graph.nodes))).args
    if given != 1 or not isinstance(answer, Node):
        raise InputError(
            f"a network must take one batch of images and return one tensor; this one takes {given} inputs"
        )
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if module is not None and not isinstance(module, CONVERTIBLE) and not is_drop_path(module):
            raise InputError(f"{node.target} ({type(module).__name__}) cannot be converted; {advice(graph, node)}")
        known = {"call_function": CONVERTIBLE_FUNCTIONS, "call_method": CONVERTIBLE_METHODS}.get(node.op)
        if known is not None and node.target not in known:
            raise InputError(f"{node.name} ({label_of(graph, node)}) cannot be converted; {advice(graph, node)}")


def refuse_unfoldable(graph):
    """InputError names the first batch norm that cannot be folded into the layer right before it."""
    direct = {str(node.target).rpartition(".")[0] for node in graph.graph.nodes if node.op == "get_attr"}
    for node in graph.graph.nodes:
        norm = module_of(graph, node)
        if not isinstance(norm, BATCH_NORMS):
            continue
        before = node.all_input_nodes[0]
        own = isinstance(module_of(graph, before), (nn.Linear, nn.Conv2d)) and len(before.users) == 1
        if not own or before.target in direct:
            raise InputError(
                f"{node.target}: only a batch norm right after a conv2d or linear of its own can be folded"
            )
        if any(value is None for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var)):
            raise InputError(
                f"{node.target}: only a batch norm with affine weights and running statistics can be folded"
            )


def is_linear(graph, node):
    """Whether a node commutes with sums over time, apart from its bias."""
    if node.op == "call_module":
        module = module_of(graph, node)
        return isinstance(module, LINEAR_MODULES) or is_drop_path(module)
    if node.target is F.pad:  # zeros stay zeros
        settings = dict(zip(("mode", "value"), node.args[2:], strict=False), **node.kwargs)
        return settings.get("mode", "constant") == "constant" and not settings.get("value")
    sources = node.all_input_nodes
    if node.target in (*SUMS, *DIFFERENCES):  # adding a constant is not linear
        return not node.kwargs and len(sources) == 2 and not any(map(is_constant, sources))
    if node.target in JOINS:
        return not any(map(is_constant, sources))
    if node.target in SCALINGS:
        return is_scaling(node)
    return node.target in (LINEAR_FUNCTIONS if node.op == "call_function" else LINEAR_METHODS)


def average_pools(graph):
    """Replace max pooling by average pooling over the same windows, which changes answers. {name: what it was}."""
    was = {}
    for node in list(graph.graph.nodes):
        if not is_max_pool(graph, node):
            continue
        module, name = module_of(graph, node), node.target if node.op == "call_module" else node.name
        if module is None:  # a function: its arguments are those of the module
            settings = dict(zip(("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
                                node.args[1:], strict=False), **node.kwargs)  # fmt: skip
            settings.pop("input", None)
            module = nn.MaxPool2d(**settings)
        if module.dilation not in (1, (1, 1)) or module.return_indices:
            raise InputError(
                f"{name} ({label_of(graph, node)}) cannot become an average: it is dilated or returns indices"
            )
        was[name] = label_of(graph, node)
        pool = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
        while node.op != "call_module" and hasattr(graph, name):
            name += "_average"
        graph.add_submodule(name, pool)
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.call_module(name, (node.all_input_nodes[0],)))
        graph.graph.erase_node(node)
    graph.recompile()
    return was


def is_real_valued(graph, node):
    """Whether a node computes something that is neither linear nor an activation nor a shape."""
    if node.op not in ("call_module", "call_function", "call_method") or is_linear(graph, node):
        return False
    module = module_of(graph, node)
    if is_relu(graph, node) or is_shape(node) or is_constant(node) or isinstance(module, BATCH_NORMS):
        return False
    if module is None and node.target in (*SUMS, *JOINS):  # a value and a constant
        return False
    return module is None or module.__module__.startswith("torch.nn") or isinstance(module, FeatureBatchNorm)
