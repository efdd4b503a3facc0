"""Initial thresholds from a sample of activations: `reference.initial` on tensors."""

import torch

from .activation import level_value, unchecked_level
from .checks import InputError

OCTAVES, PARTS = 20, 128
OUTLIER = 2  # times what one in twenty images exceeds
BINS = OCTAVES * PARTS + 1


def edges(parts: int) -> torch.Tensor:
    """The upper edges of `parts` equal parts of each octave, from the lowest up: dyadic numbers, the last is 1."""
    within = 0.5 + (torch.arange(parts, dtype=torch.float64) + 1) / (2 * parts)
    return (2.0 ** torch.arange(1 - OCTAVES, 1, dtype=torch.float64)[:, None] * within).flatten()


CANDIDATES = edges(16)
EDGES = torch.cat([torch.tensor([2.0**-OCTAVES], dtype=torch.float64), edges(PARTS)])
CENTRES = torch.cat([torch.zeros(1, dtype=torch.float64), (EDGES[:-1] + EDGES[1:]) / 2])


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


def image_maxima(z: torch.Tensor, shape: tuple[int, ...], bound: float = float("inf")) -> torch.Tensor:
    """The largest activation of each block in each image, at most `bound`: [batch, *shape]; not positive if silent."""
    lead = z.ndim - len(shape)
    axes = tuple(range(1, lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1)
    return (torch.amax(z, dim=axes) if axes else z).reshape(len(z), *shape).clamp(max=bound)


def block_maximum(maxima: torch.Tensor, name: str) -> torch.Tensor:
    """The maximum of each block from those of the images, for the method of a name.

    "max" takes the largest. Percentiles and least squares leave out images that exceed OUTLIER times what only one in
    twenty of those that are not silent exceeds; larger activations then count as that maximum.
    """
    falling = maxima.sort(dim=0, descending=True).values
    twentieth = (maxima > 0).sum(dim=0) // 20
    usual = falling.gather(0, twentieth[None])[0]
    kept = torch.where(falling <= OUTLIER * usual.abs(), falling, usual)
    return falling[0] if method_of(name)[0] == "max" else kept.amax(dim=0)


def filled(largest: torch.Tensor) -> torch.Tensor:
    """Thresholds from the maximum: a silent block gets its layer's largest, a silent layer 1."""
    layer = largest.max() if largest.max() > 0 else torch.ones_like(largest.max())
    return torch.where(largest > 0, largest, layer)


def histogram(z: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """How many activations of each block lie in each bin: whole numbers [*largest.shape, BINS]."""
    part = (z / filled(largest)).clamp(max=1)
    mantissa, exponent = torch.frexp(part)  # part = mantissa 2^exponent, mantissa in [1/2, 1)
    bins = (exponent + OCTAVES - 1) * PARTS + ((mantissa - 0.5) * 2 * PARTS).floor().long() + 1
    bins = torch.where(z > 0, bins.clamp(0, BINS - 1), 0)
    block = torch.arange(largest.numel(), device=z.device).reshape(largest.shape)
    counts = torch.bincount((block * BINS + bins).flatten(), minlength=largest.numel() * BINS)
    return counts.reshape(*largest.shape, BINS)


def initial_threshold(counts: torch.Tensor, largest: torch.Tensor, levels: int, name: str) -> torch.Tensor:
    """The thresholds by the method of a name, from histograms and maxima of the same sample."""
    method, percentile = method_of(name)
    if method == "max":
        return filled(largest)
    if method == "percentile":
        below = counts.cumsum(-1) >= percentile / 100 * counts.sum(-1, keepdim=True)
        return filled(largest) * EDGES.to(largest)[below.int().argmax(-1)]
    squares = (rounded(levels) - CENTRES) ** 2  # [candidates, BINS], where the maximum is 1
    best = (counts.double() @ squares.to(counts.device).T).argmin(-1)
    return filled(largest) * CANDIDATES.to(largest)[best]


def rounded(levels):
    """The centres of the bins after quantisation with each of the candidates: [candidates, BINS]."""
    theta = CANDIDATES[:, None]
    return level_value(unchecked_level(CENTRES, theta, levels), theta, levels)
