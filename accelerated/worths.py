"""The choice of worths for a network: the halving schedule that has its answers early and with few spikes."""

import torch

from .checks import InputError, whole
from .conversion import convert
from .network import batches_of
from .schedules import Schedule, halving
from .signed import halves
from .simulation import simulate

PARTS = 4  # spans are these parts of the depth


def choose_halving(network: torch.nn.Module, sample, images: int = 64) -> Schedule:
    """The `halving` schedule of a quantised network that is best on the first `images` [batch, ...] of a sample.

    Tried are first worths of L, L/2, L/4 and 1, and spans of 0, 1/4, 1/2 and 3/4 of the depth. Best is the least
    product of two means over images: the step from which the answer (its largest logit) stays the final one, and the
    spikes per neuron until no neuron fires. No labels are needed. Which one is chosen changes no final answer (T6).
    """
    x = torch.cat(batches_of(network, sample))[: whole(images, "images")]
    plain = convert(network, "halving")
    ladder, depth = halves(max(neuron.levels for neuron in plain.layers.values())), plain.latency_depth
    tops = sorted({*ladder[:3], 1}, reverse=True)
    spans = sorted({part * depth // PARTS for part in range(PARTS)})
    tried = [halving(ladder[ladder.index(top) :], span) for top in tops for span in (spans if top > 1 else [0])]
    return min(tried, key=lambda schedule: _product(convert(network, schedule), x))


def _product(spiking, x):
    """Steps until the answers stay, times spikes per neuron."""
    s = simulate(spiking, x)
    if not isinstance(s.logits, torch.Tensor):
        raise InputError("worths are chosen by one output; this network has several: give worths to halving(...)")
    answers = s.logits.argmax(-1)
    other = (answers != answers[-1]).int()
    before = other.flip(0).cummax(0).values.sum(0)  # steps up to the last one with another answer
    return float((before + 1).double().mean()) * s.spikes_per_neuron
