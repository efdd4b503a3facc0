"""What the benchmarks of published networks share: the network, CIFAR-10's images, and the command line."""

import sys

from .. import data as datasets
from ..checks import InputError
from ..exports.published import cifar_resnet, normalised
from ..run import parse
from ..runs.folders import environment

BATCH = 500


def opened(options):
    """(network, training images, test batches of images and labels) of some options; prints what they are."""
    network, cifar = cifar_resnet(options.weights), datasets.load("cifar10", options.data_root)
    x, y = normalised(cifar.test_x[: options.images]), cifar.test_y[: options.images]
    about = ", ".join(f"{key} {value}" for key, value in environment("cpu").items())
    print(f"{options.weights.name}: {len(x)} test images, sample of {options.sample}; {about}", flush=True)
    return network, cifar.train_x, list(zip(x.split(BATCH), y.split(BATCH), strict=True))


def started(options, run, program, arguments):
    """Run a command line; returns the exit status."""
    try:
        run(parse(options, arguments, program))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
