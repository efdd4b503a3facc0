"""The choice of worths for a network: the halving schedule that has its answers early and with few spikes."""

import torch

from .checks import InputError, whole
from .conversion import convert
from .network import batches_of
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


def choose_halving(network: torch.nn.Module, sample, images: int = 64, engine: str | None = None) -> Schedule:
    """The `halving` schedule of a quantised network that is best on the first `images` [batch, ...] of a sample.

    Tried are first worths of L, L/2, 3/8 L, L/4 and 1, and spans of 0, 1/4, 1/2 and 3/4 of the depth. Best is the least
    product of two means over images: the step from which the answer (its largest logit) stays the final one, and the
    spikes per neuron until no neuron fires. No labels are needed. Which one is chosen changes no final answer (T6). The
    `engine` is that of `simulate`.
    """
    x = torch.cat(batches_of(network, sample))[: whole(images, "images")]
    plain = convert(network, "halving")
    ladder, depth = halves(max(neuron.levels for neuron in plain.layers.values())), plain.latency_depth
    spans = sorted({part * depth // PARTS for part in range(PARTS)})
    tried = [halving(worths, span) for worths in ladders(ladder) for span in (spans if worths != (1,) else [0])]
    return min(tried, key=lambda schedule: _product(convert(network, schedule), x, engine))


def _product(spiking, x, engine):
    """Steps until the answers stay, times spikes per neuron."""
    s = simulate(spiking, x, engine=engine)
    if not isinstance(s.logits, torch.Tensor):
        raise InputError("worths are chosen by one output; this network has several: give worths to halving(...)")
    answers = s.logits.argmax(-1)
    other = (answers != answers[-1]).int()
    before = other.flip(0).cummax(0).values.sum(0)  # steps up to the last one with another answer
    return float((before + 1).double().mean()) * s.spikes_per_neuron
