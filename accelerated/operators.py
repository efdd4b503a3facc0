"""The operators of a network as torch modules and functions: the table of `reference.operators`, with autograd."""

from collections.abc import Callable

import torch
from torch import nn

from .activation import PAPER, QCFS, Site
from .checks import finite, tensor, whole
from .layers import SumPool2d
from .pixels import Pixels


def parameter(node, part):
    """A node's array as a trained parameter, or None."""
    value = node.get(part)
    if value is None:
        return None
    return nn.Parameter(finite(tensor(value).clone(), f"{node['name']}.{part}"))


def _affine(node, module):
    module.weight, module.bias = parameter(node, "weight"), parameter(node, "bias")
    return module


def _normalisation(node, module):
    module.weight, module.bias = parameter(node, "gamma"), parameter(node, "beta")
    if "mean" in node:
        module.running_mean = finite(tensor(node["mean"]).clone(), f"{node['name']}.mean")
        module.running_var = finite(tensor(node["var"]).clone(), f"{node['name']}.var")
    return module


def _qcfs(node):
    levels, of_site = whole(node["levels"], "levels"), (node.get("site"), node.get("heads"))
    module = QCFS((), levels, node["positivity"], 4.0, *of_site, node.get("lowest", 0), node.get("mask", PAPER))
    module.parameter = parameter(node, "parameter")
    return module


def _conv2d(node):
    out, into, *kernel = node["weight"].shape
    return _affine(node, nn.Conv2d(into, out, kernel, node.get("stride", 1), node.get("padding", 0)))


def _batch_norm(node, after):
    kind = nn.BatchNorm2d if after == "conv2d" else nn.BatchNorm1d
    return _normalisation(node, kind(len(node["gamma"]), node.get("eps", 1e-5)))


MODULES = {  # operator -> module, from the node and the kind of layer before it
    "linear": lambda n, after: _affine(n, nn.Linear(*n["weight"].shape[::-1])),
    "conv2d": lambda n, after: _conv2d(n),
    "batch_norm": _batch_norm,
    "layer_norm": lambda n, after: _normalisation(n, nn.LayerNorm(len(n["gamma"]), n.get("eps", 1e-5))),
    "softmax": lambda n, after: nn.Softmax(dim=-1),
    "avg_pool2d": lambda n, after: nn.AvgPool2d(whole(n["size"], "the pooling size")),
    "max_pool2d": lambda n, after: nn.MaxPool2d(whole(n["size"], "the pooling size")),
    "sum_pool2d": lambda n, after: SumPool2d(whole(n["size"], "the pooling size")),
    "pixels": lambda n, after: Pixels(n["mean"], n["std"], whole(n["most"], "most")),
    "flatten": lambda n, after: nn.Flatten(),
    "relu": lambda n, after: Site(n["site"], n.get("heads")) if n.get("site") else nn.ReLU(),
    "qcfs": lambda n, after: _qcfs(n),
}


def _heads(node, x):
    return x.unflatten(-1, (whole(node["heads"], "heads"), -1)).transpose(-3, -2)


FUNCTIONS: dict[str, Callable] = {  # operator -> its function on traced values
    "product": lambda n, x, y: torch.matmul(x, y.transpose(-2, -1) if n.get("transpose") else y),
    "split_heads": _heads,
    "merge_heads": lambda n, x: x.transpose(-3, -2).flatten(-2),
    "tokens": lambda n, x: x.flatten(2).transpose(1, 2),
    "mean_tokens": lambda n, x: x.mean(1),
    "scale": lambda n, x, factor=None: x * (float(n["factor"]) if factor is None else factor),
    "divide": lambda n, x, by=None: x / (float(n["by"]) if by is None else by),
    "shift": lambda n, x, bias=None: x if bias is None else x + bias,
}
CONSTANTS = {"scale": "factor", "divide": "by"}  # of operators: a number, or an array that is kept as a buffer
TWO_INPUTS = ("add", "product")
