"""Which networks of torchvision convert: the smallest of each family, with random weights, under both exact schedules.

    python -m equivalence_tests.coverage                print the table
    python -m equivalence_tests.coverage --write        write it to docs/coverage.csv

A test compares the table that is kept with what converts now, so that it never shrinks.
"""

import csv
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import accelerated as acc

KEPT = Path(__file__).parents[1] / "docs" / "coverage.csv"
SIZES = (64, 128, 224)  # the first at which a network answers
LEVELS = 4


def families():
    """{family: the name of its smallest network}: a family is a module of torchvision.models with classifiers."""
    import torchvision  # late: it imports Triton, which tests of kernels set up before
    from torchvision.models import get_model_builder, get_model_weights, list_models

    smallest: dict = {}
    for home in (torchvision.models, torchvision.models.segmentation):
        for name in list_models(module=home):
            size = min(weight.meta["num_params"] for weight in get_model_weights(name))
            family = get_model_builder(name).__module__.removeprefix("torchvision.models.")
            smallest[family] = min(smallest.get(family, (size, name)), (size, name))
    return {family: name for family, (_, name) in sorted(smallest.items())}


def made(name):
    """(network with running statistics that fit its random weights, images that it takes)."""
    from torchvision.models import get_model, get_model_builder

    torch.manual_seed(0)
    more = {"weights_backbone": None} if "segmentation" in get_model_builder(name).__module__ else {}
    more |= {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    network = get_model(name, weights=None, **more).eval()
    for size in SIZES:
        try:
            with torch.no_grad():
                network(torch.rand(1, 3, size, size))
            break
        except (RuntimeError, AssertionError, ValueError):
            continue
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean over all batches seen: here one
    with torch.no_grad():
        network.train()(torch.rand(4, 3, size, size))
    return network.eval(), torch.rand(2, 3, size, size)


def tried(name):
    """("equal", summary) of a network, or ("refused" or "differs", why)."""
    network, x = made(name)
    try:
        q = acc.fold_batch_norms(acc.quantise(network, "cs-qcfs", LEVELS, "max", x))
    except acc.InputError as error:
        return "refused", str(error)
    wanted = tree_leaves(acc.answer(q, x))
    for schedule in ("integrate-then-fire", "signed"):
        spiking = acc.convert(q, schedule)
        steps = spiking.schedule.exact_at(spiking.latency_depth, LEVELS, -LEVELS)
        s = acc.simulate(spiking, x, steps)
        if not all(torch.equal(rows[-1], y) for rows, y in zip(tree_leaves(s.logits), wanted, strict=True)):
            return "differs", schedule
        if min(s.nonzero_share.values()) < 0.01:
            return "differs", f"{schedule}: a layer is dead, and equal for free"
    return "equal", acc.summary(q)


def table():
    """The rows of the table, one after another."""
    for family, name in families().items():
        yield family, name, *tried(name)


def main(arguments):
    """Print or write the table; returns the exit status."""
    rows = []
    for row in table():
        rows.append(row)
        print(" | ".join(row), flush=True)
    print(f"{sum(row[2] == 'equal' for row in rows)} of {len(rows)} families convert with equal bits")
    if "--write" in arguments:
        with KEPT.open("w", newline="") as file:
            csv.writer(file).writerows([("family", "network", "result", "detail"), *rows])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
