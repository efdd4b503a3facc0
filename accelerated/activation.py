"""The quantised activation, its derivatives, the table of its variants, and the module that trains.

    u = z L / theta + phi        level(z) = clip(floor(u), lowest, L)        qcfs(z) = (theta level(z)) / L

`lowest` is 0 for what follows a ReLU; with levels below zero, any value is quantised: behind a GELU, queries, keys.
Operations and their order are those of `reference.activation`; the equivalence suite compares both.
"""

from collections.abc import Sequence

import torch
from torch import nn

from ._native import elementwise
from .checks import InputError, broadcasts, finite, not_above_zero, one_of, positive, tensor, whole
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

PAPER = "0<=u<L"
MASKS = {  # where a derivative passes, with u = z L / theta + phi: name -> (u, L, lowest, phi) -> mask
    PAPER: lambda u, levels, lowest, shift: (u >= lowest) & (u < levels),  # Bu et al. 2022; Eq. 3-8
    "0<=u<L+1": lambda u, levels, lowest, shift: (u >= lowest) & (u < levels + 1),  # their code, torch up to 2.13
    "1<=u<L": lambda u, levels, lowest, shift: (u >= lowest + 1) & (u < levels),  # the same code, torch 2.14
    "0<=z<=theta": lambda u, levels, lowest, shift: (u >= lowest + shift) & (u <= levels + shift),  # their newer code
}


def variant(name: str) -> tuple[str, str]:
    """(granularity, positivity) of an activation by its name, in any case; InputError for an unknown name."""
    return VARIANTS[one_of(str(name).lower(), VARIANTS, "activation")]


def _prepare(z, threshold, levels):
    """z and theta in one format, checked: L >= 1, theta positive and of a shape that broadcasts."""
    z = finite(tensor(z), "z")
    threshold, levels = broadcasts(positive(tensor(threshold, like=z)), z.shape), whole(levels, "levels")
    positive(threshold * levels, "theta L")  # finite: where z L overflows, |z| > theta and the level is clipped
    return z, threshold, levels


def unchecked_level(z, threshold, levels, shift=0.5, lowest=0):
    """`qcfs_level` without its checks, for use inside networks, where each check would wait for the device."""
    return torch.clamp(torch.floor(z * levels / threshold + shift), lowest, levels)


def qcfs_level(
    z: torch.Tensor, threshold: float | torch.Tensor, levels: int, shift: float = 0.5, lowest: int = 0
) -> torch.Tensor:
    """level(z) = clip(floor(z L / theta + phi), lowest, L): a whole number, in the format of z (Eq. 2-23)."""
    z, threshold, levels = _prepare(z, threshold, levels)
    return unchecked_level(z, threshold, levels, shift, not_above_zero(lowest))


def level_value(level, threshold, levels):
    """(theta level) / L: the value of a level, or of a count of spikes.

    The quantised and the spiking network share this one expression; statement T5 rests on it.
    """
    return threshold * level / levels


def _grad(z, threshold, mask, levels, shift, lowest):
    inside = MASKS[mask](z * levels / threshold + shift, levels, lowest, shift)
    level = unchecked_level(z, threshold, levels, shift, lowest)
    by_threshold = torch.where(inside, (level_value(level, threshold, levels) - z) / threshold, level / levels)
    return inside.to(z.dtype), by_threshold


def qcfs_counts(z, threshold, levels, shift=0.5, lowest=0):
    """(qcfs(z), level(z) as int32, the sum of the levels' sizes, the number that are not 0), without derivatives."""
    native = elementwise.qcfs_counts(z, threshold, levels, shift, lowest)
    if native is not None:
        return native
    level = qcfs_level(z, threshold, levels, shift, lowest)
    counts = level.int()
    value = level_value(level, threshold.to(z.dtype), levels)
    return value, counts, int(counts.abs().sum()), int(counts.count_nonzero())


class _QCFS(torch.autograd.Function):
    """Straight-through with an explicit mask: the gradient of clamp at its bounds differs between torch versions."""

    @staticmethod
    def forward(ctx, z, threshold, mask, *settings):
        ctx.save_for_backward(z, threshold)
        ctx.settings, ctx.mask = settings, mask
        value = elementwise.qcfs(z, threshold, *settings)
        if value is None:
            value = level_value(unchecked_level(z, threshold, *settings), threshold, settings[0])
        return value

    @staticmethod
    def backward(ctx, upstream):
        z, threshold = ctx.saved_tensors
        nothing = None, None, None, None
        native = elementwise.qcfs_backward(z, threshold, upstream, *ctx.settings) if ctx.mask == PAPER else None
        if native is not None:
            return *native, *nothing
        by_z, by_threshold = _grad(z, threshold, ctx.mask, *ctx.settings)
        return upstream * by_z, sum_to(upstream * by_threshold, threshold.shape), *nothing


def qcfs(
    z: torch.Tensor, threshold: float | torch.Tensor, levels: int, shift: float = 0.5, lowest: int = 0
) -> torch.Tensor:
    """qcfs(z) = (theta level(z)) / L, with the straight-through derivatives of `qcfs_grad` (Eq. 2-23, 3-5 to 3-7)."""
    z, threshold, levels = _prepare(z, threshold, levels)
    return _QCFS.apply(z, threshold, PAPER, levels, shift, not_above_zero(lowest))


def qcfs_grad(
    z: torch.Tensor,
    threshold: float | torch.Tensor,
    levels: int,
    shift: float = 0.5,
    lowest: int = 0,
    mask: str = PAPER,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(d/dz, d/dtheta), elementwise, with floor' = 1 (straight-through).

    d/dz     = 1 for lowest <= u < L, else 0
    d/dtheta = (qcfs(z) - z) / theta for lowest <= u < L, 1 for u >= L, lowest / L for u < lowest
    Published code passes the derivative elsewhere: `mask` is one of `MASKS`, and outside it d/dtheta = level(z) / L.
    """
    z, threshold, levels = _prepare(z, threshold, levels)
    return _grad(z, threshold, one_of(mask, MASKS, "mask"), levels, shift, not_above_zero(lowest))


def qcfs_parameter_grad(
    z: torch.Tensor,
    parameter: torch.Tensor,
    levels: int,
    positivity: str,
    upstream: torch.Tensor,
    lowest: int = 0,
    mask: str = PAPER,
) -> torch.Tensor:
    """d loss / d lambda = slope(lambda) sum_to(upstream d/dtheta), in the parameter's shape (Eq. 3-9, corrected)."""
    by_threshold = qcfs_grad(z, threshold_of(parameter, positivity), levels, lowest=lowest, mask=mask)[1]
    return threshold_slope(parameter, positivity) * sum_to(upstream * by_threshold, tuple(parameter.shape))


class WithLevels(nn.Module):
    """A module whose `settings` are part of its state: a state dictionary only loads into a module with equal settings.

    They are stored as metadata next to the tensors; a dictionary without them (from another project) loads too.
    """

    settings: tuple = ()

    def stated(self):
        """{name: value} of the settings."""
        return {name: getattr(self, name) for name in self.settings}

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]].update(self.stated())

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *more):
        for name, own in self.stated().items():
            given = local_metadata.get(name, own)
            if given != own:
                raise InputError(f"{prefix[:-1]}: the state has {name} {given!r}, the network {own!r}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *more)


class Site(nn.ReLU):
    """A ReLU at a place where a transformer is quantised: `site` "head", "neuron" or "layer" (4.2.3).

    "head": Q, K, V, the attention and each head's output, [..., heads, N, d]; "neuron": a feed-forward layer
    [..., F]; "layer": the projection (Eq. 4-5).
    """

    def __init__(self, site, heads=None):
        super().__init__()
        self.site, self.heads = site, heads


class QCFS(WithLevels):
    """The activation as a module: a variant is a shape of the parameter and a positivity.

    `threshold` (theta, not lambda; a number or a tensor that broadcasts to `shape`) is the initial value. During
    training, a raw threshold may become negative, as published; conversion then rejects it. `site` and
    `heads` are those of the `Site` that it replaces, if any. Levels are lowest..levels, where -levels <= lowest <= 0;
    they and the positivity are part of its state. `mask` says where its derivative passes (`MASKS`).
    """

    settings = ("levels", "lowest", "positivity")

    def __init__(
        self,
        shape: Sequence[int] = (),
        levels: int = 8,
        positivity: str = "softplus",
        threshold: float | torch.Tensor = 4.0,
        site: str | None = None,
        heads: int | None = None,
        lowest: int = 0,
        mask: str = PAPER,
    ) -> None:
        super().__init__()
        self.site, self.heads, self.mask = site, heads, one_of(mask, MASKS, "mask")
        self.levels, self.positivity = whole(levels, "levels"), positivity
        self.lowest = not_above_zero(lowest)
        if -self.lowest > self.levels:
            raise InputError(f"lowest must be at least {-levels}, the levels negated, got {lowest}")
        start = tensor(positive(threshold)).expand(tuple(shape)).clone()
        self.parameter = nn.Parameter(parameter_for(start, positivity))

    @property
    def threshold(self) -> torch.Tensor:
        """theta, computed from the trained parameter."""
        return threshold_of(self.parameter, self.positivity)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return _QCFS.apply(z, self.threshold.to(z.dtype), self.mask, self.levels, 0.5, self.lowest)

    def extra_repr(self) -> str:
        below = f", lowest={self.lowest}" if self.lowest else ""
        mask = "" if self.mask == PAPER else f", mask={self.mask!r}"
        shape = tuple(self.parameter.shape)
        return f"shape={shape}, levels={self.levels}{below}, positivity={self.positivity!r}{mask}"
