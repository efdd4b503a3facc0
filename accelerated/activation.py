"""The quantised activation, its derivatives, the table of its variants, and the module that trains.

    u = z L / theta + phi        level(z) = clip(floor(u), 0, L)        qcfs(z) = (theta level(z)) / L

Operations and their order are those of `reference.activation`; the equivalence suite holds them together.
"""

import torch
from torch import nn

from ._native import elementwise
from .checks import broadcasts, finite, one_of, positive, tensor, whole
from .thresholds import parameter_for, sum_to, threshold_of, threshold_slope

VARIANTS = {  # name: (granularity, positivity)
    "qcfs": ("layer", "raw"),  # Bu et al. 2022; Eq. 2-23
    "s-qcfs": ("layer", "softplus"),  # Eq. 3-5
    "c-qcfs": ("channel", "raw"),  # Eq. 3-6
    "e-qcfs": ("layer", "exp"),  # 3.2.1, for comparison
    "ce-qcfs": ("channel", "exp"),
    "cs-qcfs": ("channel", "softplus"),  # Eq. 3-7
    "h-qcfs": ("head", "softplus"),  # Eq. 4-1 (there raw)
    "n-qcfs": ("neuron", "softplus"),  # Eq. 4-6 (there raw)
    "hn-qcfs": ("head and neuron", "softplus"),  # 4.2.3 (there raw): a placement
    "raw-h-qcfs": ("head", "raw"),
    "raw-n-qcfs": ("neuron", "raw"),
    "raw-hn-qcfs": ("head and neuron", "raw"),
}


def variant(name):
    """(granularity, positivity) of an activation by its name, in any case; InputError for an unknown name."""
    return VARIANTS[one_of(str(name).lower(), VARIANTS, "activation")]


def _prepare(z, threshold, levels):
    """z and theta in one format, checked: L >= 1, theta positive and of a shape that broadcasts."""
    z = finite(tensor(z), "z")
    threshold, levels = broadcasts(positive(tensor(threshold, like=z)), z.shape), whole(levels, "levels")
    positive(threshold * levels, "theta L")  # then a z L beyond the format lies beyond theta L, and is clipped to it
    return z, threshold, levels


def unchecked_level(z, threshold, levels, shift=0.5):
    """`qcfs_level` without its checks, for use inside networks, where each would wait for the device."""
    return torch.clamp(torch.floor(z * levels / threshold + shift), 0, levels)


def qcfs_level(z, threshold, levels, shift=0.5):
    """level(z) = clip(floor(z L / theta + phi), 0, L): an integer 0..L, in the format of z (Eq. 2-23)."""
    z, threshold, levels = _prepare(z, threshold, levels)
    return unchecked_level(z, threshold, levels, shift)


def level_value(level, threshold, levels):
    """(theta level) / L: what a level, or as many spikes, is worth.

    The one expression that the quantised network and the spiking one share; statement T5 rests on it.
    """
    return threshold * level / levels


def _grad(z, threshold, levels, shift):
    u = z * levels / threshold + shift
    inside, above = (u >= 0) & (u < levels), u >= levels
    value = level_value(unchecked_level(z, threshold, levels, shift), threshold, levels)
    by_threshold = torch.where(inside, (value - z) / threshold, above.to(z.dtype))
    return inside.to(z.dtype), by_threshold


def qcfs_counts(z, threshold, levels, shift=0.5):
    """(qcfs(z), level(z) as int32, the sum of the levels, how many are not 0), without derivatives."""
    native = elementwise.qcfs_counts(z, threshold, levels, shift)
    if native is not None:
        return native
    level = qcfs_level(z, threshold, levels, shift)
    counts = level.int()
    return level_value(level, threshold.to(z.dtype), levels), counts, int(counts.sum()), int(counts.count_nonzero())


class _QCFS(torch.autograd.Function):
    """Straight-through, with the mask written out: what clamp passes at its bounds differs between torch versions."""

    @staticmethod
    def forward(ctx, z, threshold, levels, shift):
        ctx.save_for_backward(z, threshold)
        ctx.levels, ctx.shift = levels, shift
        value = elementwise.qcfs(z, threshold, levels, shift)
        if value is None:
            value = level_value(unchecked_level(z, threshold, levels, shift), threshold, levels)
        return value

    @staticmethod
    def backward(ctx, upstream):
        z, threshold = ctx.saved_tensors
        native = elementwise.qcfs_backward(z, threshold, upstream, ctx.levels, ctx.shift)
        if native is not None:
            return *native, None, None
        by_z, by_threshold = _grad(z, threshold, ctx.levels, ctx.shift)
        return upstream * by_z, sum_to(upstream * by_threshold, threshold.shape), None, None


def qcfs(z, threshold, levels, shift=0.5):
    """qcfs(z) = (theta level(z)) / L, with the straight-through derivatives of `qcfs_grad` (Eq. 2-23, 3-5 to 3-7)."""
    z, threshold, levels = _prepare(z, threshold, levels)
    return _QCFS.apply(z, threshold, levels, shift)


def qcfs_grad(z, threshold, levels, shift=0.5):
    """(d/dz, d/dtheta), elementwise, with floor' = 1 (straight-through).

    d/dz     = 1 for 0 <= u < L, else 0
    d/dtheta = (qcfs(z) - z) / theta for 0 <= u < L, 1 for u >= L, 0 for u < 0
    """
    z, threshold, levels = _prepare(z, threshold, levels)
    return _grad(z, threshold, levels, shift)


def qcfs_parameter_grad(z, parameter, levels, positivity, upstream):
    """d loss / d lambda = slope(lambda) sum_to(upstream d/dtheta), in the parameter's shape (Eq. 3-9, corrected)."""
    by_threshold = qcfs_grad(z, threshold_of(parameter, positivity), levels)[1]
    return threshold_slope(parameter, positivity) * sum_to(upstream * by_threshold, tuple(parameter.shape))


class Site(nn.ReLU):
    """A ReLU that stands where a transformer is quantised: `site` "head", "neuron" or "layer" (4.2.3).

    "head": Q, K, V, the attention and what each head gives, [..., heads, N, d]; "neuron": a feed-forward layer
    [..., F]; "layer": the projection (Eq. 4-5).
    """

    def __init__(self, site, heads=None):
        super().__init__()
        self.site, self.heads = site, heads


class QCFS(nn.Module):
    """The activation as a module: every variant is a shape of its parameter and a positivity.

    `threshold` (theta, not lambda; a number or a tensor that broadcasts to `shape`) is where it starts. While it
    trains, a raw parameter may leave the positive range, as published; conversion refuses it there. `site` and
    `heads` are those of the `Site` in whose place it stands, if it does.
    """

    def __init__(self, shape=(), levels=8, positivity="softplus", threshold=4.0, site=None, heads=None):
        super().__init__()
        self.site, self.heads = site, heads
        self.levels, self.positivity = whole(levels, "levels"), positivity
        start = tensor(positive(threshold)).expand(tuple(shape)).clone()
        self.parameter = nn.Parameter(parameter_for(start, positivity))

    @property
    def threshold(self):
        """theta, made from the trained parameter."""
        return threshold_of(self.parameter, self.positivity)

    def forward(self, z):
        return _QCFS.apply(z, self.threshold.to(z.dtype), self.levels, 0.5)

    def extra_repr(self):
        return f"shape={tuple(self.parameter.shape)}, levels={self.levels}, positivity={self.positivity!r}"
