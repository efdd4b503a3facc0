"""Methods of others beside ours, on one network: steps, spikes, accuracy after each step, exact or not.

    python -m accelerated.benchmarks.related WEIGHTS.safetensors --data-root FOLDER

FOLDER holds CIFAR-10; thresholds are least squares and biases are corrected on training images, without labels.
docs/related.md says which row is whose, and what differs.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from ..calibration import calibrate
from ..conversion import convert
from ..correction import correct_biases
from ..exports.published import normalised
from ..network import answer
from ..quantisation import quantise
from ..schedules import halving
from ..signed import halves
from ..simulation import ann_levels, simulate
from ..worths import choose_halving
from .published import opened, started

WEIGHTED = "weighted spikes, each layer a step later"
SHOWN = (1, 2, 4, 8, 16, 32)  # steps after which accuracies are shown


@dataclass
class Options:
    """Methods of others beside ours, on a published ResNet for CIFAR-10."""

    weights: Annotated[Path, tyro.conf.Positional]  # the safetensors file
    data_root: Path = Path("data")  # the folder of CIFAR-10
    levels: int = 8
    pre_steps: int = 8  # of the calibrations
    sample: int = 512  # training images for thresholds, biases and the choice of worths
    images: int = 500  # test images


class Row:
    """What one method does, over all batches."""

    def __init__(self, name, delay=0):
        self.name, self.delay, self.images, self.equal, self.spikes = name, delay, 0, 0, 0.0
        self.right: dict[int, int] = {}
        self.until: list[int] = []

    def add(self, logits, labels, wanted, spikes, until):
        """`logits` after each step of those that count; `until` the steps of each image, None if it never settles."""
        self.images += len(labels)
        self.equal += int((logits[-1] == wanted).all(1).sum())
        self.spikes += spikes * len(labels)
        self.until += [] if until is None else until
        for step in SHOWN:
            row = logits[min(step - self.delay, len(logits)) - 1] if step > self.delay else None
            self.right[step] = self.right.get(step, 0) + (0 if row is None else int((row.argmax(1) == labels).sum()))

    def __str__(self):
        when = f"{sum(self.until) / len(self.until):.1f}" if self.until else "never"
        shares = ", ".join(f"{100 * n / self.images:.1f}" if s > self.delay else "-" for s, n in self.right.items())
        exact = f"{self.equal} of {self.images} exact"
        return f"{self.name}: {exact}, after {when} steps; {self.spikes / self.images:.2f} spikes per neuron; {shares}"


def in_steps(row, spiking, x, labels, wanted, steps):
    """Add a simulation."""
    s = simulate(spiking, x, steps)
    until = None if s.settled_at is None or not s.settled else s.settled_at.tolist()
    if spiking.schedule.waits:
        row.delay, until = spiking.latency_depth * steps, [s.latency] * len(x)
    row.add(s.logits, labels, wanted, s.spikes_per_neuron, until)


def layer_by_layer(row, spiking, x, labels, wanted, steps, spikes_of):
    """Add a code of levels that each layer sends in `steps` steps, one layer after another: exact by definition."""
    levels = ann_levels(spiking, x)
    counted = sum(int(spikes_of(level).sum()) for level in levels.values())
    row.delay = spiking.latency_depth * steps
    row.add([wanted], labels, wanted, counted / sum(level.numel() for level in levels.values()),
            [row.delay + steps] * len(x))  # fmt: skip


def ones(levels):
    """The bits that are 1 in whole numbers."""
    return sum((levels >> bit) & 1 for bit in range(31))


def run(options):
    """Print one line for each method."""
    network, train_x, batches = opened(options)
    sample, levels = normalised(train_x[: options.sample]), options.levels
    quantised = correct_biases(quantise(network, "cs-qcfs", levels, "mse", sample), sample)
    chosen, ladder = choose_halving(quantised, sample), halves(levels)
    plain = convert(quantised, "halving")
    later = {name: (2 * levels,) * (neuron.depth - 1) + ladder for name, neuron in plain.layers.items()}
    forms = {
        **{name: convert(quantised, name) for name in ("streaming", "integrate-then-fire", "signed")},
        WEIGHTED: convert(quantised, halving(later)), "halving": plain,
        f"halving {chosen.worths}, span {chosen.span}": convert(quantised, chosen),
    }  # fmt: skip
    rows = {name: Row(name) for name in (*forms, "srp", "cos", "bits, layer by layer", "levels at once")}
    limits = {"streaming": SHOWN[-1], "integrate-then-fire": levels, WEIGHTED: len(ladder) + plain.latency_depth - 1}
    for x, labels in batches:
        wanted = answer(quantised, x)
        for name, spiking in forms.items():
            in_steps(rows[name], spiking, x, labels, wanted, limits.get(name))
        for method in ("srp", "cos"):
            ready = calibrate(forms["streaming"], x, method, options.pre_steps)
            rows[method].delay = ready.pre_steps
            s = simulate(ready, x, SHOWN[-1])
            rows[method].add(s.logits, labels, wanted, s.spikes_per_neuron, None)
        spiking = forms["streaming"]
        layer_by_layer(rows["bits, layer by layer"], spiking, x, labels, wanted, levels.bit_length(), ones)
        layer_by_layer(rows["levels at once"], spiking, x, labels, wanted, 1, torch.abs)
    print(f"L = {levels}; accuracy in % after {', '.join(map(str, SHOWN))} steps from the image on")
    for row in rows.values():
        print(row, flush=True)


def main(arguments=None):
    """Run the command line; returns the exit status."""
    return started(Options, run, "python -m accelerated.benchmarks.related", arguments)


if __name__ == "__main__":
    sys.exit(main())
