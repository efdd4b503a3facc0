"""Which networks of torchvision and timm convert: the smallest of each family, random weights, both exact schedules.

    python -m equivalence_tests.coverage torchvision          try all families of a library, or those that are named
    python -m equivalence_tests.coverage timm resnet vgg      and write their rows to docs/coverage.csv

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
COLUMNS = ("library", "family", "network", "result", "detail")
SIZES = (224, 64, 96, 128, 160, 192, 240, 256, 288, 384, 448)  # the first at which a network answers
LEVELS = (4, 16, 64)  # the first at which every layer is alive: few levels silence attention with random weights
ALIVE = 0.001  # the least share of neurons of each layer that must spike: what is dead is equal for free


def builders(library):
    """{family: [names of its networks]}: a family is a module of the library with classifiers or segmentation."""
    found: dict = {}
    if library == "timm":
        import timm

        return {family: timm.list_models(module=family) for family in timm.list_modules()}
    import torchvision  # late: it imports Triton, which tests of kernels set up before
    from torchvision.models import get_model_builder, list_models

    for home in (torchvision.models, torchvision.models.segmentation):
        for name in list_models(module=home):
            found.setdefault(get_model_builder(name).__module__.removeprefix("torchvision.models."), []).append(name)
    return found


def built(library, name):
    """A network with random weights."""
    torch.manual_seed(0)
    if library == "timm":
        import timm

        return timm.create_model(name, pretrained=False)
    from torchvision.models import get_model, get_model_builder

    more = {"weights_backbone": None} if "segmentation" in get_model_builder(name).__module__ else {}
    more |= {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    return get_model(name, weights=None, **more)


def smallest(library, names):
    """The network with the fewest parameters of those that can be built."""
    sizes = {name: size for name in names if (size := _parameters(library, name)) is not None}
    return min(sizes, key=lambda name: (sizes[name], name)) if sizes else names[0]


def _parameters(library, name):
    """The number of a network's parameters; None if it cannot be built here."""
    for device in ("meta", "cpu"):  # some compute with their weights while they are built
        try:
            with torch.device(device):
                return sum(parameter.numel() for parameter in built(library, name).parameters())
        except (RuntimeError, ValueError, NotImplementedError, TypeError, AssertionError):
            continue
    return None


@torch.no_grad()
def draw_constants(network):
    """Draw parameters that begin as a constant: zero biases kill layers, scales of 1e-6 and zeros hide branches."""
    for name, parameter in network.named_parameters():
        if parameter.numel() == 0 or (parameter != parameter.flatten()[0]).any():
            continue
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.3)
        else:
            parameter.uniform_(0.5, 1.5)


def images(count, size):
    """Coloured spots: noise would look the same everywhere, and in each image."""
    return nn.functional.interpolate(torch.rand(count, 3, 6, 6), (size, size), mode="bicubic")


@torch.no_grad()
def _answers(network, size):
    try:
        network(torch.rand(1, 3, size, size))
    except (RuntimeError, AssertionError, ValueError):
        return False
    return True


def made(library, name):
    """(network with running statistics that fit its random weights, images that it takes)."""
    network = built(library, name).eval()
    draw_constants(network)
    size = next(size for size in SIZES if _answers(network, size))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean over all batches seen: here one
    with torch.no_grad():
        network.train()(images(4, size))
    return network.eval(), images(2, size)


def tried(library, name):
    """("equal", summary) of a network, or ("refused" or "differs", why)."""
    network, x = made(library, name)
    for levels in LEVELS:
        try:
            q = acc.fold_batch_norms(acc.quantise(network, "cs-qcfs", levels, sample=x))
            result = compared(q, x, levels)
        except acc.InputError as error:
            return "refused", str(error)
        if result[0] != "dead":
            break
    return result


def compared(q, x, levels):
    """("equal", summary) of a quantised network, ("differs", schedule) or ("dead", layer)."""
    wanted = tree_leaves(acc.answer(q, x))
    for schedule in ("integrate-then-fire", "signed"):
        spiking = acc.convert(q, schedule)
        s = acc.simulate(spiking, x, spiking.schedule.exact_at(spiking.latency_depth, levels, -levels))
        if not all(torch.equal(rows[-1], y) for rows, y in zip(tree_leaves(s.logits), wanted, strict=True)):
            return "differs", schedule
        share, layer = min((share, layer) for layer, share in s.nonzero_share.items())
        if share < ALIVE:
            return "dead", f"{layer}: {100 * share:.2f} % at L = {levels}"
    return "equal", acc.summary(q)


def rows():
    """{(library, family): row} of the table that is kept."""
    with KEPT.open(newline="") as file:
        return {(row["library"], row["family"]): row for row in csv.DictReader(file)}


def main(arguments):
    """Try families and write what came out, one after another; returns the exit status."""
    library, *chosen = arguments or ["torchvision"]
    families = builders(library)
    for family in chosen or sorted(families):
        name = smallest(library, families[family])
        try:
            result = tried(library, name)
        except Exception as error:  # a fault of ours, to be mended: the survey goes on
            result = "failed", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else error!r}"
        row = dict(zip(COLUMNS, (library, family, name, *result), strict=True))
        print(" | ".join(row.values()), flush=True)
        table = rows() | {(library, family): row}
        with KEPT.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table[key] for key in sorted(table))
    kept = [row for row in rows().values() if row["library"] == library]
    print(f"{sum(row['result'] == 'equal' for row in kept)} of {len(kept)} families of {library} convert, bits equal")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
