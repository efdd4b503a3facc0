"""The layers of `reference.layers` in torch; derivatives come from autograd."""

import torch
import torch.nn.functional as F
from torch import nn

from .checks import InputError, whole


def _bias(bias, weight):
    """`bias` unchanged if it is None or has one element for each output of `weight`."""
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"a bias of shape {tuple(bias.shape)} does not fit a weight of shape {tuple(weight.shape)}")
    return bias


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """y = x W^T + b: x [..., F], W [G, F], b [G] -> [..., G]; InputError if these sizes do not fit."""
    if x.shape[-1] != weight.shape[1]:
        raise InputError(f"linear: {x.shape[-1]} features do not fit a weight of shape {tuple(weight.shape)}")
    return F.linear(x, weight, _bias(bias, weight))


def conv2d(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, stride: int = 1, padding: int = 0
) -> torch.Tensor:
    """Cross-correlation (Eq. 2-11), zero padded: x [n, C, H, W], W [O, C, k, k], b [O] -> [n, O, H', W'].

    H' = floor((H + 2 padding - k) / stride) + 1; InputError if the sizes do not fit.
    """
    if x.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise InputError(
            f"conv2d: an input of shape {tuple(x.shape)} does not fit a weight of shape {tuple(weight.shape)}"
        )
    whole(stride, "stride")
    whole(padding, "padding", least=0)
    if any(n + 2 * padding < k for n, k in zip(x.shape[2:], weight.shape[2:], strict=True)):
        raise InputError(
            f"conv2d: an input of shape {tuple(x.shape)} is smaller than a kernel of {tuple(weight.shape[2:])}"
        )
    return F.conv2d(x, weight, _bias(bias, weight), stride, padding)


def avg_pool2d(x: torch.Tensor, size: int) -> torch.Tensor:
    """The mean over non-overlapping size x size windows: [n, C, H, W] -> [n, C, H // size, W // size]."""
    size = whole(size, "the pooling size")
    if x.ndim != 4 or min(x.shape[2:]) < size:
        raise InputError(f"avg_pool2d: an input of shape {tuple(x.shape)} holds no window of {size} x {size}")
    return F.avg_pool2d(x, size)


class SumPool2d(nn.AvgPool2d):
    """The sum over windows: an average whose divisor is 1."""

    def __init__(self, kernel_size, stride=None, padding=0):
        super().__init__(kernel_size, stride, padding, divisor_override=1)


def max_pool2d(x: torch.Tensor, size: int) -> torch.Tensor:
    """The maximum over non-overlapping size x size windows: [n, C, H, W] -> [n, C, H // size, W // size].

    Of counts it is a count: with one threshold per window the maximum commutes with the value of a spike (M1).
    """
    size = whole(size, "the pooling size")
    if x.ndim != 4 or min(x.shape[2:]) < size:
        raise InputError(f"max_pool2d: an input of shape {tuple(x.shape)} holds no window of {size} x {size}")
    return F.max_pool2d(x, size)


def max_pool2d_run(spikes: torch.Tensor, size: int) -> torch.Tensor:
    """Max pooling of a train [T, n, C, H, W] of spikes -1, 0, 1: what is new in the maximum of the counts (M1; 7.5).

    Again -1, 0 or 1 in each step; of a train under integrate-then-fire it is the OR of a window's spikes.
    """
    counts = torch.stack([max_pool2d(total, size) for total in spikes.cumsum(0)])
    return torch.cat([counts[:1], counts.diff(dim=0)])
