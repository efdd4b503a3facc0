"""What a tensor must be before a kernel may read or write it: C cannot check what lies at an address.

Each buffer is declared with a kind and a shape. Shapes name sizes: a single name is bound at its first use and must
have the same value at every later use; anything else is an expression of names bound before. `...` stands for the axes
of a batch: all buffers of a call that have them must have the same sizes and strides there, dense in memory and sample
after sample. All other axes are contiguous.
"""

from dataclasses import dataclass
from functools import cache

import torch

from ..checks import InputError

FORMATS = {torch.float32: "float32", torch.float64: "float64"}
KINDS = {
    "bool": torch.bool, "int8": torch.int8, "int16": torch.int16, "int32": torch.int32, "int64": torch.int64,
    "double": torch.float64,
}  # fmt: skip


@dataclass(frozen=True)
class Buffer:
    """A tensor: `kind` is "real" (the format of the call), "wide" (at least float32), or a key of KINDS."""

    kind: str
    shape: tuple
    optional: bool = False


def real(*shape, optional=False):
    """A buffer in the format of the call."""
    return Buffer("real", shape, optional)


def bits(*shape):
    """A buffer of words, each with one bit for each of 64 channels."""
    return Buffer("int64", shape)


def integer(*shape, optional=False):
    """A buffer of 32-bit integers."""
    return Buffer("int32", shape, optional)


@cache
def _code(expression):
    return compile(expression, "entries.py", "eval")


def size_of(expression, names):
    """A size or number: a name, a whole number, or an expression of names."""
    if not isinstance(expression, str):
        return expression
    return names[expression] if expression in names else eval(_code(expression), {"__builtins__": {}, "max": max,
                                                                                   "min": min}, names)  # fmt: skip


def lies(tensor):
    """The order of a tensor's axes in memory if it is dense, else None."""
    order = sorted(range(tensor.ndim), key=lambda axis: (-tensor.stride(axis), axis))
    return order if tensor.permute(order).is_contiguous() else None


def refused(entry, name, wanted, given):
    """The error for a buffer that does not fit."""
    return InputError(f"kernel {entry}: {name} must be {wanted}, got {given}")


class Checked:
    """The names of a call: sizes of its buffers, and the numbers given."""

    def __init__(self, entry, dtype, device, numbers, part=""):
        self.entry, self.dtype, self.device, self.sizes, self.batch = entry, dtype, device, dict(numbers), None
        self.part = part

    def within(self, part, *sizes):
        """The names of a part of the call, which shares these sizes with the whole."""
        shared = {size: self.sizes[size] for size in sizes}
        return Checked(self.entry, self.dtype, self.device, shared, f"{part}, ")

    def see(self, name, declared, tensor):
        """Check a tensor against its declaration; InputError names what differs."""
        name = self.part + name
        if not isinstance(tensor, torch.Tensor):
            raise refused(self.entry, name, "a tensor", type(tensor).__name__)
        wide = torch.promote_types(self.dtype, torch.float32)
        kind = {"real": self.dtype, "wide": wide}.get(declared.kind) or KINDS[declared.kind]
        if tensor.dtype != kind:
            raise refused(self.entry, name, kind, tensor.dtype)
        if tensor.device != self.device or tensor.layout != torch.strided:
            raise refused(self.entry, name, f"a plain tensor on {self.device}", f"{tensor.layout} on {tensor.device}")
        batch = declared.shape[-1:] == (...,)
        lead = declared.shape[:-1] if batch else declared.shape
        if tensor.ndim < len(lead) or (not batch and tensor.ndim > len(lead)):
            raise refused(self.entry, name, f"of {len(lead)} axes", f"shape {tuple(tensor.shape)}")
        for axis, size in enumerate(lead):
            if isinstance(size, str) and size.isidentifier() and size not in self.sizes:
                self.sizes[size] = tensor.shape[axis]
            elif tensor.shape[axis] != size_of(size, self.sizes):
                wanted = f"{size_of(size, self.sizes)} long on axis {axis}"
                raise refused(self.entry, name, wanted, f"shape {tuple(tensor.shape)}")
        if batch:
            self._as_the_batch(name, tensor, len(lead))
        elif not tensor.is_contiguous():
            raise refused(self.entry, name, "contiguous", f"strides {tensor.stride()}")

    def _as_the_batch(self, name, tensor, lead):
        shape, strides = tuple(tensor.shape[lead:]), tensor.stride()[lead:]
        if self.batch is None:
            order = lies(tensor[(0,) * lead]) if tensor.numel() else None
            if order is None or order[:1] != [0]:
                raise refused(self.entry, name, "a batch without gaps, sample after sample", f"strides {strides}")
            self.batch, self.sizes["size"] = (shape, strides), tensor[(0,) * lead].numel()
            self.sizes["sample"] = self.sizes["size"] // shape[0]
        if shape != self.batch[0]:
            raise refused(self.entry, name, f"of shape {self.batch[0]} in each step", shape)
        if strides != self.batch[1]:
            raise refused(self.entry, name, f"of strides {self.batch[1]}", strides)
        if lead and tensor.shape[0] > 1 and tensor.stride(0) != self.sizes["size"]:
            raise refused(self.entry, name, f"{self.sizes['size']} numbers from step to step", tensor.stride(0))
