"""The layers between the activations, each followed by its derivative.

Images are [batch, C, H, W], features [batch, ..., F]. A `..._grad` takes the inputs of its function and `upstream`,
the gradient of the loss by the output. It returns the gradients by the inputs, in the order of the arguments.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .checks import InputError, array, number, whole


def _bias(bias, weight):
    """`bias` unchanged if it has one element per output of `weight`."""
    if bias.shape != weight.shape[:1]:
        raise InputError(f"a bias of shape {bias.shape} does not fit a weight of shape {weight.shape}")
    return bias


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """y = x W^T + b: x [..., F], W [G, F], b [G] -> [..., G]; InputError if these sizes do not fit."""
    if x.shape[-1] != weight.shape[1]:
        raise InputError(f"linear: {x.shape[-1]} features do not fit a weight of shape {weight.shape}")
    y = x @ weight.T
    return y if bias is None else y + _bias(bias, weight)


def linear_grad(x, weight, upstream):
    """dx = g W, dW = g^T x, db = g, summed over all axes but the last."""
    g, rows = upstream.reshape(-1, weight.shape[0]), x.reshape(-1, weight.shape[1])
    return upstream @ weight, g.T @ rows, g.sum(axis=0)


def _windows(x, size, stride, padding):
    """All size x size windows of the zero-padded image: [batch, C, H', W', size, size]."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    return sliding_window_view(x, size, axis=(2, 3))[:, :, ::stride, ::stride]


def conv2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, stride: int = 1, padding: int = 0
) -> np.ndarray:
    """Cross-correlation (Eq. 2-11), zero padded: x [n, C, H, W], W [O, C, k, k], b [O] -> [n, O, H', W'].

    H' = floor((H + 2 padding - k) / stride) + 1; InputError if the sizes do not fit.
    """
    if x.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise InputError(f"conv2d: an input of shape {x.shape} does not fit a weight of shape {weight.shape}")
    whole(stride, "stride")
    whole(padding, "padding", least=0)
    if any(n + 2 * padding < k for n, k in zip(x.shape[2:], weight.shape[2:], strict=True)):
        raise InputError(f"conv2d: an input of shape {x.shape} is smaller than a kernel of {weight.shape[2:]}")
    y = np.tensordot(_windows(x, weight.shape[2:], stride, padding), weight, axes=([1, 4, 5], [1, 2, 3]))
    y = np.moveaxis(y, -1, 1)
    return y if bias is None else y + _bias(bias, weight)[:, None, None]


def conv2d_grad(x, weight, upstream, stride=1, padding=0):
    """(dx, dW, db): dW correlates windows with g; dx adds g W back onto the windows of x."""
    windows = _windows(x, weight.shape[2:], stride, padding)
    by_weight = np.tensordot(upstream, windows, axes=([0, 2, 3], [0, 2, 3]))
    n, c, height, width = x.shape
    by_x = array(np.zeros((n, c, height + 2 * padding, width + 2 * padding)), like=upstream)
    rows, columns = stride * upstream.shape[2], stride * upstream.shape[3]
    for i, j in np.ndindex(*weight.shape[2:]):
        tap = np.moveaxis(np.tensordot(upstream, weight[:, :, i, j], axes=([1], [0])), -1, 1)
        by_x[:, :, i : i + rows : stride, j : j + columns : stride] += tap
    return by_x[:, :, padding : padding + height, padding : padding + width], by_weight, upstream.sum(axis=(0, 2, 3))


def avg_pool2d(x: np.ndarray, size: int) -> np.ndarray:
    """The mean over non-overlapping size x size windows: [n, C, H, W] -> [n, C, H // size, W // size]."""
    return sum_pool2d(x, size, "avg_pool2d") / number(size * size, x)


def avg_pool2d_grad(x, size, upstream):
    """Each input of a window gets 1 / size^2 of its output's gradient; uncovered inputs at the border get 0."""
    return sum_pool2d_grad(x, size, upstream / number(size * size, x))


def sum_pool2d(x, size, called="sum_pool2d"):
    """The sum over non-overlapping size x size windows: [n, C, H, W] -> [n, C, H // size, W // size]."""
    size = whole(size, "the pooling size")
    if x.ndim != 4 or min(x.shape[2:]) < size:
        raise InputError(f"{called}: an input of shape {x.shape} holds no window of {size} x {size}")
    return _windows(x, (size, size), size, 0).sum(axis=(4, 5))


def sum_pool2d_grad(x, size, upstream):
    """Each input of a window gets its output's gradient; uncovered inputs at the border get 0."""
    spread = upstream.repeat(size, axis=2).repeat(size, axis=3)
    by_x = array(np.zeros(x.shape), like=upstream)
    by_x[:, :, : spread.shape[2], : spread.shape[3]] = spread
    return by_x


def max_pool2d(x: np.ndarray, size: int) -> np.ndarray:
    """The maximum over non-overlapping size x size windows: [n, C, H, W] -> [n, C, H // size, W // size].

    Of counts it is a count: with one threshold per window the maximum commutes with the value of a spike (M1).
    """
    size = whole(size, "the pooling size")
    if x.ndim != 4 or min(x.shape[2:]) < size:
        raise InputError(f"max_pool2d: an input of shape {x.shape} holds no window of {size} x {size}")
    return _windows(x, (size, size), size, 0).max(axis=(4, 5))


def max_pool2d_run(spikes: np.ndarray, size: int) -> np.ndarray:
    """Max pooling of a train [T, n, C, H, W] of spikes -1, 0, 1: what is new in the maximum of the counts (M1; 7.5).

    Again -1, 0 or 1 in each step; of a train under integrate-then-fire it is the OR of a window's spikes.
    """
    counts = np.stack([max_pool2d(total, size) for total in np.cumsum(spikes, axis=0)])
    return np.concatenate([counts[:1], counts[1:] - counts[:-1]])


def max_pool2d_grad(x, size, upstream):
    """The first largest input of a window, row by row, gets its output's gradient, the others 0."""
    by_x = array(np.zeros(x.shape), like=upstream)
    windows = _windows(x, (size, size), size, 0)
    first = windows.reshape(*windows.shape[:4], -1).argmax(axis=-1)
    n, c, h, w = np.indices(first.shape)
    by_x[n, c, h * size + first // size, w * size + first % size] = upstream
    return by_x


def _by_channel(v, x):
    """v [C] shaped to broadcast against x [n, C, ...]."""
    return v.reshape(v.shape + (1,) * (x.ndim - 2))


def batch_norm(x, gamma, beta, mean, var, eps=1e-5):
    """y = gamma (x - mean) / sqrt(var + eps) + beta per channel (Eq. 2-26, with sqrt(var + eps) for sigma).

    x is [n, C] or [n, C, H, W]; tokens [n, N, F] are rejected, since their axis 1 does not hold channels.
    """
    if x.ndim == 3:
        raise InputError(f"batch_norm: features or images, not tokens of shape {x.shape[1:]}")
    scale = gamma / np.sqrt(var + eps)
    return _by_channel(scale, x) * (x - _by_channel(mean, x)) + _by_channel(beta, x)


def batch_statistics(x):
    """Mean and (biased) variance per channel over batch and space, as used in training."""
    axes = (0, *range(2, x.ndim))
    return x.mean(axis=axes), x.var(axis=axes)


def batch_norm_grad(x, gamma, upstream, eps=1e-5):
    """(dx, dgamma, dbeta) of training's batch norm, where mean and variance depend on x."""
    axes, (mean, var) = (0, *range(2, x.ndim)), batch_statistics(x)
    unit = (x - _by_channel(mean, x)) / np.sqrt(_by_channel(var, x) + eps)
    by_gamma, by_beta = (upstream * unit).sum(axis=axes), upstream.sum(axis=axes)
    count = x.size // x.shape[1]
    centred = upstream - _by_channel(by_beta / count, x) - unit * _by_channel(by_gamma / count, x)
    return _by_channel(gamma / np.sqrt(var + eps), x) * centred, by_gamma, by_beta
