"""Every entry point of the native kernels: its arguments in C's order, and their conditions, in this one place."""

from dataclasses import dataclass

from .buffers import Buffer, bits, integer, real
from .structures import Direct, Events, Source

WHOLE, REAL = "whole", "real number"  # numbers that the caller gives


@dataclass(frozen=True)
class Entry:
    """A function in C (gpu_...: in gpu.py): symbol, arguments in order, number of elements, and conditions.

    An argument is a `Buffer`, WHOLE or REAL (a number that the caller gives), an expression, or a structure: then the
    caller gives a list, and C gets it and its length.
    """

    symbol: str
    arguments: dict
    elements: str
    conditions: tuple = ()


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
    "table_layer": Entry("table_layer_{tile}_{format}", {"sources": Source, **LAYER},
                         "batch * height", IN_STEP),
    "event_layer": Entry("event_layer_{tile}_{format}", {
        "sources": Source, **LAYER, "by_tile": WHOLE, "room": real("rows", "enough"),
        "enough": "enough",
    }, "channels // tile if by_tile else batch",
        (*IN_STEP, "parts <= rows", "enough >= max(block, steps * width) * tile", "not by_tile or tile == 64")),
    "spike_rows": Entry("spike_rows", {
        "bits": bits("images", "height", "width", "words"),
        "place": integer("images * (height // down)", "width // across + 1"),
        "total": Buffer("int64", ("images * (height // down)",)), **WINDOWS,
    }, "images * (height // down)", IN_WINDOWS),
    "spike_list": Entry("spike_list", {
        "bits": bits("images", "height", "width", "words"),
        "base": Buffer("int64", ("images * (height // down) + 1",)), "entries": integer("spikes"), "room": "spikes",
        **WINDOWS, "channels": WHOLE,
    }, "images * (height // down)",
        (*IN_WINDOWS, "words == -(-channels // 64)", "width * channels < 2**31")),
    "levels_after": Entry("levels_after_{format}", {
        "bits": bits(2, "steps", "pixels", "-(-channels // 64)"), "worth": integer("steps"),
        "last": Buffer("int16", ("pixels", "filled")), "filled": "filled", "out": real("steps", "pixels", "channels"),
        "steps": "steps", "channels": WHOLE,
    }, "pixels * -(-channels // 64)", ("0 < channels <= filled",)),
    "value_bits": Entry("value_bits", {
        "values": integer("pixels", "channels"), "bits": bits(2, "pixels", "words"), "plane": "pixels * words",
        "channels": "channels", "bound": WHOLE,
    }, "pixels", ("words == -(-channels // 64)", "bound > 0")),
    "whole_layer": Entry("whole_layer_{tile}", {
        "events": Events, "directs": Direct,
        "dense": integer("dense_steps", "batch", "height", "width", "channels", optional=True),
        "dense_step": "batch * height * width * channels", "dense_steps": "dense_steps",
        "step": integer("step_rows", "channels"), "step_pixel": "step_rows > 1", "start": integer("channels"),
        "worth": integer("steps"),
        "membrane": integer("batch", "height", "width", "channels"),
        **{name: Buffer("int16", ("batch", "height", "width", "channels")) for name in ("sent", "emitted")},
        "out": bits(2, "steps", "batch", "height", "width", "-(-channels // 64)"),
        "fired": Buffer("bool", ("steps", "batch")), "steps": "steps", "lag": WHOLE,
        "fresh": WHOLE, "batch": "batch", "height": "height", "width": "width", "channels": "channels", "most": WHOLE,
        "lowest": WHOLE,
    }, "channels // tile * batch * height",
        ("channels % tile == 0", "step_rows in (1, height * width)", "lag >= 0", "dense_steps <= steps + lag")),
}  # fmt: skip
