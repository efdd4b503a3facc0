"""How early a published network has its answers: accuracy after every step under each schedule, steps and spikes.

    python -m accelerated.benchmarks.anytime WEIGHTS.safetensors --data-root FOLDER

FOLDER holds CIFAR-10; thresholds are least squares and biases are corrected on training images, without labels.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from ..conversion import convert
from ..correction import correct_biases
from ..exports.published import normalised
from ..network import answer
from ..quantisation import quantise
from ..schedules import SCHEDULES, halving
from ..simulation import simulate
from ..worths import choose_halving
from .published import opened, started


@dataclass
class Options:
    """Accuracy of a published ResNet for CIFAR-10 after every step, under each schedule."""

    weights: Annotated[Path, tyro.conf.Positional]  # the safetensors file
    data_root: Path = Path("data")  # the folder of CIFAR-10
    levels: tuple[int, ...] = (8, 16)
    sample: int = 512  # training images for thresholds, biases and the choice of worths
    images: int = 10_000  # test images
    steps: int = 24  # of which accuracies are shown


def row_of(name, spiking, batches, wanted, shown):
    """One line: who is exact, after how many steps, with how many spikes; the accuracy after each step."""
    right, settled, spikes, equal = torch.zeros(shown), [], [], 0
    for (x, y), logits in zip(batches, wanted, strict=True):
        s = simulate(spiking, x, None if spiking.schedule.settles else shown)
        right[: len(s.logits)] += (s.logits[:shown].argmax(-1) == y).sum(1)
        spikes.append(s.spikes_per_neuron)
        equal += int((s.logits[-1] == logits).all(1).sum())
        settled += [] if s.settled_at is None else s.settled_at.tolist()
    count = sum(len(y) for _, y in batches)
    when = f"settled after {sum(settled) / count:.1f} steps, {max(settled)} the slowest" if settled else "never settled"
    accuracies = " ".join(f"{share:.1f}" for share in (100 * right / count).tolist())
    mean = sum(spikes) / len(spikes)
    print(
        f"{name}: {equal} of {count} equal in every bit, {when}; {mean:.2f} spikes per neuron; {accuracies}", flush=True
    )


def run(options):
    """Print one line for each number of levels and schedule."""
    network, train_x, batches = opened(options)
    sample, count = normalised(train_x[: options.sample]), sum(len(y) for _, y in batches)
    for levels in options.levels:
        quantised = correct_biases(quantise(network, "cs-qcfs", levels, "mse", sample), sample)
        wanted = [answer(quantised, images) for images, _ in batches]
        right = sum(
            int((logits.argmax(1) == labels).sum()) for logits, (_, labels) in zip(wanted, batches, strict=True)
        )
        print(
            f"L = {levels}: quantised {100 * right / count:.2f} %; accuracy in % after 1, 2, 3, ... steps", flush=True
        )
        forms = [SCHEDULES["streaming"], SCHEDULES["signed"], halving(), choose_halving(quantised, sample)]
        for form in forms:
            worths = "" if form.worths == (1,) else f", worths {form.worths or 'L, L/2, ..., 1'}, span {form.span}"
            row_of(form.name + worths, convert(quantised, form), batches, wanted, options.steps)


def main(arguments=None):
    """Run the command line; returns the exit status."""
    return started(Options, run, "python -m accelerated.benchmarks.anytime", arguments)


if __name__ == "__main__":
    sys.exit(main())
