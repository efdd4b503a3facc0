"""Initial thresholds from a sample of activations: the maximum, a percentile, or least squares, block by block.

    "max"     theta is a block's largest activation
    "p99.9"   the least edge of a histogram below which 99.9 % of a block's activations lie (any percentile)
    "mse"     of many candidates up to the maximum, the theta whose levels are nearest: least sum (qcfs(z) - z)^2

Percentiles and sums of squares are those of a histogram, so that batches can be added up: the maximum is 1, each of the
OCTAVES (1/2, 1], (1/4, 1/2], ... below it has PARTS equal bins, and one more bin holds what is smaller or silent.
Activations are max(z, 0). Shapes: z is [batch, ...], a threshold that of `threshold_shape`; the elements that share it
are its block. Formulas: docs/derivations.md (11.2).
"""

import numpy as np

from .activation import qcfs
from .checks import InputError

OCTAVES, PARTS = 20, 128
OUTLIER = 2  # times what one in twenty images exceeds
BINS = OCTAVES * PARTS + 1


def edges(parts: int) -> np.ndarray:
    """The upper edges of `parts` equal parts of each octave, from the lowest up: dyadic numbers, the last is 1."""
    within = 0.5 + (np.arange(parts) + 1) / (2 * parts)
    return (2.0 ** np.arange(1 - OCTAVES, 1)[:, None] * within).ravel()


CANDIDATES = edges(16)
EDGES = np.append(2.0**-OCTAVES, edges(PARTS))
CENTRES = np.append(0.0, (EDGES[:-1] + EDGES[1:]) / 2)


def method_of(name: str) -> tuple[str, float]:
    """("max", "mse" or "percentile", the percentile); "calibrated" is another name for "max". InputError otherwise."""
    if name in ("max", "calibrated", "mse"):
        return ("mse" if name == "mse" else "max"), 100.0
    try:
        percentile = float(name[1:]) if name[:1] == "p" else 0.0
    except ValueError:
        percentile = 0.0
    if not 0 < percentile <= 100:
        methods = "'max', 'mse' or a percentile such as 'p99.9'"
        raise InputError(f"initial_threshold must be a number, {methods}, got {name!r}")
    return "percentile", percentile


def image_maxima(z: np.ndarray, shape: tuple[int, ...], bound: float = np.inf) -> np.ndarray:
    """The largest activation of each block in each image, at most `bound`: [batch, *shape]; not positive if silent."""
    lead = z.ndim - len(shape)
    axes = tuple(range(1, lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1)
    return np.minimum(z.max(axis=axes).reshape(len(z), *shape), bound)


def block_maximum(maxima: np.ndarray, name: str) -> np.ndarray:
    """The maximum of each block from those of the images, for the method of a name.

    "max" takes the largest. Percentiles and least squares leave out images that exceed OUTLIER times what only one in
    twenty of those that are not silent exceeds; larger activations then count as that maximum.
    """
    falling = -np.sort(-maxima, axis=0)
    twentieth = (maxima > 0).sum(axis=0) // 20
    usual = np.take_along_axis(falling, twentieth[None], axis=0)[0]
    kept = np.where(falling <= OUTLIER * np.abs(usual), falling, usual)
    return falling[0] if method_of(name)[0] == "max" else kept.max(axis=0)


def filled(largest: np.ndarray) -> np.ndarray:
    """Thresholds from the maximum: a silent block gets its layer's largest, a silent layer 1."""
    layer = largest.max() if largest.max() > 0 else np.ones_like(largest.max())
    return np.where(largest > 0, largest, layer)


def histogram(z: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """How many activations of each block lie in each bin: whole numbers [*largest.shape, BINS]."""
    mantissa, exponent = np.frexp(z / filled(largest))  # z = mantissa 2^exponent, mantissa in [1/2, 1)
    bins = (exponent + OCTAVES - 1) * PARTS + np.floor((mantissa - 0.5) * 2 * PARTS).astype(int) + 1
    bins = np.where(z > 0, np.clip(bins, 0, BINS - 1), 0)
    block = np.broadcast_to(np.arange(largest.size).reshape(largest.shape), z.shape)
    counts = np.bincount((block * BINS + bins).ravel(), minlength=largest.size * BINS)
    return counts.reshape(*largest.shape, BINS)


def initial_threshold(counts: np.ndarray, largest: np.ndarray, levels: int, name: str) -> np.ndarray:
    """The thresholds by the method of a name, from histograms and maxima of the same sample."""
    method, percentile = method_of(name)
    if method == "max":
        return filled(largest)
    if method == "percentile":
        below = np.cumsum(counts, axis=-1) >= percentile / 100 * counts.sum(axis=-1, keepdims=True)
        return filled(largest) * EDGES[below.argmax(axis=-1)]
    squares = (rounded(levels) - CENTRES) ** 2  # [candidates, BINS], where the maximum is 1
    return filled(largest) * CANDIDATES[(counts @ squares.T).argmin(axis=-1)]


def rounded(levels):
    """The centres of the bins after quantisation with each of the candidates: [candidates, BINS]."""
    return np.stack([qcfs(CENTRES, theta, levels) for theta in CANDIDATES])
