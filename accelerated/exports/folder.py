"""A network in whole numbers as a folder that needs none of the code that trained it, in the Hugging Face hub's layout.

    config.json         the nodes of a `Program`, without their arrays, and the data set
    model.safetensors   the arrays, "NODE.PART", in the narrowest whole numbers
    receipt.json        what was found with it, by digest: see `receipt`
    README.md           the same in words

Any exact schedule sends the quantised network's levels, so that one digest stands for all of them.
"""

import json
import operator
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from torch import fx, nn

import isospike

from ..activation import QCFS
from ..checks import InputError, first_line
from ..layers import SumPool2d
from ..network import put
from ..pixels import Pixels
from ..sums import held
from ..units import largest_step
from .weights import whole_file

FORM = "isospike-whole-1"
ARRAYS = ("weight", "bias", "factor", "index", "zero")
NARROW = (np.int8, np.int16, np.int32, np.int64)


def narrow(values):
    """Whole numbers in the narrowest type that holds them."""
    kind = next(kind for kind in NARROW if np.array_equal(values.astype(kind), values))
    return np.ascontiguousarray(values.astype(kind))


def plain(value):
    """A setting as JSON has it."""
    if isinstance(value, (tuple, list, np.ndarray)):
        return [plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def write_network(program, folder, data):
    """Write config.json and model.safetensors of a `Program` on a data set, {"name", "size", "classes"}."""
    arrays = {f"{node['name']}.{part}": narrow(node[part]) for node in program.nodes for part in ARRAYS if part in node}
    nodes = [{key: plain(value) for key, value in node.items() if key not in ARRAYS and key not in ("worths", "depth")}
             for node in program.nodes]  # fmt: skip
    config = {"form": FORM, "isospike": isospike.__version__, "data": data, "answer": program.answer,
              "unit": plain(program.unit), "nodes": nodes}  # fmt: skip
    folder = Path(folder)
    with whole_file(folder / "model.safetensors") as part:
        save_file(arrays, part)
    with whole_file(folder / "config.json") as part:
        part.write_text(json.dumps(config, indent=1) + "\n")


def _frozen(module, node):
    """A layer with its whole weights and biases."""
    for part in ("weight", "bias"):
        setattr(module, part, nn.Parameter(torch.from_numpy(node[part]).float(), requires_grad=False))
    return module


def _conv2d(node):
    out, into, *window = node["weight"].shape
    stride, padding, dilation = (tuple(node[key]) for key in ("stride", "padding", "dilation"))
    return _frozen(nn.Conv2d(into * node["groups"], out, window, stride, padding, dilation, node["groups"]), node)


def _pixels(node):
    mean, std = (torch.tensor(node[part]).reshape(-1, *(1,) * (len(node["shape"]) - 1)) for part in ("mean", "std"))
    return Pixels(mean.squeeze() if len(mean) == 1 else mean, std.squeeze() if len(std) == 1 else std, node["most"])


def _neuron(node):
    step = torch.from_numpy(node["factor"]).float()
    module = QCFS(tuple(step.shape), node["levels"], "raw", node["levels"] * step, lowest=node["lowest"])
    return module.requires_grad_(False)


def _windows(node):
    return tuple(tuple(node[key]) for key in ("window", "stride", "padding"))


MODULES = {
    "image": _pixels,
    "conv2d": _conv2d,
    "linear": lambda node: _frozen(nn.Linear(*node["weight"].shape[::-1]), node),
    "sum_pool2d": lambda node: SumPool2d(*_windows(node)),
    "max_pool2d": lambda node: nn.MaxPool2d(*_windows(node)),
    "neuron": _neuron,
}


class Graph:
    """A graph of modules from the nodes of a program; `network` is what `integers` would have given."""

    def __init__(self, nodes, answer, unit):
        self.root, self.graph, self.values = nn.Module(), fx.Graph(), {}
        self.shapes = {node["name"]: node["shape"] for node in nodes}
        self.constants: list = []
        self.image = self.graph.placeholder("image")
        for node in nodes:
            self.values[node["name"]] = self._value(node, [self.values[source] for source in node["inputs"]])
        unit = torch.tensor(unit, dtype=torch.float32)
        last = self._with(operator.truediv, self.values[answer], unit if len(unit) > 1 else unit[0])
        self.graph.output(last)
        self.network = fx.GraphModule(self.root, self.graph).eval()
        self.network.meta["isospike"] = True

    def _constant(self, value):
        name = f"constant_{len(self.constants)}"
        self.constants.append(name)
        self.root.register_buffer(name, value)
        return self.graph.get_attr(name)

    def _with(self, operation, value, constant):
        return self.graph.call_function(operation, (value, self._constant(constant)))

    def _value(self, node, inputs):
        name, op = node["name"], node["op"]
        if op == "add":
            return self.graph.call_function(operator.add, tuple(inputs))
        if op == "scale":
            return self._with(operator.mul, inputs[0], torch.from_numpy(node["factor"]).float())
        if op == "gather":
            many = sum(np.prod(self.shapes[source], dtype=int) for source in node["inputs"])
            return self._gathered(node["index"], tuple(node["shape"]), inputs, many)
        put(self.root, name, MODULES[op](node))
        value = self.graph.call_module(name, tuple(inputs or [self.image]))
        if op == "neuron":  # its level as a number
            return self._with(operator.truediv, value, torch.from_numpy(node["factor"]).float())
        return value

    def _gathered(self, index, shape, inputs, many):
        """Some of the `many` numbers of several values, in another order; a 0 stands before them for what is none."""
        call = self.graph.call_method
        rows = [call("flatten", (value, 1)) for value in inputs]
        row = rows[0] if len(rows) == 1 else self.graph.call_function(torch.cat, (rows, 1))
        if len(index) != many or (index != np.arange(many)).any():
            padded = self.graph.call_function(F.pad, (row, (1, 0)))
            row = call("index_select", (padded, 1, self._constant(torch.from_numpy(index + 1))))
        return row if len(shape) == 1 else call("unflatten", (row, 1, shape))


def read_config(folder):
    """config.json of such a folder; InputError for another."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text())
        form = config.get("form")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{folder} holds no network: there is no readable config.json") from error
    if form != FORM:
        raise InputError(f"{folder} holds no network of the form {FORM}, but {form!r}")
    return config


def checked_nodes(nodes):
    """The nodes, if they are those of a program; InputError names what is none. Names become attributes of a module."""
    known = []
    for node in nodes:
        name, op, inputs = str(node["name"]), node["op"], node["inputs"]
        parts, many = name.split("."), {"image": 0, "add": 2}.get(op, 1)
        taken = any(part.startswith("__") or hasattr(nn.Module(), part) for part in parts)
        safe = re.fullmatch(r"\w+(\.\w+)*", name) and not taken
        if not safe or name in known or name.startswith("constant_"):
            raise InputError(f"a node is called {name!r}")
        if op not in (*MODULES, "add", "scale", "gather") or (op == "image") != (not known):
            raise InputError(f"{name!r} is a {op!r} in place {len(known)}")
        if (len(inputs) < many if op == "gather" else len(inputs) != many) or not set(inputs) <= set(known):
            raise InputError(f"{name!r} reads {inputs!r}")
        if op == "add" and len(set(inputs)) < many:
            raise InputError(f"{name!r} adds {inputs[0]!r} to itself")
        if any(node[part].dtype.kind != "i" for part in ARRAYS if part in node):
            raise InputError(f"the arrays of {name!r} are not of whole numbers")
        steps, most = node.get("factor", np.zeros(1)), largest_step(node["levels"]) if op == "neuron" else 0
        if op == "neuron" and ((steps % 2).any() or steps.min() < 2 or steps.max() > most):
            raise InputError(f"the steps of {name!r} are not even numbers from 2 to {most}")
        known.append(name)
    return nodes


def read_network(folder: str | Path) -> fx.GraphModule:
    """The network in whole numbers of a folder, in evaluation mode; InputError for a damaged one."""
    config = read_config(folder)
    try:
        arrays = load_file(Path(folder) / "model.safetensors")
        nodes = [node | {part: arrays[key] for part in ARRAYS if (key := f"{node['name']}.{part}") in arrays}
                 for node in config["nodes"]]  # fmt: skip
        nodes = [{key: value.astype(np.int64) if key in ARRAYS else value for key, value in node.items()}
                 for node in checked_nodes(nodes)]  # fmt: skip
        network = Graph(nodes, config["answer"], config["unit"]).network
        held(network, torch.float32)
        return network
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{folder} holds a damaged network: {first_line(error)}") from error
