"""A2, QCFS and its derivatives. Fill in the functions; what you may import is in README.md, under Rules.

Return arrays of the format (dtype) of the arguments, and compute in it: cast L and the shift to float16, for instance.
You may call your own functions from one another.
"""

import numpy as np  # noqa: F401


def softplus(x):
    """log(1 + e^x), elementwise, for any x, also for 1000, where e^x overflows (derivations 1.1)."""


def softplus_inverse(y):
    """The x with softplus(x) = y, for y > 0; accurate to a few ulp for small and for large y (derivations 1.2)."""


def softplus_slope(x):
    """The derivative of softplus, which is the sigmoid 1 / (1 + e^-x), for any x (derivations 1.3)."""


def threshold_shape(granularity, sample_shape, heads=1):
    """The shape of a threshold that broadcasts against one sample.

    "layer": ();  "channel": (C, 1, 1) for samples (C, H, W), (F,) for (F,) and for (N, F);
    "head": (heads, 1, 1) for (heads, N, F);  "neuron": (F,), the last axis.
    """


def sum_to(gradient, shape):
    """The adjoint of broadcasting `shape` to gradient's shape: sum over the batch and over each block (derivations 1.4)."""


def qcfs_level(z, threshold, levels, shift=0.5):
    """The level of each z [batch, ...], 0..L: clip(floor(z L / theta + shift), 0, L), in this order (derivations 2.1)."""


def qcfs(z, threshold, levels, shift=0.5):
    """(theta level) / L, in this order."""


def qcfs_grad(z, threshold, levels, shift=0.5):
    """(d/dz, d/dtheta), elementwise, by the straight-through estimator. With u = z L / theta + shift (derivations 2.4, 2.5):

    d/dz = 1 for 0 <= u < L, else 0;  d/dtheta = (qcfs(z) - z) / theta for 0 <= u < L, 1 for u >= L, 0 for u < 0.
    """


def qcfs_parameter_grad(z, parameter, levels, positivity, upstream):
    """The gradient by the trained parameter lambda, in its shape (derivations 2.6).

    theta is lambda ("raw"), softplus(lambda) ("softplus") or e^lambda ("exp"); `upstream` is d loss / d qcfs(z).
    """
