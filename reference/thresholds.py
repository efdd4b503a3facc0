"""Where a threshold comes from, and which features share it.

A threshold theta is a function of a trained parameter lambda (its *positivity*) and broadcasts against one sample
(its *granularity*). Formulas: docs/derivations.md (1.1) to (1.4).
"""

from collections.abc import Sequence

import numpy as np

from .checks import InputError, array, broadcasts, one_of, positive, whole

GRANULARITIES = ("layer", "channel", "head", "neuron")


def softplus(x: float | np.ndarray) -> np.ndarray:
    """Softplus(x) = log(1 + e^x) > 0, written as max(x, 0) + log1p(e^-|x|) so that nothing overflows (Eq. 3-4).

    Any shape, elementwise. Relative error: a few ulp over the whole range of the format.
    """
    x = array(x)
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def softplus_inverse(y: float | np.ndarray) -> np.ndarray:
    """The x with Softplus(x) = y, that is y + log(1 - e^-y), for y > 0; InputError if y is not positive."""
    y = array(positive(y, "the argument of softplus_inverse"))
    return y + np.log(-np.expm1(-y))


def softplus_slope(x: float | np.ndarray) -> np.ndarray:
    """d Softplus / dx = Sigmoid(x) = 1 / (1 + e^-x), written as e^-Softplus(-x): no 0/0, no overflow."""
    return np.exp(-softplus(-array(x)))


def exponential(x):
    """e^x > 0: the other positive parameterisation that 3.2.1 discusses; its own derivative."""
    return np.exp(array(x))


def logarithm(y):
    """The x with e^x = y, for y > 0; InputError if y is not positive."""
    return np.log(array(positive(y, "the argument of logarithm")))


POSITIVITY = {  # name: (lambda -> theta, theta -> lambda, d theta / d lambda)
    "raw": (array, array, lambda x: np.ones_like(array(x))),
    "softplus": (softplus, softplus_inverse, softplus_slope),
    "exp": (exponential, logarithm, exponential),
}


def threshold_of(parameter: float | np.ndarray, positivity: str) -> np.ndarray:
    """theta from the trained parameter: lambda itself ("raw"), Softplus(lambda) or e^lambda ("exp")."""
    return POSITIVITY[one_of(positivity, POSITIVITY, "positivity")][0](parameter)


def parameter_for(threshold: float | np.ndarray, positivity: str) -> np.ndarray:
    """The parameter whose threshold is `threshold`: the inverse of `threshold_of`, exact up to a few ulp."""
    return POSITIVITY[one_of(positivity, POSITIVITY, "positivity")][1](threshold)


def threshold_slope(parameter: float | np.ndarray, positivity: str) -> np.ndarray:
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


def sum_to(gradient: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The adjoint of broadcasting `shape` to `gradient.shape`: sums over the batch and over each block.

    <broadcast(a), g> = <a, sum_to(g, a.shape)> for all a, g (derivations 1.4). Returns `shape`.
    """
    gradient, shape = np.asarray(gradient), tuple(shape)
    broadcasts(np.empty(shape, dtype=bool), gradient.shape)
    lead = gradient.ndim - len(shape)
    blocks = tuple(lead + i for i, n in enumerate(shape) if n == 1)
    return np.asarray(gradient.sum(axis=tuple(range(lead)) + blocks)).reshape(shape)
