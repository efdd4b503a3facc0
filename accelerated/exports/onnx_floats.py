"""A quantised network in floats as ONNX, by PyTorch's own exporter: QCFS in operators of the standard.

Another program sums in another order, so that a value at the edge of a level may come out one level away: in floats a
file is near its network, and how near is measured (docs/exports.md). Whole numbers (`onnx`) have no such edge.
"""

import copy
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..activation import QCFS, level_value, unchecked_level
from ..checks import InputError, first_line
from .weights import whole_file

OPSET = 18


class Operators(nn.Module):
    """A QCFS in plain operators."""

    def __init__(self, activation):
        super().__init__()
        self.register_buffer("threshold", activation.threshold.detach().clone())
        self.levels, self.lowest = activation.levels, activation.lowest

    def forward(self, z):
        """theta level(z) / L."""
        level = unchecked_level(z, self.threshold, self.levels, lowest=self.lowest)
        return level_value(level, self.threshold, self.levels)


def onnx_floats(network: nn.Module, path: str | Path, image: torch.Tensor) -> Path:
    """Write a quantised network to `path` as ONNX; returns the path. InputError where there is no such form.

    Input `image` [n, ...], outputs in the network's order; `image` is one of its images.
    """
    for name in ("onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise InputError(f"ONNX of floats needs the package {name}: pip install {name}")
    if not any(isinstance(module, QCFS) for module in network.modules()):
        raise InputError("the network has no QCFS activation: quantise the network before it is exported")
    plain = copy.deepcopy(network).eval().cpu()
    for name, module in list(plain.named_modules()):
        if isinstance(module, QCFS):
            plain.set_submodule(name, Operators(module))
    two = torch.cat([image[:1]] * 2).cpu()  # more than one, so that the number of images stays free
    try:
        with whole_file(Path(path)) as part, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own parts
            program: Any = torch.onnx.export(
                plain, (two,), dynamo=True, input_names=["image"], dynamic_shapes=({0: torch.export.Dim("n")},),
                opset_version=OPSET, verbose=False,
            )  # fmt: skip
            program.save(part)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    except Exception as error:  # of any kind, by the exporter
        reason = first_line(error.__cause__ or error)
        raise InputError(f"PyTorch's exporter has no form for this network: {reason}") from error
    return Path(path)
