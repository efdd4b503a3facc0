"""The operators of a network: forward, derivative, and the entries of each kind of node.

    op            inputs  trained         settings              op            inputs  trained     settings
    linear        1       weight, bias                          flatten       1
    conv2d        1       weight, bias    stride, padding       tokens        1
    batch_norm    1       gamma, beta     mean, var, eps        mean_tokens   1
    layer_norm    1       gamma, beta     eps                   split_heads   1                   heads
    avg_pool2d    1                       size                  merge_heads   1
    max_pool2d    1                       size                  softmax       1
    sum_pool2d    1                       size                  product       2                   transpose
    shift         1       bias                                  divide        1                   by
    scale         1                       factor                pixels        1                   mean, std, most
    add           2                                             relu          1                   site, heads
    qcfs          1       parameter       levels, lowest, positivity, site, heads, mask

`shift` adds a trained constant that broadcasts (a position embedding, a relative position bias). `site` is the place of
an activation in a transformer (quantisation.py). `pixels` finds the whole pixels of an image again, less the one that
counts as 0 (integers.py).
"""

from collections.abc import Callable

import numpy as np

from . import layers, tokens
from .activation import PAPER, qcfs, qcfs_grad, qcfs_parameter_grad
from .checks import array, number
from .pixels import pixels
from .thresholds import sum_to, threshold_of

TRAINED = ("weight", "bias", "gamma", "beta", "parameter")
ARRAYS = (*TRAINED, "mean", "var")
OPTIONAL = {"bias": None, "stride": 1, "padding": 0, "eps": 1e-5, "transpose": False, "site": None, "heads": None,
            "lowest": 0, "mask": PAPER}  # fmt: skip
TWO_INPUTS = ("add", "product")

FORWARD: dict[str, Callable[..., np.ndarray]] = {
    "linear": lambda n, x: layers.linear(x, n["weight"], n["bias"]),
    "conv2d": lambda n, x: layers.conv2d(x, n["weight"], n["bias"], n["stride"], n["padding"]),
    "batch_norm": lambda n, x: layers.batch_norm(x, n["gamma"], n["beta"], n["mean"], n["var"], n["eps"]),
    "layer_norm": lambda n, x: tokens.layer_norm(x, n["gamma"], n["beta"], n["eps"]),
    "softmax": lambda n, x: tokens.softmax(x),
    "avg_pool2d": lambda n, x: layers.avg_pool2d(x, n["size"]),
    "max_pool2d": lambda n, x: layers.max_pool2d(x, n["size"]),
    "sum_pool2d": lambda n, x: layers.sum_pool2d(x, n["size"]),
    "add": lambda n, x, y: x + y,
    "product": lambda n, x, y: tokens.product(x, y, n["transpose"]),
    "split_heads": lambda n, x: tokens.split_heads(x, n["heads"]),
    "merge_heads": lambda n, x: tokens.merge_heads(x),
    "tokens": lambda n, x: tokens.tokens(x),
    "mean_tokens": lambda n, x: tokens.mean_tokens(x),
    "shift": lambda n, x: x if n["bias"] is None else x + n["bias"],
    "scale": lambda n, x: x * array(n["factor"], like=x),
    "divide": lambda n, x: x / array(n["by"], like=x),
    "pixels": lambda n, x: pixels(x, n["mean"], n["std"], n["most"]),
    "flatten": lambda n, x: x.reshape(len(x), -1),
    "relu": lambda n, x: np.maximum(x, number(0, x)),
    "qcfs": lambda n, x: qcfs(x, threshold_of(n["parameter"], n["positivity"]), n["levels"], lowest=n["lowest"]),
}
BACKWARD: dict[
    str, Callable[..., tuple]
] = {  # (node, inputs, upstream) -> gradients by inputs, then by the trained arrays in the order of NEEDS
    "linear": lambda n, x, g: layers.linear_grad(x[0], n["weight"], g),
    "conv2d": lambda n, x, g: layers.conv2d_grad(x[0], n["weight"], g, n["stride"], n["padding"]),
    "batch_norm": lambda n, x, g: layers.batch_norm_grad(x[0], n["gamma"], g, n["eps"]),
    "layer_norm": lambda n, x, g: tokens.layer_norm_grad(x[0], n["gamma"], g, n["eps"]),
    "softmax": lambda n, x, g: (tokens.softmax_grad(x[0], g),),
    "avg_pool2d": lambda n, x, g: (layers.avg_pool2d_grad(x[0], n["size"], g),),
    "max_pool2d": lambda n, x, g: (layers.max_pool2d_grad(x[0], n["size"], g),),
    "sum_pool2d": lambda n, x, g: (layers.sum_pool2d_grad(x[0], n["size"], g),),
    "add": lambda n, x, g: tuple(sum_to(g, term.shape) for term in x),
    "product": lambda n, x, g: tokens.product_grad(x[0], x[1], g, n["transpose"]),
    "split_heads": lambda n, x, g: (tokens.merge_heads(g),),
    "merge_heads": lambda n, x, g: (tokens.split_heads(g, x[0].shape[1]),),
    "tokens": lambda n, x, g: (tokens.tokens_grad(x[0], g),),
    "mean_tokens": lambda n, x, g: (tokens.mean_tokens_grad(x[0], g),),
    "shift": lambda n, x, g: (g, None if n["bias"] is None else sum_to(g, n["bias"].shape)),
    "scale": lambda n, x, g: (g * array(n["factor"], like=g),),
    "divide": lambda n, x, g: (g / array(n["by"], like=g),),
    "pixels": lambda n, x, g: (g * 0,),
    "flatten": lambda n, x, g: (g.reshape(x[0].shape),),
    "relu": lambda n, x, g: (g * (x[0] > 0),),
    "qcfs": lambda n, x, g: (
        g * qcfs_grad(x[0], threshold_of(n["parameter"], n["positivity"]), n["levels"], 0.5, n["lowest"], n["mask"])[0],
        qcfs_parameter_grad(x[0], n["parameter"], n["levels"], n["positivity"], g, n["lowest"], n["mask"]),
    ),
}
NEEDS = {
    "linear": ("weight", "bias"), "conv2d": ("weight", "bias", "stride", "padding"),
    "batch_norm": ("gamma", "beta", "mean", "var", "eps"), "layer_norm": ("gamma", "beta", "eps"),
    "avg_pool2d": ("size",), "max_pool2d": ("size",), "sum_pool2d": ("size",), "relu": ("site", "heads"),
    "divide": ("by",), "pixels": ("mean", "std", "most"),
    "qcfs": ("parameter", "levels", "lowest", "positivity", "site", "heads", "mask"),
    "product": ("transpose",), "split_heads": ("heads",), "shift": ("bias",), "scale": ("factor",),
}  # fmt: skip
