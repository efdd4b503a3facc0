"""The native kernels, if present: without the folder `kernels/` the project gives the same results, only slower."""

import importlib
import importlib.util
from functools import cache, partial

import torch


class _Absent:
    """No kernels: every function returns None, and the caller computes in PyTorch."""

    def __getattr__(self, name):
        return lambda *_, **__: None


@cache
def _kernels(device):
    """The kernels for a type of device: C for the CPU, Triton for CUDA."""
    module = {"cpu": "elementwise", "cuda": "gpu"}.get(device)
    if not PRESENT or module is None or (module == "gpu" and importlib.util.find_spec("triton") is None):
        return _Absent()
    return importlib.import_module(f"{__package__}.kernels.{module}")


def _call(name, first, *arguments, **options):
    if torch.compiler.is_compiling():
        return None
    return getattr(_kernels(first.device.type), name)(first, *arguments, **options)


class _Elementwise:
    """The functions of kernels/elementwise.py on the device of their first argument; None without a kernel."""

    def __getattr__(self, name):
        return partial(_call, name)


PRESENT = importlib.util.find_spec(f"{__package__}.kernels") is not None
elementwise = _Elementwise()
