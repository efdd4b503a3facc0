"""Checkpoints of published code as quantised networks: QCFS, SRP and COS (CNNs), and the Masked Spiking Transformer.

Bu et al. 2022 (github.com/putshua/SNN_conversion_QCFS, ANN_SNN_QCFS), Hao et al. 2023a and b (hzc1208/ANN2SNN_SRP and
ANN2SNN_COS) and Wang et al. 2023 (bic-L/Masked-Spiking-Transformer, the network for images of CIFAR's size) save state
dictionaries with one raw threshold per layer, and without L.
"""

import re
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import fx

from ..checks import InputError, first_line, one_of, whole
from ..graph.timm import with_sites
from ..models import RESNETS, make
from ..quantisation import quantise

NETWORKS = ("vgg16", *RESNETS, "swin_tiny")
KINDS = dict.fromkeys(("up", "thresh", "parameter"), "threshold")  # in older code, in newer code, and here
KINDS |= {"relative_position_bias_table": "table"}
COMPUTED = ("relative_position_index", "attn_mask")  # buffers that follow from sizes
MST = {  # parts of names, ours -> theirs
    "patch_embed.norm.0.norm.": "patch_embed.norm.", "patch_embed.norm.1.parameter": "patch_embed.proj_if.up",
    "norm1.0.norm.": "norm1.", "norm1.1.parameter": "shortcut1_if.up",
    "norm2.norm.": "norm2.", "site.parameter": "shortcut2_if.up",
    "bias.table": "relative_position_bias_table",
    "attn.q.parameter": "attn.q_if.up", "attn.k.parameter": "attn.k_if.up", "attn.v.parameter": "attn.v_if.up",
    "attention.parameter": "attn_if.up", "attn.head.parameter": "attn.attn_v_if.up",
    "projection.parameter": "proj_if.up", "relu1.parameter": "fc1_if.up", "relu2.parameter": "fc2_if.up",
    "downsample.norm.norm.": "downsample.norm.", "reduction.0.": "reduction.",
    "reduction.1.parameter": "reduction_if.up", "head.fc.": "head.",
}  # fmt: skip


def _kind(name):
    last = name.rpartition(".")[2]
    return KINDS.get(last, last)


def _numbers(path, name, value):
    """InputError unless a tensor holds numbers that a trained network can have."""
    whole_number = name.endswith("num_batches_tracked")
    if value.layout != torch.strided or value.is_meta or not (value.dtype.is_floating_point or whole_number):
        raise InputError(f"{path}: {name!r} is no dense tensor of real numbers ({value.dtype}, {value.layout})")
    if not torch.isfinite(value).all():
        raise InputError(f"{path}: {name!r} holds numbers that are not finite")
    if (_kind(name) == "threshold" and (value == 0).any()) or (name.endswith("running_var") and (value < 0).any()):
        raise InputError(f"{path}: {name!r} holds {value.min().item():g}, which no trained network has")


def _in_order(path, names):
    """InputError unless the numbers in names grow: the order of a file says what belongs where."""
    last: dict = {}
    for name in names:
        for found in re.finditer(r"\d+", name.rpartition(".")[0]):
            before, number = name[: found.start()], int(found[0])
            if last.setdefault(before, number) > number:
                raise InputError(f"{path}: {name!r} does not stand where the published code puts it")
            last[before] = number


def state_in(path):
    """{name: tensor} of a file written by torch.save, itself or under "model" or "state_dict"; runs no code of it.

    Without buffers that follow from sizes. InputError for what is no state dictionary of finite real numbers.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors, which is not read: save its state dictionary alone"
        ) from error
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{path} is not a readable checkpoint: {first_line(error)}") from error
    for part in ("model", "state_dict"):
        found = found[part] if isinstance(found, dict) and isinstance(found.get(part), dict) else found
    pairs = found.items() if isinstance(found, dict) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in pairs):
        raise InputError(f"{path} holds no state dictionary: save that of the network")
    state = {}
    for full, value in found.items():
        name = full.removeprefix("module.")  # of DataParallel
        if name in state:
            raise InputError(f"{path} holds {name!r} twice, with and without 'module.'")
        if not name.endswith(COMPUTED):
            _numbers(path, name, value)
            state[name] = value
    return state


def published_name(name):
    """What the Masked Spiking Transformer calls a parameter of ours."""
    name = re.sub(r"(?<=layers\.)\d+(?=\.downsample)", lambda stage: str(int(stage[0]) - 1), name)
    for ours, theirs in MST.items():
        name = name.replace(ours, theirs)
    return name


def load_checkpoint(
    path: str | Path,
    model: str,
    levels: int,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    width: float = 1.0,
    blocks: int = 0,
) -> fx.GraphModule:
    """The quantised network of a published checkpoint, in evaluation mode: layer-wise raw QCFS with L = `levels`.

    `model` is one of `NETWORKS`; the number of classes is that of the file's read-out. ResNets begin with 3 x 3 at any
    size, as the published ones do. CNNs are read in the order of the file, whose parameters have to match ours one by
    one in kind and shape; transformers by name. Nothing keeps an initial value: InputError names the first parameter
    that lacks its like.
    """
    one_of(model, NETWORKS, "model")
    whole(levels, "levels")
    found = state_in(path)
    last = list(found.values())[-1] if found else torch.zeros(())
    if last.ndim != 1 or not len(last):
        raise InputError(f"{path} does not fit {model}: it does not end with the biases of a read-out")
    network = make(model, image_shape, len(last), width, "cifar" if model in RESNETS else "auto", blocks)
    network = with_sites(network, "mst", "batch") if model == "swin_tiny" else network
    quantised = quantise(network.eval(), "qcfs", levels, 1.0, torch.zeros(1, *image_shape))
    ours = quantised.state_dict()
    if model == "swin_tiny":
        named = {name: published_name(name) for name in ours}
    else:
        _in_order(path, found)
        named = dict(zip(ours, found, strict=False))
    for name, value in ours.items():
        theirs = named.get(name)
        if theirs not in found:
            raise InputError(f"{path} does not fit {model}: it lacks {theirs or f'a like of {name}'!r}")
        given = found[theirs]
        if _kind(theirs) == "threshold" and given.numel() == 1:
            given = given.reshape(())
        if (_kind(theirs), given.shape) != (_kind(name), value.shape):
            wanted, shape = f"{_kind(name)} of shape {tuple(value.shape)}", tuple(given.shape)
            raise InputError(f"{path} does not fit {model}: {theirs!r} has shape {shape}, in the place of a {wanted}")
        ours[name] = given
    extra = next((name for name in found if name not in set(named.values())), None)
    if extra is not None:
        raise InputError(f"{path} does not fit {model}: it has {extra!r}, which the network has not")
    quantised.load_state_dict(ours)
    return quantised.eval()
