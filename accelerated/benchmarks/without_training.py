"""What a published network keeps without labels: accuracies by levels, thresholds, bias correction, reconstruction.

    python -m accelerated.benchmarks.without_training WEIGHTS.safetensors --data-root FOLDER

FOLDER holds CIFAR-10; the sample are its first training images, without labels; all test images are used.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .. import data as datasets
from ..checks import InputError
from ..correction import correct_biases
from ..exports.published import cifar_resnet, normalised
from ..quantisation import quantise
from ..run import parse
from ..runs.folders import environment
from ..simulation import evaluate
from ..training import reconstruct

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
    network = cifar_resnet(options.weights)
    cifar = datasets.load("cifar10", options.data_root)
    sample, unlabelled = (normalised(cifar.train_x[:count]) for count in (options.sample, options.unlabelled))
    x, y = normalised(cifar.test_x[: options.images]), cifar.test_y[: options.images]
    batches = list(zip(x.split(500), y.split(500), strict=True))
    about = ", ".join(f"{key} {value}" for key, value in environment("cpu").items())
    print(f"{options.weights.name}: {len(x)} test images, sample of {len(sample)}; {about}")
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
    try:
        run(parse(Options, arguments, "python -m accelerated.benchmarks.without_training"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
