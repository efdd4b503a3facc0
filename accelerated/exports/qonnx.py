"""A network in whole numbers as QONNX, which FINN turns into hardware: its quantised activations are MultiThreshold.

    MultiThreshold(z) = lowest + the number of thresholds that z reaches, (2 m - 1) D / 2 for m = lowest + 1, ..., L

which is level(z). Tensors are float32, as QONNX has it, and hold whole numbers; annotations say of how many bits.
"""

from pathlib import Path

import numpy as np

from ..checks import InputError
from .onnx import Graph, packaged, saved
from .program import Program, on_one_axis

DOMAIN = "qonnx.custom_op.general"
HELD = 2**24  # whole numbers in float32


def qonnx(network, path: str | Path, image) -> Path:
    """Write a network in whole numbers to `path` as QONNX, in one pass for one image; returns the path.

    `network` is convert(integers(...), schedule), `image` [1, ...] one of its images. Input `pixels` [1, ...], output
    `answer` [1, classes], the logits times `unit` in the metadata. InputError names what has no form.
    """
    packaged()
    return saved(Multithreshold(Program(network, image)).model(), path)


def kind_of(least, most):
    """The type that QONNX has for whole numbers from `least` to `most`."""
    signed = least < 0
    bits = max(int(max(most, -least - 1)).bit_length() + signed, 1)
    return f"{'INT' if signed else 'UINT'}{bits}"


def thresholds_of(lowest, levels, step):
    """Thresholds [channels, levels - lowest] of a step D for each channel: z is whole, so whole numbers are enough."""
    odd = 2 * np.arange(lowest + 1, levels + 1) - 1
    return -(-odd * step[:, None] // 2)  # the next whole number from odd D / 2 on


class Multithreshold(Graph):
    """The QONNX graph of a program."""

    numbers, images = np.float32, 1

    def __init__(self, program):
        from onnx import TensorProto

        most = max(map(program.reach, program.nodes))
        if most >= HELD:
            raise InputError(f"sums reach {most}, and float32, which QONNX has, holds whole numbers up to {HELD}")
        super().__init__(program, TensorProto.FLOAT)
        self.bits: dict = {}  # {tensor: type}
        self._build()
        self.bits["pixels"] = kind_of(0, program.nodes[0]["most"])
        for name, (least, most) in program.spans.items():
            self.bits[f"value.{name}"] = kind_of(int(least.min()), int(most.max()))

    def model(self):
        """The whole model, with the types of its tensors."""
        from onnx import StringStringEntryProto, TensorAnnotation

        model = super().model()
        for name, bits in self.bits.items():
            kind = StringStringEntryProto(key="finn_datatype", value=bits)
            model.graph.quantization_annotation.append(
                TensorAnnotation(tensor_name=name, quant_parameter_tensor_names=[kind])
            )
        model.opset_import.append(self.helper.make_opsetid(DOMAIN, 1))
        return model

    def _typed(self, values):
        """A constant whose bits are said."""
        name = self._constant(values)
        self.bits[name] = kind_of(int(np.min(values)), int(np.max(values)))
        return name

    def _image(self, name, node, _):
        zero = node["zero"].reshape(-1, *(1,) * (len(node["shape"]) - 1))
        self._line("Sub", ["pixels", self._constant(zero)], f"value.{name}")

    def _neuron(self, name, node, inputs):
        if node["factor"].size not in (1, node["shape"][0]):
            raise InputError(f"thresholds of {name} differ within a channel, which has no form in QONNX")
        thresholds = thresholds_of(node["lowest"], node["levels"], node["factor"].reshape(-1))
        kind = kind_of(node["lowest"], node["levels"])
        self._line("MultiThreshold", [inputs[0], self._typed(thresholds)], f"value.{name}", domain=DOMAIN,
                   out_dtype=kind, out_bias=float(node["lowest"]))  # fmt: skip

    def _linear(self, name, node, inputs):
        on_one_axis(node, "QONNX")
        self._summing(name, node, inputs, "MatMul", node["weight"].T)

    def _conv2d(self, name, node, inputs):
        self._summing(name, node, inputs, "Conv", node["weight"], group=node["groups"], dilations=node["dilation"],
                      **sides(node))  # fmt: skip

    def _summing(self, name, node, inputs, operation, weight, **settings):
        total = self._line(operation, [inputs[0], self._typed(weight)], **settings)
        bias = node["bias"].reshape(-1, *(1,) * (len(node["shape"]) - 1))
        self._line("Add", [total, self._typed(bias)], f"value.{name}")

    def _sum_pool2d(self, name, node, inputs):
        channels = node["shape"][0]
        ones = self._typed(np.ones((channels, 1, *node["window"])))
        self._line("Conv", [inputs[0], ones], f"value.{name}", group=channels, **sides(node))

    def _max_pool2d(self, name, node, inputs):
        self._line("MaxPool", inputs, f"value.{name}", kernel_shape=node["window"], **sides(node))


def sides(node):
    """Strides and pads of a window."""
    return {"strides": node["stride"], "pads": [*node["padding"], *node["padding"]]}
