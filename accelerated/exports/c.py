"""A spiking network in whole numbers as one C99 file and its header: no floats, no allocation, no other library.

What is sent in a step is a change: of levels for neurons, of whole numbers for what lies between. A layer adds a row of
weights for each change that is not 0, straight into the membranes V that read it. A neuron fires +1 from 2 V >= u D on,
-1 below -u D, and sends u; a spike counts w levels:

    schedule              u    w    fires            constants (image, biases) arrive
    signed, halving       w    w    in every step    in step 0
    integrate-then-fire   1    1    in its phase     in step 0
    streaming             L    1    in every step    in every step

The first are `integer_step`; the others neurons less their first membrane, under integrate-then-fire divided by T.
"""

import re
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

import isospike

from ..checks import InputError
from .program import HELD, Program, in_8_bits, on_one_axis
from .weights import written

PER_LINE = 24
SIZES = {"int8_t": 1, "int16_t": 2, "int32_t": 4}


def c(network, path: str | Path, image, name: str = "network") -> Path:
    """Write a spiking network in whole numbers to `path`.c and `path`.h, and return the first.

    `network` is convert(integers(...), schedule), `image` [1, ...] one of its images, `name` the prefix of what the
    file defines. InputError names what has no form in C.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name):
        raise InputError(f"name must be small letters, digits and '_', beginning with a letter, got {name!r}")
    path = Path(path)
    source, header = Writer(Program(network, image), name, path.stem).files()
    for text, suffix in ((header, ".h"), (source, ".c")):
        written(path.with_suffix(suffix), lambda part, text=text: part.write_text(text))
    return path.with_suffix(".c")


def type_for(most):
    """The narrowest C type that holds -most..most."""
    for kind, size in SIZES.items():
        if most < 2 ** (8 * size - 1):
            return kind
    raise InputError(f"numbers reach {most}, and 32 bits hold {2**31 - 1}")


class Writer:
    """The two files of a program."""

    def __init__(self, program, name, stem):
        self.program, self.name, self.stem = program, name, stem
        self.nodes = {node["name"]: node for node in program.nodes}
        self.number = {key: i for i, key in enumerate(self.nodes)}
        self.tables, self.fields, self.lines, self.used = [], [], [], {}
        self.flash = self.ram = 0
        self.streams, self.waits = program.schedule.streams, program.schedule.waits
        self.most = max(map(program.reach, program.nodes))
        if self._most_steps() < program.steps_to_exact:
            raise InputError(f"32 bits hold {self._most_steps()} steps of sums up to {self.most}: choose fewer levels")
        self.buffers: dict = {}
        for key, node in self.nodes.items():
            if self._is_read(key):
                self.buffers[key] = self.buffers[node["inputs"][0]] if self._only_named(node) else self._buffer(node)
        for key, node in self.nodes.items():
            self._emit(key, node)
        self._field("answer", "int32_t", self._size(self.nodes[program.answer]), program.answer)
        self._accumulate(program.answer, "s->answer", "int32_t")

    # --- names and types

    def _size(self, node):
        return int(np.prod(node["shape"]))

    def _readers(self, key):
        return [node for node in self.nodes.values() if key in node["inputs"]]

    def _is_read(self, key):
        """Whether a value is held: unless one reader alone adds it to a sum, or it is the answer."""
        readers = self._readers(key)
        if self.nodes[key]["op"] in ("neuron", "image", "max_pool2d") or len(readers) > 1:
            return True
        return any(reader["op"] not in ("neuron", "add") for reader in readers)

    def _change(self, key):
        """How much a value can change at once."""
        least, most = self.program.spans[key]
        return int((most - least).max())

    def _only_named(self, node):
        """Whether a value is that of its source in another shape."""
        if node["op"] != "gather" or len(node["inputs"]) > 1:
            return False
        return np.array_equal(node["index"], np.arange(self._size(self.nodes[node["inputs"][0]])))

    def _field(self, field, kind, size, key):
        self.fields.append(f"    {kind} {field}[{size}]; /* {plain_name(key)} */")
        self.ram += SIZES[kind] * size
        return f"s->{field}", kind

    def _buffer(self, node):
        """(C expression, type) of a value's changes."""
        key = node["name"]
        grows = self.streams and node["op"] not in ("neuron", "image")  # totals of steps: a maximum can jump by them
        kind = "int32_t" if grows else type_for(self._change(key))
        return self._field(f"change{self.number[key]}", kind, self._size(node), key)

    def _table(self, name, values, kind):
        flat = np.asarray(values).reshape(-1)
        most = int(np.abs(flat).max(initial=0))
        if most >= 2 ** (8 * SIZES[kind] - 1):
            raise InputError(f"{name} reaches {most}, which {kind} does not hold")
        texts = [str(value) for value in flat]
        lines = [", ".join(texts[i : i + PER_LINE]) for i in range(0, len(texts), PER_LINE)]
        self.tables.append(f"static const {kind} {name}[{len(flat)}] = {{\n    " + ",\n    ".join(lines) + "};\n")
        self.flash += SIZES[kind] * len(flat)
        return name

    def _call(self, function, kinds, *arguments):
        """A line that calls a function of whole.c for these types."""
        self.used[f"{function.upper()}({', '.join(kinds)})"] = None
        return f"{function}_{'_'.join(kinds)}({', '.join(map(str, arguments))});"

    # --- what is computed

    def _emit(self, key, node):
        """The lines that compute the changes of a value that is held."""
        if key not in self.buffers or node["op"] == "image" or self._only_named(node):
            return
        change, kind = self.buffers[key]
        if node["op"] == "neuron":
            self._neuron(key, node, change, kind)
        elif node["op"] == "max_pool2d":
            self._maxima(key, node, change, kind)
        else:
            self.lines.append(f"memset({change}, 0, sizeof {change});")
            self._accumulate(key, change, kind)

    def _accumulate(self, key, out, kind):
        """The lines that add a value's changes to a sum."""
        node = self.nodes[key]
        if key in self.buffers and self.buffers[key][0] != out:
            change, own = self.buffers[key]
            self.lines.append(self._call("add", (own, kind), change, out, self._size(node)))
        elif node["op"] == "add":
            for source in node["inputs"]:
                self._accumulate(source, out, kind)
        else:
            getattr(self, f"_{node['op']}")(node, out, kind)

    def _source(self, node):
        (source,) = node["inputs"]
        return self.buffers[source]

    def _linear(self, node, out, kind):
        self._weights(node, out, kind, self._geometry(node, (1, 1), (1, 1), (0, 0)))

    def _conv2d(self, node, out, kind):
        window = node["weight"].shape[2:]
        geometry = self._geometry(node, window, node["stride"], node["padding"], node["dilation"], node["groups"])
        self._weights(node, out, kind, geometry)

    def _weights(self, node, out, kind, geometry):
        i, (small, gain) = self.number[node["name"]], in_8_bits(node)
        gains = self._table(f"gain{i}", gain, "int16_t") if (gain > 1).any() else "0"
        change, own = self._source(node)
        weights = self._table(f"weight{i}", small, "int8_t")
        self.lines.append(self._call("conv", (own, kind), change, out, weights, gains, f"&{geometry}"))
        if node["bias"].any():
            bias = self._table(f"bias{i}", node["bias"], "int32_t")
            each = self._size(node) // len(node["bias"])
            self.lines.append(f"if (due) {self._call('bias', (kind,), out, self._size(node), bias, each)}")

    def _sum_pool2d(self, node, out, kind):
        geometry = self._geometry(node, node["window"], node["stride"], node["padding"])
        change, own = self._source(node)
        self.lines.append(self._call("sum_pool", (own, kind), change, out, f"&{geometry}"))

    def _maxima(self, key, node, change, kind):
        geometry = self._geometry(node, node["window"], node["stride"], node["padding"])
        (source,), i = node["inputs"], self.number[key]
        kind_of_sums = "int32_t" if self.streams else type_for(self.program.reach(self.nodes[source]))
        total, _ = self._field(f"sum{i}", kind_of_sums, self._size(self.nodes[source]), f"the input of {key}")
        last, _ = self._field(f"maximum{i}", kind_of_sums, self._size(node), key)
        before, own = self.buffers[source]
        self.lines.append(
            self._call("max_pool", (own, kind_of_sums, kind), before, total, last, change, f"&{geometry}")
        )

    def _scale(self, node, out, kind):
        change, own = self._source(node)
        factors, each = self._spread(f"factor{self.number[node['name']]}", node)
        self.lines.append(self._call("scale", (own, kind), change, out, self._size(node), factors, each))

    def _gather(self, node, out, kind):
        table, first = self._table(f"from{self.number[node['name']]}", node["index"], "int32_t"), 0
        for source in node["inputs"]:
            change, own = self.buffers[source]
            many = self._size(self.nodes[source])
            if ((node["index"] >= first) & (node["index"] < first + many)).any():
                self.lines.append(self._call("gather", (own, kind), change, out, self._size(node), table, first, many))
            first += many

    def _spread(self, name, node, kind="int32_t"):
        """(table of a factor, how many numbers in a row have each)."""
        factor = node["factor"]
        return self._table(name, factor, kind), self._size(node) // factor.size

    def _geometry(self, node, window, stride, padding, dilation=(1, 1), groups=1):
        """The name of the geometry of a convolution or pooling; a linear layer is one on a single pixel."""
        before, after = (tuple(n["shape"]) for n in (self.nodes[node["inputs"][0]], node))
        if node["op"] == "linear":
            on_one_axis(node, "C")
        before, after = ((*shape, 1, 1) if len(shape) == 1 else shape for shape in (before, after))
        numbers = *before, *after, *window, *stride, *padding, *dilation, groups
        if len(numbers) != 15 or max(numbers) > 32767:
            raise InputError(f"{node['name']}: shapes {before} and {after} have no form in C")
        name = f"geometry{self.number[node['name']]}"
        self.tables.append(f"static const geometry {name} = {{{', '.join(map(str, numbers))}}};\n")
        self.flash += 30
        return name

    def _neuron(self, key, node, change, kind):
        i, size = self.number[key], self._size(node)
        sums = "int32_t" if self.streams else type_for(self.program.reach(node))
        counts = "int32_t" if self.streams else type_for(max(node["levels"], -node["lowest"]))
        membrane, _ = self._field(f"membrane{i}", sums, size, key)
        sent, _ = self._field(f"sent{i}", counts, size, key)
        self._accumulate(node["inputs"][0], membrane, sums)
        steps, each = self._spread(f"step{i}", node, "int16_t")
        given = membrane, sent, change, size, steps, each, *self._firing(node)
        line = f"fired += {self._call('fire', (sums, counts, kind), *given)}"
        if self.waits:
            phase = f"now / {self.program.levels} == {node['depth']}"
            self.lines += [f"if ({phase}) {line}", f"else memset({change}, 0, sizeof {change});"]
        else:
            self.lines.append(line)

    def _firing(self, node):
        """What a spike sends and counts, and the most and least levels sent, as C expressions of the step."""
        levels, lowest = node["levels"], node["lowest"]
        if self.streams:
            least = f"-(({-lowest} * (now + 1) + {levels - 1}) / {levels})" if lowest else "INT32_MAX"  # never -1
            return levels, 1, "now + 1", least
        if self.waits:
            return 1, 1, levels, lowest
        last = len(node["worths"]) - 1
        worths = self._table(f"worth{self.number[node['name']]}", node["worths"], "int16_t")
        worth = f"{worths}[now < {last} ? now : {last}]"
        return worth, worth, levels, lowest

    # --- the files

    def _most_steps(self):
        """The steps that 32 bits hold."""
        return HELD // (2 * self.most) - 1 if self.streams else 2**31 - 1

    def _coarse(self):
        """The first step whose silence says that the answer is there; beyond all of them where silence says nothing."""
        program = self.program
        return program.coarse if program.schedule.settles else program.steps_to_exact if self.waits else 2**31 - 1

    def files(self):
        """(source, header)."""
        program, image, answer = self.program, self.nodes["image"], self.nodes[self.program.answer]
        if image["most"] > 65535:
            raise InputError(f"pixels reach {image['most']}, and the C file reads them up to 65535")
        neurons = {key: node for key, node in self.nodes.items() if node["op"] == "neuron"}
        column = (-1, *(1,) * (len(image["shape"]) - 1))
        _, each = self._spread("zero", image | {"factor": image["zero"].reshape(column)}, "int16_t")
        arrived = [] if self.streams else ["if (due) memset(s->change0, 0, sizeof s->change0); /* the image */"]
        words = {
            "version": isospike.__version__, "schedule": program.schedule.name, "name": self.name, "stem": self.stem,
            "NAME": self.name.upper(), "tables": f"{self.flash:,}", "state": f"{self.ram + 4:,}",
            "times": " t" if self.streams else "", "after": ", after t steps" if self.streams else "",
            "widest": f"{max(map(program.reach, neurons.values())):,}",
            "layers": "\n".join(map(_listed, range(len(neurons)), neurons.values())),
            "pixels": self._size(image), "classes": self._size(answer), "many": len(neurons),
            "steps": program.steps_to_exact, "coarse": self._coarse(), "most_steps": self._most_steps(),
            "why": "T = L" if self.streams else "after so many, every answer is exact",
            "fields": "\n".join(self.fields), "shape": by(image["shape"]), "brightest": image["most"],
            "pixel": "uint8_t" if image["most"] < 256 else "uint16_t", "each": each,
            "due": "1" if self.streams else "now == 0",
            "changes": self.buffers["image"][1], "functions": template("whole.c"), "used": "\n".join(self.used),
            "data": "".join(self.tables), "body": "\n".join(f"    {line}" for line in [*self.lines, *arrived]),
            "sizes": ", ".join(str(self._size(node)) for node in neurons.values()),
            "cases": "\n".join(f"    case {k}: return s->sent{self.number[key]}[i];" for k, key in enumerate(neurons)),
        }  # fmt: skip
        source, header = (Template(template(name)).substitute(words) for name in ("network.c", "network.h"))
        return source, header


def template(name):
    """A file that comes with the package."""
    return resources.files(__package__).joinpath("templates", name).read_text()


def plain_name(name):
    """A name without what could end a comment."""
    return re.sub(r"[^\w. ]", "_", name)


def by(shape):
    return " x ".join(map(str, shape))


def _listed(number, node):
    return f"     {number:3} {plain_name(node['name'])}: {by(node['shape'])}, L = {node['levels']}"
