"""What whole numbers cost in accuracy: a published network with weights of fewer and fewer bits, and trained on.

    python -m accelerated.benchmarks.integers WEIGHTS.safetensors --data-root FOLDER

FOLDER holds CIFAR-10; thresholds are least squares and biases are corrected on training images, without labels. The
last column is after some training steps in whole numbers, with labels, crops and flips.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import tyro

from .. import data as datasets
from ..correction import correct_biases
from ..data.augment import flipped, shifted
from ..exports.published import MEAN, STD, normalised
from ..integers import integers
from ..quantisation import quantise
from ..simulation import evaluate
from ..sums import largest_sums
from .published import opened, started

BATCH = 128


@dataclass
class Options:
    """Accuracy of a published ResNet for CIFAR-10 in whole numbers."""

    weights: Annotated[Path, tyro.conf.Positional]  # the safetensors file
    data_root: Path = Path("data")  # the folder of CIFAR-10
    levels: tuple[int, ...] = (8, 16)
    bits: tuple[int, ...] = (8, 6, 5, 4, 3)
    trained: tuple[int, ...] = (4,)  # bits of those that are trained on
    steps: int = 390  # of training, one epoch
    rate: float = 0.001  # learning rate at their start; a cosine (at 0.002 some seeds diverge)
    sample: int = 512  # training images for thresholds, biases and rounding
    images: int = 10_000  # test images


def trained_on(network, train_x, train_y, options):
    """The network after some training steps."""
    torch.manual_seed(0)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser, order = torch.optim.SGD(parameters, options.rate, 0.9), torch.randperm(len(train_x))
    for step in range(options.steps):
        rows = order[torch.arange(step * BATCH, (step + 1) * BATCH) % len(order)]
        optimiser.param_groups[0]["lr"] = options.rate * (1 + math.cos(math.pi * step / options.steps)) / 2
        optimiser.zero_grad()
        F.cross_entropy(network(normalised(flipped(shifted(train_x[rows], 4)))), train_y[rows]).backward()
        optimiser.step()
    return network


def run(options):
    """Print one line for each number of levels and bits."""
    network, train_x, batches = opened(options)
    train_y, sample = datasets.load("cifar10", options.data_root).train_y, normalised(train_x[: options.sample])
    for levels in options.levels:
        quantised = correct_biases(quantise(network, "cs-qcfs", levels, "mse", sample), sample)
        print(f"L = {levels}: real weights {100 * evaluate(quantised, batches):.2f} %", flush=True)
        for bits in options.bits:
            whole = integers(quantised, sample, bits, MEAN, STD)
            width = int(max(largest_sums(whole).values())).bit_length() + 1
            line = f"  {bits} bits: {100 * evaluate(whole, batches):.2f} %, sums of at most {width} bits"
            if bits in options.trained:
                after = evaluate(trained_on(whole, train_x, train_y, options), batches)
                line += f"; after {options.steps} training steps {100 * after:.2f} %"
            print(line, flush=True)


def main(arguments=None):
    """Run the command line; returns the exit status."""
    return started(Options, run, "python -m accelerated.benchmarks.integers", arguments)


if __name__ == "__main__":
    sys.exit(main())
