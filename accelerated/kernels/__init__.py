"""Native kernels: what they compute is PyTorch's, bit for bit but for the order of sums; they only make it faster.

Where they do not serve a function gives None, and who calls it has a form in PyTorch.
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from ..thresholds import sum_to
from .build import library

FORMATS = {torch.float32: "float32", torch.float64: "float64"}
SHORT, REPEATED = 32, 1024  # runs of elements with one threshold shorter than this get it spelled out, and repeated


class Source(ctypes.Structure):
    """`source_t` in event.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("bits", "weight")),
        *((name, ctypes.c_longlong) for name in ("height", "width", "words")),
        *((name, ctypes.c_longlong * 2) for name in ("kernel", "stride", "padding")),
        ("bytes", ctypes.c_longlong),
    )


def serves(*tensors):
    """Whether kernels can work on these tensors: on the CPU, in one format that they know, and compiled at all."""
    kinds = {tensor.dtype for tensor in tensors}
    return (
        len(kinds) == 1
        and kinds <= FORMATS.keys()
        and all(tensor.device.type == "cpu" for tensor in tensors)
        and not torch.compiler.is_compiling()
        and library() is not None
    )


@cache
def _function(name):
    function = getattr(library(), name)
    function.restype = None
    return function


@cache
def _pool(process, threads):
    return ThreadPoolExecutor(threads)


class _Symbol(ctypes.Structure):
    """`Dl_info` of dladdr."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("at", ctypes.c_void_p),
    )


def _openmp_of(loaded):
    """The file of the OpenMP that a loaded library calls."""
    symbol = _Symbol()
    ctypes.CDLL(None).dladdr(ctypes.cast(loaded.omp_get_max_threads, ctypes.c_void_p), ctypes.byref(symbol))
    return symbol.file


@cache
def _shares_threads():
    """Whether the kernels' OpenMP is PyTorch's: then its threads do the work, which else keep a core busy waiting."""
    try:
        theirs = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return _openmp_of(library()) == _openmp_of(theirs) is not None
    except (OSError, AttributeError):  # another system, or kernels that were compiled without OpenMP
        return False


def run(name, size, *arguments, least=1 << 14):
    """Call a kernel for the elements 0..size - 1, split over torch's threads; a part has at least `least` of them.

    Tensors go as addresses.
    """
    function, plain = _function(name), [_plain(argument) for argument in arguments]
    parts = max(1, min(torch.get_num_threads(), size // least))

    def call(first, last):
        function(*plain, *map(ctypes.c_longlong, (size, parts, first, last)))

    if parts == 1 or _shares_threads():
        call(0, parts)
    else:
        list(_pool(os.getpid(), parts).map(call, range(parts), range(1, parts + 1)))


def _plain(value):
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p(None)
    return ctypes.c_longlong(value) if type(value) is int else value


def real(value, dtype):
    """A number as the kernels' REAL."""
    return (ctypes.c_float if dtype == torch.float32 else ctypes.c_double)(value)


def lies(tensor):
    """The order of a tensor's axes in memory if it has no gaps, else None."""
    order = sorted(range(tensor.ndim), key=lambda axis: (-tensor.stride(axis), axis))
    return order if tensor.permute(order).is_contiguous() else None


class Thresholds:
    """A threshold that broadcasts to one `sample` [...], by how the sample lies in memory.

    That of the element at place i is numbers[(i // inner) % count].
    """

    def __init__(self, theta, sample):
        self.shape, self.repeats, self.folded = tuple(theta.shape), 1, 1
        if theta.numel() == 1:
            self.numbers, self.count, self.inner = theta.reshape(1).contiguous(), 1, 1
            return
        self.order = lies(sample)
        assert self.order is not None
        theta = theta.reshape((1,) * (sample.ndim - theta.ndim) + self.shape).permute(self.order)
        self.sizes, self.inner = [sample.shape[axis] for axis in self.order], 1
        while theta.shape[-1] == 1:  # the last axes share a threshold
            self.inner *= self.sizes.pop()
            theta = theta[..., 0]
        numbers = theta.expand(self.sizes).reshape(-1)
        if self.inner < SHORT:
            self.folded, self.inner = self.inner, 1
            numbers = numbers.repeat_interleave(self.folded)
        if self.inner == 1 and len(numbers) < REPEATED:
            self.repeats = -(-REPEATED // len(numbers))
            numbers = numbers.repeat(self.repeats)
        self.numbers, self.count = numbers.contiguous(), len(numbers)

    @property
    def arguments(self):
        """What a kernel takes."""
        return self.numbers, self.count, self.inner

    def gathered(self, sums):
        """Sums for each of `numbers`, as sums for each threshold, in the threshold's own shape."""
        if self.count == 1:
            return sums.reshape(self.shape)
        sums = sums.reshape(self.repeats, -1, self.folded).sum((0, 2)).reshape(self.sizes)
        sums = sums.reshape(*self.sizes, *(1,) * (len(self.order) - len(self.sizes)))
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return sum_to(sums.permute(back), self.shape)
