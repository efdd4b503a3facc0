"""The choice of worths for a network: the halving schedule that has its answers early and with few spikes."""

import numpy as np

from .checks import whole
from .conversion import convert
from .schedules import Schedule, halving
from .signed import halves
from .simulation import simulate

PARTS = 4  # spans are these parts of the depth


def ladders(halves):
    """The sequences of worths that are tried, from L, L/2, ..., 1: 4, 2, 1 also as 3, 2, 1."""
    tops = sorted({*halves[:3], 1}, reverse=True)
    found = [halves[halves.index(top) :] for top in tops]
    between = [(3 * worths[2], *worths[1:]) for worths in [halves[1:]] if len(worths) > 2]
    return [*found, *between]


def choose_halving(network: list[dict], sample: np.ndarray, images: int = 64) -> Schedule:
    """The `halving` schedule of a quantised network that is best on the first `images` [batch, ...] of a sample.

    Tried are first worths of L, L/2, 3/8 L, L/4 and 1, and spans of 0, 1/4, 1/2 and 3/4 of the depth. Best is the least
    product of two means over images: the step from which the answer (its largest logit) stays the final one, and the
    spikes per neuron until no neuron fires. No labels are needed. Which one is chosen changes no final answer (T6).
    """
    x, plain = sample[: whole(images, "images")], convert(network, "halving")
    ladder, depth = halves(max(node["levels"] for node in plain.layers)), plain.latency_depth
    spans = sorted({part * depth // PARTS for part in range(PARTS)})
    tried = [halving(worths, span) for worths in ladders(ladder) for span in (spans if worths != (1,) else [0])]
    return min(tried, key=lambda schedule: product(convert(network, schedule), x))


def product(spiking, x):
    """Steps until the answers stay, times spikes per neuron."""
    s = simulate(spiking, x)
    answers = s.logits.argmax(axis=-1)
    other = answers != answers[-1]
    before = np.logical_or.accumulate(other[::-1]).sum(axis=0)  # steps up to the last one with another answer
    return (before + 1).mean() * s.spikes_per_neuron
