"""What a published network keeps without labels: accuracies by levels, thresholds, bias correction, reconstruction.

    python -m accelerated.benchmarks.without_training WEIGHTS.safetensors --data-root FOLDER

FOLDER holds CIFAR-10; the sample are its first training images, without labels; all test images are used.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..correction import correct_biases
from ..exports.published import normalised
from ..quantisation import quantise
from ..simulation import evaluate
from ..training import reconstruct
from .published import opened, started

METHODS = ("max", "p99.9", "mse")


@dataclass
class Options:
    """Accuracies of a published ResNet for CIFAR-10, quantised without labels."""

    weights: Annotated[Path, tyro.conf.Positional]  # the safetensors file
    data_root: Path = Path("data")  # the folder of CIFAR-10
    levels: tuple[int, ...] = (4, 8, 16)
    sample: int = 512  # training images from which thresholds and biases come
    unlabelled: int = 8192  # training images from which it is reconstructed
    images: int = 10_000  # test images


def run(options):
    """Print one row for each number of levels; returns {L: {how: accuracy}}."""
    network, train_x, batches = opened(options)
    sample, unlabelled = (normalised(train_x[:count]) for count in (options.sample, options.unlabelled))
    print(f"not quantised: {100 * evaluate(network, batches):.2f} %", flush=True)
    rows = {}
    for levels in options.levels:
        row: dict[str, float] = {}
        for method in METHODS:
            quantised = quantise(network, "cs-qcfs", levels, method, sample).eval()
            row[method] = evaluate(quantised, batches)
        corrected = correct_biases(quantised, sample)
        row["mse, biases corrected"] = evaluate(corrected, batches)
        row["reconstructed"] = evaluate(reconstruct(corrected, network, unlabelled), batches)
        print(f"L = {levels}: " + ", ".join(f"{how} {100 * share:.2f} %" for how, share in row.items()), flush=True)
        rows[levels] = row
    return rows


def main(arguments=None):
    """Run the command line; returns the exit status."""
    return started(Options, run, "python -m accelerated.benchmarks.without_training", arguments)


if __name__ == "__main__":
    sys.exit(main())
