"""An implementation of the contract: the reference, the accelerated backend, or a student's file, behind NumPy.

The suite passes NumPy arrays and gets NumPy arrays back; tensors exist only here. A file that lacks a name of the
contract is judged on the rest: asking for the name raises `Missing`, which the suite reports.
"""

import ast
import dataclasses
import importlib
import importlib.util
import sys
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from .sandboxed import unwritten

CONTRACT = (
    "softplus", "softplus_inverse", "softplus_slope", "threshold_shape", "sum_to",
    "qcfs_level", "qcfs", "qcfs_grad", "qcfs_parameter_grad",
    "if_run", "lif_run", "integrate_then_fire_run", "signed_step", "st_bif_run", "halving_step", "halving_run",
    "srp_run", "cos_run",
    "fold_batch_norm", "linear", "conv2d", "avg_pool2d", "max_pool2d", "max_pool2d_run", "layer_norm", "softmax",
    "product_run", "softmax_run", "layer_norm_run",
    "attention", "attention_grad", "attention_spiking", "feed_forward", "feed_forward_grad", "feed_forward_spiking",
    "build", "answer", "quantise", "correct_biases", "expand",
    "fold_batch_norms", "integers", "largest_sums", "halving", "choose_halving", "convert", "simulate", "calibrate",
    "energy", "conversion_error",
)  # fmt: skip
OPTIONAL = ("schedule_step",)  # needed by an assignment only
RUNNING: dict = {}  # submissions that are being judged, by the name under which the suite loads them


class Missing(pytest.skip.Exception):
    """A name of the contract that a file does not define: tests that need it are skipped."""

    def __init__(self, name):
        super().__init__(f"the file does not define {name}")
        self.name = name


class Implementation:
    """`impl.qcfs(z, theta, L)` calls the implementation's own; arrays go in and out as NumPy."""

    def __init__(self, name, module, unwritten=frozenset()):
        self.name, self.module, self.unwritten = name, module, unwritten
        self.torch, self.ours = _uses_torch(module), name.startswith(("reference", "accelerated"))
        self.exact = name.startswith("reference")  # and its mutants; the contract requires Fractions of no others
        self.notes: dict = {}  # notes for a person, next to the points, as keys
        self.engine = None  # the engine of `simulate`, if not the default
        self.formats = ("float16", "float32", "float64") + ("bfloat16",) * self.torch

    def has(self, name):
        """Whether the implementation defines a name of the contract."""
        return name not in self.unwritten and callable(getattr(self.module, name, None))

    def native(self, name):
        """The implementation's own function, without conversion of arrays; Missing where the file lacks it."""
        if name in self.unwritten:
            raise Missing(f"{name} (not written yet)")
        if not self.has(name) and self.name in ("reference", "accelerated"):
            raise AttributeError(f"{self.name} does not define {name}")  # our packages define all names
        if not self.has(name):
            near = get_close_matches(name, set(vars(self.module)) - set(CONTRACT), n=1, cutoff=0.8)
            raise Missing(name + (f" (is it {near[0]}?)" if near else ""))
        return getattr(self.module, name)

    def __getattr__(self, name):
        if name not in (*CONTRACT, *OPTIONAL):
            raise AttributeError(name)
        function, options = self.native(name), dict[str, str]()

        def call(*args, **kwargs):
            if name == "simulate" and self.engine and self.torch and args[0].schedule.streams:
                options["engine"] = self.engine
            answer = self.decode(function(*map(self.encode, args), **options | kwargs))
            return answer if self.ours else self.by_value(name, args, answer)

        return call

    def by_value(self, name, arguments, answer):
        """A file's answer to floats, with integers and truth values as floats: they are judged by value, and noted."""
        format = next((a.dtype for a in arguments if isinstance(a, np.ndarray) and a.dtype.kind == "f"), None)
        if isinstance(answer, tuple):
            parts = [self.by_value(name, arguments, part) for part in answer]
            return type(answer)(*parts) if hasattr(answer, "_fields") else tuple(parts)
        if format is None or not isinstance(answer, np.ndarray) or answer.dtype.kind not in "iub":
            return answer
        self.notes.setdefault(f"{name} returns {answer.dtype} where {format} is asked for, judged by value", None)
        return answer.astype(format)

    def encode(self, value, format=None):
        """NumPy to the implementation's arrays, in lists and dicts too; in a floating format if one is given."""
        if type(value) in (list, tuple):
            return type(value)(self.encode(v, format) for v in value)
        if type(value) is dict:
            return {key: self.encode(v, format) for key, v in value.items()}
        if not isinstance(value, (np.ndarray, np.generic)):
            return value
        if not self.torch:
            return value.astype(format) if format else value
        import torch

        tensor = torch.as_tensor(np.array(value))
        return tensor.to(getattr(torch, format)) if format else tensor

    def decode(self, value):
        """The implementation's arrays to NumPy; bfloat16 becomes float32, which holds it exactly."""
        if type(value).__module__.startswith("torch") and hasattr(value, "detach"):
            value = value.detach()
            return (value.float() if str(value.dtype) == "torch.bfloat16" else value).cpu().numpy()
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.replace(
                value, **{f.name: self.decode(getattr(value, f.name)) for f in dataclasses.fields(value)}
            )
        if isinstance(value, tuple):
            parts = [self.decode(v) for v in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        if type(value) is dict:
            return {key: self.decode(v) for key, v in value.items()}
        return value

    def __repr__(self):
        return self.name


def _uses_torch(module):
    torch = sys.modules.get("torch")
    classes = [v for v in vars(module).values() if isinstance(v, type)]
    return torch is not None and any(issubclass(c, torch.nn.Module) for c in classes)


def load(name):
    """An implementation by name ("reference", "accelerated") or by the path of a file or package."""
    if name in ("reference", "accelerated"):
        return Implementation(name, importlib.import_module(name))
    if name in RUNNING:
        return RUNNING[name]
    path = Path(name)
    source = path / "__init__.py" if path.is_dir() else path
    copied = path.is_dir() and path.stem.startswith(("reference_", "accelerated_"))  # one of ours, with an edit
    own = path.stem if copied else f"student_{path.stem}"  # a folder called reference or copy is not what is loaded
    spec = importlib.util.spec_from_file_location(
        own, source, submodule_search_locations=[str(path)] * path.is_dir() or None
    )
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[own] = module
    spec.loader.exec_module(module)
    return Implementation(own, module, frozenset() if path.is_dir() else unwritten(ast.parse(source.read_bytes())))
