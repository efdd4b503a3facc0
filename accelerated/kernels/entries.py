"""Every entry point of the native kernels: its arguments in C's order, and their checks, in this one place.

C cannot check what lies at an address, so each buffer is declared with the kind and the shape that the kernel
reads or writes. Shapes name sizes: a single name is bound at its first use and must have the same value at every later
use; anything else is an expression of names bound before. `...` stands for the axes of a batch: all buffers of a call
that have them must have the same sizes and strides there, dense in memory and sample after sample. All other axes are
contiguous.
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch

from ..checks import InputError
from .build import LOOKED_UP

FORMATS = {torch.float32: "float32", torch.float64: "float64"}
REALS = {"float32": ctypes.c_float, "float64": ctypes.c_double}
KINDS = {"int16": torch.int16, "int32": torch.int32, "int64": torch.int64, "double": torch.float64}
WHOLE, REAL = "whole", "real number"  # numbers that the caller gives
SOURCES, EVENTS = "sources", "events"  # lists of `Source` and of `Events`


@dataclass(frozen=True)
class Buffer:
    """A tensor: `kind` is "real" (the format of the call), "wide" (at least float32), or a key of KINDS."""

    kind: str
    shape: tuple
    optional: bool = False


class Source(NamedTuple):
    """`source_t` in event.h: a convolution's view of one layer's spikes; pairs are down and across.

    bits [steps, batch, height, width, words]; weight [tiles, taps x words, rows, tile] without gaps.
    """

    bits: torch.Tensor
    weight: torch.Tensor
    kernel: tuple
    stride: tuple
    padding: tuple
    bytes: int


class Events(NamedTuple):
    """`events_t` in whole.h: a convolution's view of one layer's lists of spikes; pairs are down and across.

    place [steps batch height, width + 1]; weight [tiles, down, across, 2 channels, tile]; worth [steps].
    """

    entries: torch.Tensor
    base: torch.Tensor
    place: torch.Tensor
    weight: torch.Tensor
    worth: torch.Tensor
    image: tuple
    stride: tuple
    padding: tuple
    room: int


def _structure(pointers, *numbers):
    """A structure in C: pointers, then numbers and (names that end in 2) pairs of numbers."""
    kinds = {"2": ctypes.c_longlong * 2}
    fields = [(name, kinds.get(name[-1], ctypes.c_longlong)) for name in numbers]
    return type(
        "_Structure", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_void_p) for name in pointers] + fields}
    )


_Source = _structure(("bits", "weight"), "height", "width", "words", "kernel2", "stride2", "padding2", "bytes")
_Events = _structure(("entries", "base", "place", "weight", "worth"), "steps", "height", "width", "channels", "kernel2",
                     "stride2", "padding2", "room")  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A function in C (gpu_...: in gpu.py): symbol, arguments in order, number of elements, and conditions.

    An argument is a `Buffer`, WHOLE or REAL (a number that the caller gives), SOURCES, EVENTS, or an expression.
    """

    symbol: str
    arguments: dict
    elements: str
    conditions: tuple = ()


def real(*shape, optional=False):
    """A buffer in the format of the call."""
    return Buffer("real", shape, optional)


def bits(*shape):
    """A buffer of words, each with one bit for each of 64 channels."""
    return Buffer("int64", shape)


def integer(*shape, optional=False):
    """A buffer of 32-bit integers."""
    return Buffer("int32", shape, optional)


THRESHOLD = {"theta": real("count"), "count": "count", "inner": WHOLE}
QCFS = {**THRESHOLD, "levels": REAL, "shift": REAL, "lowest": REAL}
LAYER = {
    "bias": real("channels"),
    "dense": real("dense_steps", "batch", "height", "width", "channels", optional=True),
    "dense_step": "batch * height * width * channels if dense_steps > 1 else 0",
    "theta": real("channels"),
    "membrane": real("batch", "height", "width", "channels"),
    "counts": real("batch", "height", "width", "channels"),
    "out": bits("steps", "batch", "height", "width", "-(-channels // 64)"),
    "steps": "steps", "batch": "batch", "height": "height", "width": "width", "channels": "channels",
    "fresh": WHOLE,
}  # fmt: skip
IN_STEP = ("dense_steps in (0, 1, steps)", "channels % tile == 0")
WINDOWS = {"height": "height", "width": "width", "words": "words", "down": WHOLE, "across": WHOLE}
IN_WINDOWS = ("0 < down <= height", "0 < across <= width", "words > 0")
POSITIVE = "inner > 0"
FITS = "count == 1 or (sample % period == 0 and count * inner % period == 0)"  # thresholds of whole samples

ENTRIES = {
    "if_run": Entry("if_run_{format}", {
        "z": real("z_steps", ...), "z_step": "size if z_steps > 1 else 0", "out": real("steps", ...),
        "out_step": "size", "membrane": real(..., optional=True), "counts": real(..., optional=True), "unit": WHOLE,
        **THRESHOLD, "steps": "steps",
    }, "size", (POSITIVE, FITS, "z_steps in (1, steps)")),
    "total_step": Entry("total_step_{format}", {
        "total": real(...), "sent": real(...), "spike": real(...), "value": real(...), **THRESHOLD, "levels": REAL,
        "t": REAL, "lowest": REAL,
    }, "size", (POSITIVE, FITS)),
    "running": Entry("running_{format}", {
        "values": real("steps", "numbers"), "out": real("steps", "numbers"), "state": real("numbers"), "steps": "steps",
        "numbers": "numbers", "first": REAL,
    }, "numbers"),
    "increments": Entry("increments_{format}", {
        "values": real("steps", "numbers"), "out": real("steps", "numbers"), "state": real("numbers"), "steps": "steps",
        "numbers": "numbers", "first": REAL,
    }, "numbers"),
    "qcfs": Entry("qcfs_{format}", {"z": real(...), "out": real(...), **QCFS}, "size", (POSITIVE, FITS)),
    "qcfs_counts": Entry("qcfs_counts_{format}", {
        "z": real(...), "out": real(...), "counts": Buffer("int32", (...,)), **QCFS,
        "totals": Buffer("int64", ("rows", 8)),
    }, "size", (POSITIVE, FITS, "parts <= rows")),
    "qcfs_backward": Entry("qcfs_backward_{format}", {
        "z": real(...), "upstream": real(...), "by_z": real(...), **QCFS, "sums": Buffer("double", ("rows", "count")),
    }, "size", (POSITIVE, FITS, "parts <= rows")),
    "gpu_qcfs_counts": Entry("", {
        "z": real(...), "out": real(...), "counts": Buffer("int32", (...,)), **THRESHOLD,
        "totals": Buffer("int64", ("rows", 3)),
    }, "size", (POSITIVE, FITS, "rows * block >= size")),
    "gpu_qcfs_backward": Entry("", {
        "z": real(...), "upstream": real(...), "by_z": real(...), **THRESHOLD,
        "sums": Buffer("wide", ("rows", "columns")),
    }, "size", (POSITIVE, FITS, "count == 1 or columns == count * inner", "rows * columns * deep >= size")),
    "unpack": Entry("unpack_{format}", {
        "bits": bits("pixels", "words"), "out": real("pixels", "channels"), "worth": real("channels"),
        "channels": "channels",
    }, "pixels", ("words == -(-channels // 64)",)),
    "pool_bits": Entry("pool_bits", {
        "bits": bits("images", "height", "width", "words"),
        "out": bits("images", "height // 2", "width // 2", "3 * words"),
        "height": "height", "width": "width", "words": "words",
    }, "images"),
    "gather_bits": Entry("gather_bits", {
        "bits": bits("rows", "width", "many"),
        "out": bits("rows", "(width + 2 * padding - kernel) // stride + 1", "-(-kernel // group) * many"),
        "width": "width", "out_width": "(width + 2 * padding - kernel) // stride + 1", "many": "many",
        "channels": WHOLE, "kernel": WHOLE, "stride": WHOLE, "padding": WHOLE, "group": WHOLE,
    }, "rows", ("group == 1 or (many == 1 and group * channels <= 64)", "min(kernel, stride, group, channels) > 0",
                "padding >= 0")),
    "if_bits": Entry("if_bits_{tile}_{format}", {
        "dense": LAYER["dense"], "dense_step": LAYER["dense_step"], "out": LAYER["out"], "membrane": LAYER["membrane"],
        "counts": LAYER["counts"], "theta": LAYER["theta"], "channels": "channels", "steps": "steps", "fresh": WHOLE,
    }, "batch * height * width", (*IN_STEP, "dense_steps > 0")),
    "table_layer": Entry("table_layer_{tile}_{format}", {"sources": SOURCES, "number": "number", **LAYER},
                         "batch * height", IN_STEP),
    "event_layer": Entry("event_layer_{tile}_{format}", {
        "sources": SOURCES, "number": "number", **LAYER, "by_tile": WHOLE, "room": real("rows", "enough"),
        "enough": "enough",
    }, "channels // tile if by_tile else batch",
        (*IN_STEP, "parts <= rows", "enough >= max(block, steps * width) * tile", "not by_tile or tile == 64")),
    "spike_rows": Entry("spike_rows", {
        "bits": bits(2, "images", "height", "width", "words"), "plane": "images * height * width * words",
        "place": integer("images * (height // down)", "width // across + 1"),
        "total": Buffer("int64", ("images * (height // down)",)), **WINDOWS,
    }, "images * (height // down)", IN_WINDOWS),
    "spike_list": Entry("spike_list", {
        "bits": bits(2, "images", "height", "width", "words"), "plane": "images * height * width * words",
        "base": Buffer("int64", ("images * (height // down) + 1",)), "entries": integer("spikes"), "room": "spikes",
        **WINDOWS, "channels": WHOLE,
    }, "images * (height // down)",
        (*IN_WINDOWS, "words == -(-channels // 64)", "2 * width * channels < 2**31")),
    "value_bits": Entry("value_bits", {
        "values": integer("pixels", "channels"), "bits": bits(2, "pixels", "words"), "plane": "pixels * words",
        "channels": "channels", "bound": WHOLE,
    }, "pixels", ("words == -(-channels // 64)", "bound > 0")),
    "whole_layer": Entry("whole_layer_{tile}", {
        "events": EVENTS, "number": "number",
        "dense": integer("dense_steps", "batch", "height", "width", "channels", optional=True),
        "dense_step": "batch * height * width * channels", "dense_steps": "dense_steps",
        "step": integer("step_rows", "channels"), "step_pixel": "step_rows > 1", "worth": integer("steps"),
        "membrane": integer("batch", "height", "width", "channels"),
        **{name: Buffer("int16", ("batch", "height", "width", "channels")) for name in ("sent", "emitted")},
        "out": bits(2, "steps", "batch", "height", "width", "-(-channels // 64)"), "steps": "steps", "lag": WHOLE,
        "fresh": WHOLE, "batch": "batch", "height": "height", "width": "width", "channels": "channels", "most": WHOLE,
        "lowest": WHOLE,
    }, "channels // tile * batch * height",
        ("channels % tile == 0", "step_rows in (1, height * width)", "lag >= 0", "dense_steps <= steps + lag")),
}  # fmt: skip


@cache
def _code(expression):
    return compile(expression, "entries.py", "eval")


def _value(expression, names):
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

    def __init__(self, entry, dtype, device, numbers):
        self.entry, self.dtype, self.device, self.sizes, self.batch = entry, dtype, device, dict(numbers), None

    def see(self, name, declared, tensor):
        """Check a tensor against its declaration; InputError names what differs."""
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
            elif tensor.shape[axis] != _value(size, self.sizes):
                wanted = f"{_value(size, self.sizes)} long on axis {axis}"
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

    def source(self, number, source, by_tables):
        """Check a convolution of bits against the layer that it feeds."""
        name, sizes = f"source {number}", self.sizes
        down, across = source.kernel
        shape = ("steps", "batch", "in_height", "in_width", "in_words")
        inner = Checked(self.entry, self.dtype, self.device, {key: sizes[key] for key in ("steps", "batch")})
        inner.see(f"{name}, bits", bits(*shape), source.bits)
        words = source.bits.shape[4]
        if min(*source.kernel, *source.stride) < 1 or min(source.padding) < 0:
            raise refused(self.entry, name, "of positive kernel and stride", source[2:5])
        seen = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(source.bits.shape[2:], *source[2:5], strict=False)]
        if seen != [sizes["height"], sizes["width"]] or (by_tables and across != 1):
            raise refused(self.entry, name, f"seen by {sizes['height']} x {sizes['width']} pixels", seen)
        rows = source.bytes * 257 if by_tables else 64
        wanted = sizes["channels"] // sizes["tile"] * down * across * words * rows * sizes["tile"]
        weight = source.weight
        whole = isinstance(weight, torch.Tensor) and weight.is_contiguous()
        inner.see(f"{name}, weight", real(wanted), weight.view(-1) if whole else weight)
        if by_tables:
            if source.bytes not in (2, 4, 6, 8):
                raise refused(self.entry, name, "looked up in 2, 4, 6 or 8 bytes", source.bytes)
            sizes["looked_up"] = sizes.get("looked_up", 0) + down * words
            if sizes["looked_up"] > LOOKED_UP:
                raise refused(self.entry, name, f"at most {LOOKED_UP} words in all", sizes["looked_up"])

    def events(self, number, events):
        """Check a convolution of lists of spikes against the layer that it feeds."""
        name, sizes = f"events {number}", self.sizes
        known = {"height": events.image[0], "width": events.image[1], "batch": sizes["batch"], "tile": sizes["tile"]}
        inner = Checked(self.entry, self.dtype, self.device, known)
        inner.see(f"{name}, worth", integer("steps"), events.worth)
        inner.see(f"{name}, base", Buffer("int64", ("steps * batch * height + 1",)), events.base)
        inner.see(f"{name}, place", integer("steps * batch * height", "width + 1"), events.place)
        inner.see(f"{name}, entries", integer("spikes"), events.entries)
        tiles = sizes["channels"] // sizes["tile"]
        inner.see(f"{name}, weight", Buffer("int16", (tiles, "down", "across", "both", "tile")), events.weight)
        kernel, pairs = events.weight.shape[1:3], (events.stride, events.padding)
        if min(*kernel, *events.stride, *events.image) < 1 or min(events.padding) < 0 or events.room < 1:
            raise refused(self.entry, name, "of positive kernel, stride, image and room", events[5:])
        if inner.sizes["steps"] > sizes["steps"] + sizes["lag"] or inner.sizes["both"] % 2:
            raise refused(self.entry, name, f"of at most {sizes['steps'] + sizes['lag']} steps", inner.sizes["steps"])
        seen = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(events.image, kernel, *pairs, strict=True)]
        if seen != [sizes["height"], sizes["width"]]:
            raise refused(self.entry, name, f"seen by {sizes['height']} x {sizes['width']} pixels", seen)


def checked(name, dtype, device, parts, given):
    """The sizes of a call of ENTRIES[name]; InputError names the first argument that does not fit its declaration."""
    entry = ENTRIES[name]
    numbers = {key: value for key, value in given.items() if not isinstance(value, (torch.Tensor, list, type(None)))}
    call = Checked(name, dtype, device, numbers)
    for argument, declared in entry.arguments.items():
        if not isinstance(declared, Buffer):
            continue
        tensor = given.get(argument)
        if tensor is not None or not declared.optional:
            call.see(argument, declared, tensor)
        elif isinstance(declared.shape[0], str):
            call.sizes.setdefault(declared.shape[0], 0)  # there are none
    sizes = call.sizes
    for i, source in enumerate(given.get(SOURCES, ())):
        call.source(i, source, name == "table_layer")
    for i, events in enumerate(given.get(EVENTS, ())):
        call.events(i, events)
    elements = _value(entry.elements, sizes)
    sizes["parts"] = parts(elements)
    for condition in entry.conditions:
        if not eval(_code(condition), {"__builtins__": {}, "max": max, "min": min}, sizes):
            raise InputError(f"kernel {name}: {condition} does not hold, for {sizes}")
    return sizes, elements


class Plan(NamedTuple):
    """A checked call: the numbers of elements and parts, and its arguments, buffers by name."""

    elements: int
    parts: int
    arguments: tuple

    def filled(self, given):
        """The arguments in C's form, with the addresses of these buffers."""
        return [_address(given, argument) if isinstance(argument, str) else argument for argument in self.arguments]


_plans: dict = {}
MOST_PLANS = 4096  # plans kept: bounded, since networks of many sizes would fill the memory


def planned(name, dtype, device, given, least=None):
    """The `Plan` of a call; arguments of the same kinds, shapes and strides are checked only once.

    A part has at least `least` elements; without it, the plan is not for C, and has no arguments.
    """
    threads = torch.get_num_threads()
    try:
        key = name, dtype, device, least, threads, tuple(given), tuple(map(_looks, given.values()))
        if key in _plans:
            return _plans[key]
    except TypeError:  # not an argument of a kernel; the check names it
        key = None

    def parts(count):
        return max(1, min(threads, count // least)) if least else 1

    sizes, elements = checked(name, dtype, device, parts, given)
    arguments = _arguments(name, FORMATS[dtype], given, sizes) if least else ()
    plan = Plan(elements, sizes["parts"], tuple(arguments))
    if len(_plans) >= MOST_PLANS:
        _plans.clear()
    if key is not None:
        _plans[key] = plan
    return plan


def _looks(value):
    """All that decides whether an argument fits; not its contents or address."""
    if isinstance(value, torch.Tensor):
        return (value.shape, value.stride() if value.layout == torch.strided else None, value.dtype, value.device)
    if isinstance(value, list):
        return tuple(tuple(map(_looks, source)) for source in value)
    return value


def _arguments(name, format, given, sizes):
    """The arguments of C in order: numbers, and the names of buffers."""
    for argument, declared in ENTRIES[name].arguments.items():
        if isinstance(declared, Buffer) or declared in (SOURCES, EVENTS):
            yield argument
        elif declared == REAL:
            yield REALS[format](given[argument])
        elif declared == "number":
            yield ctypes.c_longlong(len(given[SOURCES] if SOURCES in given else given[EVENTS]))
        else:
            yield ctypes.c_longlong(given[argument] if declared == WHOLE else _value(declared, sizes))


def _address(given, name):
    value = given.get(name)
    if isinstance(value, list):
        return _sources(value)
    return ctypes.c_void_p(None if value is None else value.data_ptr())


def _pair(values):
    return (ctypes.c_longlong * 2)(*values)


def _sources(sources):
    made = [_events(source) if isinstance(source, Events) else _source(source) for source in sources]
    return ctypes.byref((type(made[0]) * len(made))(*made)) if made else None


def _source(s):
    pairs = map(_pair, (s.kernel, s.stride, s.padding))
    return _Source(s.bits.data_ptr(), s.weight.data_ptr(), *s.bits.shape[2:], *pairs, s.bytes)


def _events(e):
    tensors = (e.entries, e.base, e.place, e.weight, e.worth)
    pairs = map(_pair, (e.weight.shape[1:3], e.stride, e.padding))
    return _Events(*(t.data_ptr() for t in tensors), len(e.worth), *e.image, e.weight.shape[3] // 2, *pairs, e.room)
