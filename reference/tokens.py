"""Layers on tokens [batch, N, F], each followed by its derivative, and their forms over time.

Heads are [batch, heads, N, d]. Formulas over time: docs/derivations.md (7.1) to (7.4).
"""

from itertools import pairwise

import numpy as np

from .checks import InputError, array, number, one_of, whole

FORMS = ("accumulated", "per-step")


def layer_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """y = gamma (x - mean) / sqrt(var + eps) + beta over the last axis: x [..., F], gamma, beta [F] -> [..., F].

    layer_norm(0) = beta, not 0: a nonlinear operator.
    """
    x = array(x)
    return gamma * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) + beta


def layer_norm_grad(x, gamma, upstream, eps=1e-5):
    """(dx, dgamma, dbeta) with n = (x - mean) / sigma, h = g gamma: dx = (h - mean h - n mean(h n)) / sigma."""
    sigma = np.sqrt(x.var(-1, keepdims=True) + eps)
    unit, g = (x - x.mean(-1, keepdims=True)) / sigma, upstream * gamma
    by_x = (g - g.mean(-1, keepdims=True) - unit * (g * unit).mean(-1, keepdims=True)) / sigma
    over = tuple(range(x.ndim - 1))
    return by_x, (upstream * unit).sum(axis=over), upstream.sum(axis=over)


def softmax(x: np.ndarray) -> np.ndarray:
    """e^x / sum e^x over the last axis, the maximum subtracted first. softmax(0) = 1/n, not 0."""
    x = array(x)
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_grad(x, upstream):
    """dx = y (g - sum g y) with y = softmax(x)."""
    y = softmax(x)
    return y * (upstream - (upstream * y).sum(-1, keepdims=True))


def product(a, b, transpose=False):
    """a b over the last two axes, or a b^T: a [..., N, d], b [..., d, M] (transposed: [..., M, d]) -> [..., N, M]."""
    b = np.swapaxes(b, -1, -2) if transpose else b
    if a.shape[-1] != b.shape[-2] or a.shape[:-2] != b.shape[:-2]:
        raise InputError(f"product: shapes {a.shape} and {b.shape} do not fit")
    return a @ b


def product_grad(a, b, upstream, transpose=False):
    """(g b^T, a^T g); transposed: (g b, g^T a)."""
    if transpose:
        return upstream @ b, np.swapaxes(upstream, -1, -2) @ a
    return upstream @ np.swapaxes(b, -1, -2), np.swapaxes(a, -1, -2) @ upstream


def split_heads(x, heads):
    """[batch, N, heads d] -> [batch, heads, N, d]; InputError if the width is not divisible by the number of heads."""
    heads = whole(heads, "heads")
    if x.ndim != 3 or x.shape[-1] % heads:
        raise InputError(f"split_heads: tokens of shape {x.shape} do not divide into {heads} heads")
    return np.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)


def merge_heads(x):
    """[batch, heads, N, d] -> [batch, N, heads d]: the inverse of `split_heads`, and its derivative."""
    return np.swapaxes(x, 1, 2).reshape(x.shape[0], x.shape[2], -1)


def tokens(x):
    """Positions of feature maps as tokens: [batch, F, H, W] -> [batch, H W, F]."""
    return np.swapaxes(x.reshape(*x.shape[:2], -1), 1, 2)


def tokens_grad(x, upstream):
    """The gradient at the positions of the feature map."""
    return np.swapaxes(upstream, 1, 2).reshape(x.shape)


def mean_tokens(x):
    """The mean over all tokens: [batch, N, F] -> [batch, F]."""
    return x.sum(axis=1) / number(x.shape[1], x)


def mean_tokens_grad(x, upstream):
    """Each token gets 1 / N of the gradient."""
    return np.broadcast_to(upstream[:, None] / number(x.shape[1], x), x.shape)


def accumulated(function, *trains):
    """y_1 = f(X_1), y_t = f(X_t) - f(X_(t-1)), X_t the sum of the first t steps: the sum of all y is f of the sum.

    Each train is [T, ...]. The total does not depend on how the input is spread over time (7.2).
    """
    values = [function(*totals) for totals in zip(*(np.cumsum(train, axis=0) for train in trains), strict=True)]
    return np.stack([values[0], *(after - before for before, after in pairwise(values))])


def per_step(function, *trains):
    """y_t = f(x_t): each step's spikes alone, as published (Eq. 2-28 to 2-30). The mean is not f of the mean (N1)."""
    return np.stack([function(*step) for step in zip(*trains, strict=True)])


def over_time(function, operators, *trains):
    """`accumulated` or `per_step` by name."""
    return {"accumulated": accumulated, "per-step": per_step}[one_of(operators, FORMS, "operators")](function, *trains)


def product_step(a, b, a_before, b_before, transpose=False):
    """The increment of a product of totals: a_t B_<=t + A_<t b_t (7.3)."""
    return product(a, b_before + b, transpose) + product(a_before, b, transpose)


def product_run(a: np.ndarray, b: np.ndarray, operators: str = "accumulated") -> np.ndarray:
    """The product of two spike trains, a [T, ..., N, d] and b [T, ..., d, M] -> [T, ..., N, M].

    accumulated: the increments a_t B_<=t + A_<t b_t, whose sum is the product of the sums. per-step: a_t b_t.
    """
    one_of(operators, FORMS, "operators")
    if len(a) != len(b) or not len(a):
        raise InputError(f"product_run: trains of {len(a)} and {len(b)} steps")
    if operators == "per-step":
        return per_step(product, a, b)
    befores = [np.cumsum(train, axis=0) - train for train in (a, b)]
    return np.stack([product_step(*parts) for parts in zip(a, b, *befores, strict=True)])


def softmax_run(x: np.ndarray, operators: str = "accumulated") -> np.ndarray:
    """The softmax of a train x [T, ..., F] over time; since softmax(0) = 1/n is not 0, y_1 is all of f(X_1)."""
    return over_time(softmax, operators, x)


def layer_norm_run(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float = 1e-5, operators: str = "accumulated"
) -> np.ndarray:
    """The layer norm of a train x [T, ..., F] over time."""
    return over_time(lambda total: layer_norm(total, gamma, beta, eps), operators, x)
