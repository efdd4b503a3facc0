"""A network in whole numbers as ONNX, of integer operators alone: int32 between layers, weights and inputs of 8 bits.

    network   pixels -> logits as whole numbers, and the levels of each layer
    step      pixels, the worth of a spike, levels sent so far by each layer -> the same after one more step

The step is that of `signed` (worth 1) and `halving` on totals (T5): each layer reads what the layers before have sent
with this step. Numbers beyond 8 bits are taken apart into digits of base 128, so that every sum stays a whole one.
"""

import importlib.util
from pathlib import Path

import numpy as np

import isospike

from ..checks import InputError
from .program import Program, in_8_bits, on_one_axis
from .weights import written

OPSET = 17
BASE = 128  # digits 0..127, the last one with its sign


def onnx(network, path: str | Path, image, step: bool = False) -> Path:
    """Write a spiking network in whole numbers to `path` as ONNX: in one pass, or one `step` of it; returns the path.

    `network` is convert(integers(...), schedule), `image` [1, ...] one of its images. Inputs: `pixels` [n, ...] uint8;
    for a step also `worth` [] and `sent.LAYER` [n, ...], int32, 0 at first. Outputs: `answer` [n, classes] int32, the
    logits times `unit` in the metadata, and `levels.LAYER`. InputError names what has no form.
    """
    packaged()
    return saved(Integers(Program(network, image), step).model(), path)


def packaged():
    """InputError where the package onnx is not installed."""
    if importlib.util.find_spec("onnx") is None:
        raise InputError("ONNX needs the package onnx: pip install onnx")


def saved(model, path):
    """Write a model to a path, which is returned."""
    from onnx import save

    return written(path, lambda part: save(model, part))


class Graph:
    """A program in operators; a subclass has a method for each kind of node."""

    numbers: type = np.int32  # between layers
    images: str | int = "n"
    schedule = ""  # of a step

    def __init__(self, program, pixels):
        from onnx import helper

        self.program, self.helper = program, helper
        self.kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.numbers))
        self.lines: list = []
        self.constants: dict = {}
        self.inputs = [self._value("pixels", program.nodes[0]["shape"], pixels)]
        self.outputs: list = []

    def _build(self):
        for node in self.program.nodes:
            getattr(self, f"_{node['op']}")(node["name"], node, [f"value.{source}" for source in node["inputs"]])
        self._line("Identity", [f"value.{self.program.answer}"], "answer")
        answer = next(node for node in self.program.nodes if node["name"] == self.program.answer)
        self.outputs.insert(0, self._value("answer", answer["shape"], self.kind))

    def model(self):
        """The whole model; its metadata says what answers are divided by."""
        helper = self.helper
        graph = helper.make_graph(self.lines, "isospike", self.inputs, self.outputs, list(self.constants.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8,
                                  producer_name="isospike", producer_version=isospike.__version__)  # fmt: skip
        unit = " ".join(repr(float(value)) for value in np.unique(self.program.unit))
        helper.set_model_props(model, {"unit": unit, "schedule": self.schedule})
        return model

    def _value(self, name, shape, kind):
        return self.helper.make_tensor_value_info(name, kind, [self.images, *shape])

    def _constant(self, values, dtype=None):
        from onnx import numpy_helper

        array = np.asarray(values, dtype or self.numbers)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"constant{len(self.constants)}")
        return self.constants[key].name

    def _line(self, operation, inputs, name="", **settings):
        """An operator; the name of its output."""
        name = name or f"{operation.lower()}{len(self.lines)}"
        self.lines.append(self.helper.make_node(operation, inputs, [name], **settings))
        return name

    def _with(self, operation, value, constant):
        return self._line(operation, [value, self._constant(constant)])

    def _scale(self, name, node, inputs):
        self._line("Mul", [inputs[0], self._constant(node["factor"])], f"value.{name}")

    def _add(self, name, node, inputs):
        self._line("Add", inputs, f"value.{name}")

    def _gather(self, name, node, inputs):
        """The numbers of all inputs in a row behind a 0, by their places; a view is a view."""
        shape = self._constant([0, *node["shape"]], np.int64)
        source = next(each for each in self.program.nodes if each["name"] == node["inputs"][0])
        if np.array_equal(node["index"], np.arange(int(np.prod(source["shape"])))):
            self._line("Reshape", [inputs[0], shape], f"value.{name}")
            return
        rows = [self._line("Flatten", [value], axis=1) for value in inputs]
        first = self._line("Slice", [rows[0], *(self._constant([n], np.int64) for n in (0, 1, 1))])
        row = self._line("Concat", [self._with("Mul", first, 0), *rows], axis=1)
        picked = self._line("Gather", [row, self._constant(node["index"] + 1, np.int64)], axis=1)
        self._line("Reshape", [picked, shape], f"value.{name}")


class Integers(Graph):
    """The graph of integer operators: of one pass, or of a step."""

    def __init__(self, program, step):
        from onnx import TensorProto

        self.by_step, self.schedule = step, program.schedule.name if step else ""
        self.int8, self.uint8 = TensorProto.INT8, TensorProto.UINT8
        super().__init__(program, self.uint8)
        if program.nodes[0]["most"] > 255:
            raise InputError(f"pixels reach {program.nodes[0]['most']}, and the ONNX file reads bytes")
        if step:
            if not program.schedule.settles:
                raise InputError(f"a step is that of signed or halving, got {program.schedule.name!r}")
            if len({node["worths"] for node in program.nodes if node["op"] == "neuron"}) > 1:
                raise InputError(
                    "a step has one worth for all layers: choose worths, levels and a span that are the same"
                )
            self.inputs.append(self.helper.make_tensor_value_info("worth", self.kind, []))
        self._build()

    def _cast(self, value, kind):
        return self._line("Cast", [value], to=kind)

    def _image(self, name, node, _):
        zero = node["zero"].reshape(-1, *(1,) * (len(node["shape"]) - 1))
        self._line("Sub", [self._cast("pixels", self.kind), self._constant(zero)], f"value.{name}")

    def _neuron(self, name, node, inputs):
        """clip(floor((2 z + D) / (2 D)), lowest, L): of 2 z + D - 2 D lowest, at least 0, where truncating is floor.

        In a step: s = 1 if 2 (z - N D) >= w D and N + w <= L, -1 if 2 (z - N D) < -w D and N - w >= lowest.
        """
        step, levels, lowest = node["factor"], node["levels"], node["lowest"]
        twice = self._with("Mul", inputs[0], 2)
        if not self.by_step:
            shifted = self._line("Max", [self._with("Add", twice, step - 2 * step * lowest), self._constant(0)])
            found = self._with("Add", self._with("Div", shifted, 2 * step), lowest)
            found = self._line("Min", [found, self._constant(levels)])
        else:
            sent = f"sent.{name}"
            self.inputs.append(self._value(sent, node["shape"], self.kind))
            left = self._line("Sub", [twice, self._with("Mul", sent, 2 * step)])
            bar = self._with("Mul", "worth", step)
            up = self._both("GreaterOrEqual", [left, bar], "LessOrEqual", self._line("Add", [sent, "worth"]), levels)
            least = self._line("Neg", [bar])
            down = self._both("Less", [left, least], "GreaterOrEqual", self._line("Sub", [sent, "worth"]), lowest)
            spike = self._line("Sub", [self._cast(up, self.kind), self._cast(down, self.kind)])
            found = self._line("Add", [sent, self._line("Mul", [spike, "worth"])])
        self._line("Identity", [found], f"value.{name}")
        self._line("Identity", [found], f"levels.{name}")
        self.outputs.append(self._value(f"levels.{name}", node["shape"], self.kind))

    def _both(self, first, values, second, value, bound):
        return self._line("And", [self._line(first, values), self._with(second, value, bound)])

    def _digits(self, value, source):
        """[(a value of 8 bits, its type, what it is worth)] whose sum a value is."""
        least, most = (end.numpy() for end in self.program.spans[source])
        low, high, worth, found = int(least.min()), int(most.max()), 1, []
        while low < -128 or high > 127:  # beyond, some machines saturate pairs of products
            digit = self._line("Mod", [value, self._constant(BASE)])
            found.append((self._cast(digit, self.uint8), worth))
            value = self._with("Div", self._line("Sub", [value, digit]), BASE)
            low, high, worth = low // BASE, high // BASE, worth * BASE
        return [*found, (self._cast(value, self.int8 if low < 0 else self.uint8), worth)]

    def _summed(self, source, value, weight, operation, **settings):
        """An integer operator with weights of 8 bits on each digit, int32."""
        total = ""
        for digit, worth in self._digits(value, source):
            part = self._line(operation, [digit, self._constant(weight, np.int8)], **settings)
            part = part if worth == 1 else self._with("Mul", part, worth)
            total = self._line("Add", [total, part]) if total else part
        return total

    def _layer(self, name, node, inputs, operation, transposed, **settings):
        small, gain = in_8_bits(node)
        small = small.T if transposed else small
        column = (-1, *(1,) * (len(node["shape"]) - 1))
        total = self._summed(node["inputs"][0], inputs[0], small, operation, **settings)
        total = self._with("Mul", total, gain.reshape(column)) if (gain > 1).any() else total
        self._line("Add", [total, self._constant(node["bias"].reshape(column))], f"value.{name}")

    def _linear(self, name, node, inputs):
        on_one_axis(node, "ONNX")
        self._layer(name, node, inputs, "MatMulInteger", True)

    def _conv2d(self, name, node, inputs):
        (down, across), settings = node["padding"], {"strides": node["stride"], "dilations": node["dilation"]}
        self._layer(name, node, inputs, "ConvInteger", False, pads=[down, across, down, across], group=node["groups"],
                    **settings)  # fmt: skip

    def _sum_pool2d(self, name, node, inputs):
        channels, (down, across) = node["shape"][0], node["padding"]
        ones = np.ones((channels, 1, *node["window"]))
        found = self._summed(node["inputs"][0], inputs[0], ones, "ConvInteger", strides=node["stride"], group=channels,
                             pads=[down, across, down, across])  # fmt: skip
        self._line("Identity", [found], f"value.{name}")

    def _max_pool2d(self, name, node, inputs):
        """Of floats, which hold these numbers: ONNX has no maxima of int32."""
        from onnx import TensorProto

        down, across = node["padding"]
        found = self._line("MaxPool", [self._cast(inputs[0], TensorProto.DOUBLE)], kernel_shape=node["window"],
                           strides=node["stride"], pads=[down, across, down, across])  # fmt: skip
        self._line("Cast", [found], f"value.{name}", to=self.kind)
