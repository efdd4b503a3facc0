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

from ..checks import InputError, one_of, whole
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


def state_in(path):
    """{name: tensor} of a file written by torch.save, itself or under "model" or "state_dict"; runs no code of it."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors, which is not read: save its state dictionary alone"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a readable checkpoint: {str(error).splitlines()[0]}") from error
    for part in ("model", "state_dict"):
        found = found[part] if isinstance(found, dict) and isinstance(found.get(part), dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise InputError(f"{path} holds no state dictionary: save that of the network")
    return {name.removeprefix("module."): value for name, value in found.items()}  # of DataParallel


def published_name(name):
    """What the Masked Spiking Transformer calls a parameter of ours."""
    name = re.sub(r"(?<=layers\.)\d+(?=\.downsample)", lambda stage: str(int(stage[0]) - 1), name)
    for ours, theirs in MST.items():
        name = name.replace(ours, theirs)
    return name


def _kind(name):
    last = name.rpartition(".")[2]
    return KINDS.get(last, last)


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
    found = {name: value for name, value in state_in(path).items() if not name.endswith(COMPUTED)}
    last = list(found.values())[-1] if found else torch.zeros(())
    if last.ndim != 1 or not len(last):
        raise InputError(f"{path} does not fit {model}: it does not end with the biases of a read-out")
    network = make(model, image_shape, len(last), width, "cifar" if model in RESNETS else "auto", blocks)
    network = with_sites(network, "mst", "batch") if model == "swin_tiny" else network
    quantised = quantise(network.eval(), "qcfs", levels, 1.0, torch.zeros(1, *image_shape))
    ours = quantised.state_dict()
    named = (
        {name: published_name(name) for name in ours} if model == "swin_tiny" else dict(zip(ours, found, strict=False))
    )
    for name, value in ours.items():
        theirs = named.get(name)
        if theirs not in found:
            raise InputError(f"{path} does not fit {model}: it lacks {theirs or f'a like of {name}'!r}")
        given = (
            found[theirs].reshape(()) if _kind(theirs) == "threshold" and found[theirs].numel() == 1 else found[theirs]
        )
        if (_kind(theirs), given.shape) != (_kind(name), value.shape):
            wanted, shape = f"{_kind(name)} of shape {tuple(value.shape)}", tuple(given.shape)
            raise InputError(f"{path} does not fit {model}: {theirs!r} has shape {shape}, in the place of a {wanted}")
        ours[name] = given
    extra = next((name for name in found if name not in set(named.values())), None)
    if extra is not None:
        raise InputError(f"{path} does not fit {model}: it has {extra!r}, which the network has not")
    quantised.load_state_dict(ours)
    return quantised.eval()
