"""The quantised activation, its derivatives, and the table of its variants.

    u = z L / theta + phi        level(z) = clip(floor(u), lowest, L)        qcfs(z) = (theta level(z)) / L

`lowest` is 0 for what follows a ReLU; with levels below zero, any value is quantised: behind a GELU, queries, keys.
The order of operations is part of the contract: z / theta * L and theta * (level / L) round differently.
Shapes: z is [batch, ...]; theta broadcasts against one sample. Units: z, theta and qcfs(z) share theirs.
Formulas: docs/derivations.md (2.1) to (2.6).
"""

import numpy as np

from .checks import array, broadcasts, finite, not_above_zero, number, one_of, positive, whole
from .thresholds import sum_to, threshold_of, threshold_slope

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
    """z, theta and L in one arithmetic, checked: L >= 1, theta positive and of a shape that broadcasts."""
    z, levels = array(finite(z, "z")), whole(levels, "levels")
    threshold, levels = broadcasts(positive(array(threshold, like=z)), z.shape), number(levels, z)
    with np.errstate(over="ignore"):
        positive(threshold * levels, "theta L")  # finite: where z L overflows, |z| > theta and the level is clipped
    return z, threshold, levels


def qcfs_level(
    z: np.ndarray, threshold: float | np.ndarray, levels: int, shift: float = 0.5, lowest: int = 0
) -> np.ndarray:
    """level(z) = clip(floor(z L / theta + phi), lowest, L): a whole number, in the arithmetic of z (Eq. 2-23)."""
    z, threshold, levels = _prepare(z, threshold, levels)
    lowest = number(not_above_zero(lowest), z)
    with np.errstate(over="ignore"):
        return array(np.clip(np.floor(z * levels / threshold + number(shift, z)), lowest, levels), like=z)


def level_value(level, threshold, levels):
    """(theta level) / L: the value of a level, or of a count of spikes.

    The quantised and the spiking network share this one expression; statement T5 rests on it.
    """
    return array(threshold, like=level) * level / number(levels, level)


def qcfs(z: np.ndarray, threshold: float | np.ndarray, levels: int, shift: float = 0.5, lowest: int = 0) -> np.ndarray:
    """qcfs(z) = (theta level(z)) / L, from theta lowest / L to theta in steps of theta / L (Eq. 2-23, 3-5 to 3-7)."""
    return level_value(qcfs_level(z, threshold, levels, shift, lowest), threshold, levels)


def qcfs_grad(
    z: np.ndarray,
    threshold: float | np.ndarray,
    levels: int,
    shift: float = 0.5,
    lowest: int = 0,
    mask: str = PAPER,
) -> tuple[np.ndarray, np.ndarray]:
    """(d/dz, d/dtheta), elementwise, with floor' = 1 (straight-through; derivations 2.4, 2.5).

    d/dz     = 1 for lowest <= u < L, else 0
    d/dtheta = (qcfs(z) - z) / theta for lowest <= u < L, 1 for u >= L, lowest / L for u < lowest
    The bounds are in u, that is in theta; Eq. 3-8 and 3-9 as printed have them in lambda (docs/errata.md). Published
    code passes the derivative elsewhere: `mask` is one of `MASKS`, and outside it d/dtheta = level(z) / L.
    """
    passes = MASKS[one_of(mask, MASKS, "mask")]
    value = qcfs(z, threshold, levels, shift, lowest)
    z, threshold, levels = _prepare(z, threshold, levels)
    lowest = number(lowest, z)
    with np.errstate(over="ignore"):
        u, within = z * levels / threshold + number(shift, z), (value - z) / threshold
    inside = passes(u, levels, lowest, number(shift, z))
    by_threshold = np.where(inside, within, qcfs_level(z, threshold, int(levels), shift, int(lowest)) / levels)
    return array(np.where(inside, number(1, z), number(0, z)), like=z), array(by_threshold, like=z)


def qcfs_parameter_grad(
    z: np.ndarray,
    parameter: np.ndarray,
    levels: int,
    positivity: str,
    upstream: np.ndarray,
    lowest: int = 0,
    mask: str = PAPER,
) -> np.ndarray:
    """d loss / d lambda = slope(lambda) sum_to(upstream d/dtheta), in the parameter's shape (Eq. 3-9, corrected).

    `upstream` is d loss / d qcfs(z), of the shape of z. slope = 1 ("raw") or Sigmoid(lambda) ("softplus").
    """
    by_threshold = qcfs_grad(z, threshold_of(parameter, positivity), levels, lowest=lowest, mask=mask)[1]
    return threshold_slope(parameter, positivity) * sum_to(upstream * by_threshold, np.shape(parameter))
