"""Native kernels: PyTorch's results bit for bit, apart from the order of sums, but faster.

A function without a kernel for its arguments returns None, and its caller computes in PyTorch.
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from ..thresholds import sum_to
from .buffers import FORMATS, lies
from .build import BLOCK, library
from .entries import ENTRIES
from .plans import planned

CPU = torch.device("cpu")
SHORT, REPEATED = 32, 1024  # thresholds of shorter runs are written out per element, and repeated


def serves(*tensors):
    """Whether the kernels are compiled and support these tensors: on the CPU, all in one supported format."""
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
    """The file of the OpenMP library that a loaded library uses."""
    symbol = _Symbol()
    ctypes.CDLL(None).dladdr(ctypes.cast(loaded.omp_get_max_threads, ctypes.c_void_p), ctypes.byref(symbol))
    return symbol.file


@cache
def _shares_threads():
    """Whether kernels and PyTorch share an OpenMP, and so its threads: idle threads of a second one would spin."""
    try:
        theirs = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return _openmp_of(library()) == _openmp_of(theirs) is not None
    except (OSError, AttributeError):  # another system, or kernels that were compiled without OpenMP
        return False


def call(name, dtype=torch.float32, least=1 << 14, tile=64, **given):
    """Call a kernel (`ENTRIES`) with its buffers and numbers by name, split over torch's threads.

    A part has at least `least` elements. InputError for a buffer that is not what the kernel reads or writes.
    """

    plan = planned(name, dtype, CPU, {**given, "tile": tile, "block": BLOCK}, least)
    function = _function(ENTRIES[name].symbol.format(format=FORMATS[dtype], tile=tile))
    arguments, parts = plan.filled(given), plan.parts

    def run(first, last):
        function(*arguments, *map(ctypes.c_longlong, (plan.elements, parts, first, last)))

    if parts == 1 or _shares_threads():
        run(0, parts)
    else:
        list(_pool(os.getpid(), parts).map(run, range(parts), range(1, parts + 1)))


class Thresholds:
    """A threshold that broadcasts to one `sample` [...], in the order of the sample's memory.

    The element at position i has numbers[(i // inner) % count]; thresholds repeat after `period` elements.
    """

    def __init__(self, theta, sample):
        self.shape, self.repeats, self.folded = tuple(theta.shape), 1, 1
        if theta.numel() == 1:
            self.numbers, self.count, self.inner, self.period = theta.reshape(1).contiguous(), 1, 1, 1
            return
        self.order = lies(sample)
        assert self.order is not None
        theta = theta.reshape((1,) * (sample.ndim - theta.ndim) + self.shape).permute(self.order)
        self.sizes, self.inner = [sample.shape[axis] for axis in self.order], 1
        while theta.shape[-1] == 1:  # the last axes share a threshold
            self.inner *= self.sizes.pop()
            theta = theta[..., 0]
        numbers = theta.expand(self.sizes).reshape(-1)
        self.period = len(numbers) * self.inner
        if self.inner < SHORT:
            self.folded, self.inner = self.inner, 1
            numbers = numbers.repeat_interleave(self.folded)
        if self.inner == 1 and len(numbers) < REPEATED:
            self.repeats = -(-REPEATED // len(numbers))
            numbers = numbers.repeat(self.repeats)
        self.numbers, self.count = numbers.contiguous(), len(numbers)

    @property
    def arguments(self):
        """The arguments of a kernel."""
        return {"theta": self.numbers, "inner": self.inner, "period": self.period}

    def gathered(self, sums):
        """Sums per element of `numbers` as sums per threshold, in the threshold's own shape."""
        if self.count == 1:
            return sums.reshape(self.shape)
        sums = sums.reshape(self.repeats, -1, self.folded).sum((0, 2)).reshape(self.sizes)
        sums = sums.reshape(*self.sizes, *(1,) * (len(self.order) - len(self.sizes)))
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return sum_to(sums.permute(back), self.shape)
