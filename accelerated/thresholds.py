"""Where a threshold comes from, and which features share it: `reference.thresholds` on tensors, with autograd."""

from collections.abc import Sequence

import torch

from .checks import InputError, broadcasts, one_of, positive, tensor, whole

GRANULARITIES = ("layer", "channel", "head", "neuron")


def _softplus(x):
    return torch.clamp(x, min=0) + torch.log1p(torch.exp(-x.abs()))


class _Softplus(torch.autograd.Function):
    """The derivative is explicit: autograd through clamp and abs gives 1 or 0 at x = 0, where it is 1/2."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return _softplus(x)

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return upstream * softplus_slope(x)


def softplus(x: float | torch.Tensor) -> torch.Tensor:
    """Softplus(x) = log(1 + e^x) > 0 = max(x, 0) + log1p(e^-|x|), elementwise (Eq. 3-4)."""
    return _Softplus.apply(tensor(x))


def softplus_inverse(y: torch.Tensor) -> torch.Tensor:
    """The x with Softplus(x) = y, that is y + log(1 - e^-y), for y > 0; InputError if y is not positive."""
    y = tensor(positive(y, "the argument of softplus_inverse"))
    return y + torch.log(-torch.expm1(-y))


def softplus_slope(x: float | torch.Tensor) -> torch.Tensor:
    """d Softplus / dx = Sigmoid(x), written as e^-Softplus(-x)."""
    return torch.exp(-_softplus(-tensor(x)))


def exponential(x):
    """e^x > 0: the other positive parameterisation that 3.2.1 discusses; its own derivative."""
    return torch.exp(tensor(x))


def logarithm(y):
    """The x with e^x = y, for y > 0; InputError if y is not positive."""
    return torch.log(tensor(positive(y, "the argument of logarithm")))


POSITIVITY = {  # name: (lambda -> theta, theta -> lambda, d theta / d lambda)
    "raw": (tensor, tensor, lambda x: torch.ones_like(tensor(x))),
    "softplus": (softplus, softplus_inverse, softplus_slope),
    "exp": (exponential, logarithm, exponential),
}


def threshold_of(parameter: float | torch.Tensor, positivity: str) -> torch.Tensor:
    """theta from the trained parameter: lambda itself ("raw"), Softplus(lambda) or e^lambda ("exp")."""
    return POSITIVITY[one_of(positivity, POSITIVITY, "positivity")][0](parameter)


def parameter_for(threshold: float | torch.Tensor, positivity: str) -> torch.Tensor:
    """The parameter whose threshold is `threshold`: the inverse of `threshold_of`, exact up to a few ulp."""
    return POSITIVITY[one_of(positivity, POSITIVITY, "positivity")][1](threshold)


def threshold_slope(parameter: float | torch.Tensor, positivity: str) -> torch.Tensor:
    """d theta / d lambda: 1 ("raw"), Sigmoid(lambda) or e^lambda."""
    return POSITIVITY[one_of(positivity, POSITIVITY, "positivity")][2](parameter)


def threshold_shape(granularity: str, sample_shape: Sequence[int], heads: int = 1) -> tuple[int, ...]:
    """The shape of a threshold that broadcasts against one sample (no batch axis).

    layer   ()             one for the whole layer
    channel (C, 1, 1)      for (C, H, W), (C, 1, 1, 1) for volumes;  (F,) for (F,) and for tokens (N, F)
    head    (heads, 1, 1)  for (heads, N, F)
    neuron  (F,)           the last axis, shared by all tokens
    """
    one_of(granularity, GRANULARITIES, "granularity")
    shape = tuple(whole(n, "a size in sample_shape") for n in sample_shape)
    if granularity == "layer":
        return ()
    if not 1 <= len(shape) <= 4:
        raise InputError(f"granularity {granularity!r} needs a sample with one to four axes, got shape {shape}")
    if granularity == "head":
        heads = whole(heads, "heads")
        if len(shape) != 3 or shape[0] != heads:
            raise InputError(f"granularity 'head' needs samples of shape ({heads}, N, F), got {shape}")
        return (heads, 1, 1)
    if granularity == "channel" and len(shape) >= 3:
        return (shape[0], *(1,) * (len(shape) - 1))
    return shape[-1:]


def sum_to(gradient: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The adjoint of broadcasting `shape` to `gradient.shape`: sums over the batch and over each block."""
    broadcasts(torch.empty(tuple(shape), device="meta"), gradient.shape)
    return gradient.sum_to_size(tuple(shape))
