"""Networks in C: compiled as a stranger would, they send the package's spikes, step by step and bit for bit."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accelerated as acc
from accelerated import data as datasets
from accelerated import run
from accelerated.checks import InputError
from accelerated.exports.c import c
from accelerated.exports.folder import read_network, write_network
from accelerated.exports.program import Program, span
from accelerated.models import make
from accelerated.runs import receipts

from .whole_numbers import MEAN, STD, images, random_networks


def call(*arguments):
    return run.main([*map(str, arguments)])


SCHEDULES = ("streaming", "integrate-then-fire", "signed", "halving")
COMMANDS = {name: [name] for name in ("gcc", "clang") if shutil.which(name)}
if "clang" not in COMMANDS and importlib.util.find_spec("ziglang"):
    COMMANDS["clang"] = [sys.executable, "-m", "ziglang", "cc"]
COMPILERS = [*COMMANDS]
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")
RUN = """
#include <stdio.h>
#include <stdlib.h>

#include "{stem}.h"

static void put(int32_t value) {{ fwrite(&value, sizeof value, 1, stdout); }}

/* Images from the standard input; of each the spikes of all steps, levels of all neurons, answers and the class. */
int main(int count, char **arguments) {{
    static {name}_state s;
    static uint8_t image[{upper}_PIXELS];
    const int32_t steps = count > 1 ? atoi(arguments[1]) : 0;
    while (fread(image, sizeof image, 1, stdin) == 1) {{
        {name}_reset(&s, image);
        for (int32_t t = 0; t < steps; t++) put({name}_step(&s));
        for (int32_t k = 0; k < {upper}_LAYERS; k++)
            for (int32_t i = 0; i < {name}_size(k); i++) put({name}_sent(&s, k, i));
        for (int32_t i = 0; i < {upper}_CLASSES; i++) put(s.answer[i]);
        put({name}_answer(&s));
    }}
    return 0;
}}
"""


def compiled(path, compiler, name, flags):
    """The program of a C file and a loop over images; every warning is an error."""
    loop, program = path.with_name(f"{path.stem}_loop.c"), path.with_name(f"{path.stem}_{compiler}")
    loop.write_text(RUN.format(stem=path.stem, name=name, upper=name.upper()))
    command = [*COMMANDS[compiler], *STRICT, *flags, str(path), str(loop), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def ran(program, pixels, steps, classes):
    """(spikes of each step, levels of all neurons, answers, classes) of whole pixels [images, ...]."""
    given = np.ascontiguousarray(pixels.reshape(len(pixels), -1), np.uint8).tobytes()
    done = subprocess.run([str(program), str(steps)], input=given, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    rows = np.frombuffer(done.stdout, np.int32).reshape(len(pixels), -1)
    return rows[:, :steps], rows[:, steps : -classes - 1], rows[:, -classes - 1 : -1], rows[:, -1]


def compared(network, x, folder, compiler, flags=()):
    """Assert that the C file of a spiking network sends and answers what the package does; the share of levels."""
    name = network.schedule.name.replace("-", "_")
    program = compiled(c(network, folder / f"{name}.c", x[:1], name), compiler, name, flags)
    steps = network.phases * network.steps
    result = acc.simulate(network, x, network.steps)
    pixels = receipts.pixels_of(network.graph, x).numpy()
    fired, sent, answers, best = ran(program, pixels, steps, result.logits.shape[-1])
    wanted = np.concatenate([count.flatten(1).numpy() for count in result.counts.values()], 1)
    assert (sent == wanted).all(), "levels of every neuron"
    emitted = sum(emitted.flatten(1).sum(1) for emitted in result.emitted.values())
    assert (fired.sum(1) == emitted.numpy()).all(), "spikes of either sign"
    logits = answers / Program(network, x[:1]).unit / (steps if network.schedule.streams else 1)
    assert (logits.astype(np.float32) == result.logits[-1].numpy()).all(), "answers in every bit"
    assert (best == result.logits[-1].argmax(1).numpy()).all()
    return (wanted != 0).mean()


@pytest.fixture(scope="module")
def digits():
    """(a network of digits in whole numbers, its test images, their pixels); not trained: levels are what counts."""
    torch.manual_seed(0)
    data = datasets.load("digits")
    quantised = acc.quantise(make("cnn", (1, 8, 8), 10, 0.5).eval(), "cs-qcfs", 8, sample=data.train_x[:64])
    whole = acc.integers(quantised, data.train_x[:64], 8, data.mean, data.std, data.most)
    return whole, data.test_x, (data.test_x * data.most).round().numpy()


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler: nothing can be compiled")
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_digits_in_c_send_the_packages_spikes(compiler, schedule, digits, tmp_path):
    whole, x, _ = digits
    assert compared(acc.convert(whole, schedule), x, tmp_path, compiler) > 0.2


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler: nothing can be compiled")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_operator_in_c(schedule, whole, tmp_path):
    """Groups, strides, slices, padding, joins, maxima, sums, factors; whatever C does not define ends the program."""
    x = images(32)
    flags = "-fsanitize=undefined,address", "-fno-sanitize-recover"
    assert compared(acc.convert(whole, schedule), x, tmp_path, COMPILERS[0], flags) > 0.2


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler: nothing can be compiled")
@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed", "halving"])
def test_the_main_loop_of_the_docs_stops_early_and_is_right(schedule, digits, tmp_path):
    """It is compiled as it stands there; it takes as many steps as the slowest image needs, not the bound."""
    whole, x, pixels = digits
    (loop,) = re.findall("```c\n(.*?)```", (Path(__file__).parents[2] / "docs" / "exports.md").read_text(), re.S)
    network = acc.convert(whole, schedule)
    c(network, tmp_path / "network.c", x[:1])
    main = """
#include <stdio.h>
int main(void) {
    static uint8_t image[NETWORK_PIXELS];
    while (fread(image, sizeof image, 1, stdin) == 1) {
        const int32_t found[2] = {classify(image), state.now};
        fwrite(found, sizeof found, 1, stdout);
    }
    return 0;
}
"""
    (tmp_path / "main.c").write_text(loop + main)
    files = [str(tmp_path / name) for name in ("network.c", "main.c")]
    subprocess.run([COMPILERS[0], *STRICT, *files, "-o", str(tmp_path / "main")], check=True)
    given = np.ascontiguousarray(pixels.reshape(len(pixels), -1), np.uint8).tobytes()
    out = subprocess.run([str(tmp_path / "main")], input=given, capture_output=True, check=True).stdout
    classes, steps = np.frombuffer(out, np.int32).reshape(-1, 2).T
    result = acc.simulate(network, x, network.steps)
    assert (classes == result.logits[-1].argmax(1).numpy()).all()
    settled = result.settled_at
    wanted = network.phases * network.steps if settled is None else np.maximum(settled.numpy(), network.coarse) + 1
    assert (steps == wanted).all()


class Steep(nn.Module):
    """A skip that is small beside its layer: the weights of that layer need a finer unit than 8 bits have."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.steep, self.read = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)
        self.steep.weight.data *= 100

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.read(F.relu(x + self.steep(x)).mean((2, 3)))


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler: nothing can be compiled")
def test_weights_beyond_8_bits_are_8_bits_and_a_gain(tmp_path):
    x = images(32)
    quantised = acc.quantise(Steep().eval(), "c-qcfs", 8, sample=x)
    network = acc.convert(acc.integers(quantised, x, 8, MEAN, STD), "signed")
    assert network.graph.steep.weight.abs().max() > 127
    assert compared(network, x, tmp_path, COMPILERS[0]) > 0.2


def test_the_spans_that_choose_types_are_attained(digits):
    """Both ends of the first layer's sums, by images made for them; a membrane is also less what was sent."""
    whole, x, _ = digits
    program = Program(acc.convert(whole, "signed"), x[:1])
    image, node, neuron = program.nodes[:3]
    assert (image["op"], node["op"], neuron["op"]) == ("image", "conv2d", "neuron")
    least, most = program.spans[node["name"]]
    for channel, weight in enumerate(torch.from_numpy(node["weight"]).double()):
        bias = float(node["bias"][channel])
        for end, bright, constant in ((most, weight > 0, max(bias, 0)), (least, weight < 0, min(bias, 0))):
            pixels = torch.zeros(1, 1, 8, 8).double()
            pixels[:, :, 3:6, 2:5] = image["most"] * bright
            assert end[0, channel, 4, 3] == F.conv2d(pixels, weight[None], padding=1)[0, 0, 4, 3] + constant
    step = torch.from_numpy(neuron["factor"])
    reach = torch.maximum(most, (least - 8 * step).abs()).max()
    assert program.reach(neuron) == reach


def test_spans_of_every_other_operator():
    ends = torch.tensor([[[[-1.0, -2], [0, -3]]]]).double(), torch.tensor([[[[4.0, 5], [6, 7]]]]).double()
    windows = {"window": (2, 2), "stride": (2, 2), "padding": (0, 0)}
    for node, least, most in (
        ({"op": "sum_pool2d", **windows}, [-6], [22]),
        ({"op": "max_pool2d", **windows}, [0], [7]),
        ({"op": "scale", "factor": np.array([[[2]]])}, [-2, -4, 0, -6], [8, 10, 12, 14]),
        ({"op": "scale", "factor": np.array([[[-1]]])}, [-4, -5, -6, -7], [1, 2, 0, 3]),
        ({"op": "gather", "index": np.array([3, -1, 0]), "shape": (3,)}, [-3, 0, -1], [7, 0, 4]),
        ({"op": "linear", "weight": np.array([[1, -1]]), "bias": np.array([-5]), "shape": (1, 2, 1)}, [-11, -5 - 7],
         [6, 9]),
    ):  # fmt: skip
        found = span(node, [ends])
        assert [end.flatten().tolist() for end in found] == [least, most], node["op"]
    assert [end.flatten().tolist() for end in span({"op": "add"}, [ends, ends])] == [[-2, -4, 0, -6], [8, 10, 12, 14]]


def test_what_has_no_form_in_c_is_named(digits, tmp_path):
    whole, x, _ = digits
    quantised = acc.quantise(make("mlp", (1, 8, 8), 10).eval(), levels=4)
    for network in (whole, acc.convert(quantised, "signed")):
        with pytest.raises(InputError, match="a spiking network in whole numbers is exported"):
            c(network, tmp_path / "n.c", x[:1])
    with pytest.raises(InputError, match=r"name must be small letters, digits and '_', .*, got 'a b'"):
        c(acc.convert(whole, "signed"), tmp_path / "n.c", x[:1], "a b")
    with pytest.raises(InputError, match="cannot write"):
        c(acc.convert(whole, "signed"), tmp_path / "nowhere" / "n.c", x[:1])
    assert not list(tmp_path.iterdir())


def test_a_run_is_exported_by_command(tmp_path, capsys):
    """A run of real numbers is put into whole ones first; the file of a run in whole numbers is that of its network."""
    short = ["--model", "mlp", "--width", 0.1, "--levels", 4, "--epochs", 1, 1, 1, "--times", 1, "--test-images", 8,
             "--schedules", "streaming", "--out", tmp_path]  # fmt: skip
    for bits in (0, 4):
        name = f"bits{bits}"
        assert call(*short, "--bits", bits, "--name", name) == 0
        more = ["--schedule", "signed", "--bits", 4, "--name", name, "--out", tmp_path / "c"]
        assert call("export", "c", tmp_path / name, *more) == 0
        assert f"written to {tmp_path / 'c' / name}.c" in capsys.readouterr().out.replace("\n", "")
    files = [(tmp_path / "c" / f"bits{bits}.c").read_text() for bits in (0, 4)]
    assert files[0] == files[1].replace("bits4", "bits0").replace("BITS4", "BITS0"), "the same training and rounding"
    network = acc.load(tmp_path / "bits4")
    c(acc.convert(network, "signed"), tmp_path / "bits4.c", network.images[:1], "bits4")
    assert (tmp_path / "bits4.c").read_text() == files[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["c"], "export needs what to write and the folder of a run: python -m accelerated.run export c RUN"),
        (["cobol", "runs/x"], "unknown export 'cobol': choose from c, folder, nir, onnx, page"),
        (["c", "nowhere"], "nowhere holds no run"),
        (["c", "nowhere", "--schedule", "fast"], "unknown schedule 'fast'"),
        (
            ["c", "nowhere", "--schedule", "signed", "--worths", "4,2,1"],
            "worths are for schedule halving, got 'signed'",
        ),
    ],
)
def test_bad_options_are_one_line(arguments, message, capsys):
    assert call("export", *arguments) == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1
    assert message in err


class Paths(nn.Module):
    """Maxima that a sum reads, a layer that two sums read, a value that is moved to a layer and to a sum."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.same, self.maxima = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.MaxPool2d(3, 1, 1)
        self.read = nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = self.same(x)
        z = F.relu(y + self.maxima(x))
        z = F.relu(z.flip(3) + y)
        return self.read(z.mean((2, 3)))


class Named(nn.Module):
    """A module called as a function of torch is, names that end a comment of C, maxima of sums that turn negative."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.cat, self.maxima = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 4, 1), nn.MaxPool2d(2)
        self.read = nn.Linear(4, 3)
        self.add_module("a*/b", nn.ReLU())

    def forward(self, x):
        x = getattr(self, "a*/b")(self.stem(x))
        x = F.relu(self.cat(torch.cat([x, x.flip(3)], 1)))
        return self.read(self.maxima(x).mean((2, 3)))


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler: nothing can be compiled")
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", [Paths, Named])
def test_values_that_several_read_and_names_that_meet(kind, schedule, tmp_path):
    x = images(16)
    quantised = acc.quantise(kind().eval(), "cs-qcfs", 4, sample=x)
    network = acc.convert(acc.integers(quantised, x, 6, MEAN, STD), schedule)
    assert compared(network, x, tmp_path, COMPILERS[0]) > 0.2


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler: nothing can be compiled")
@pytest.mark.parametrize(
    "seeds", [range(100), pytest.param(range(100, 3000), marks=[pytest.mark.long, pytest.mark.timeout(3000)])]
)
def test_random_networks_in_c_and_from_a_folder(seeds, tmp_path, record_property):
    """Whatever operators a network is made of, it has its bits in both, or is refused by name."""
    done, refused = 0, 0
    for seed, network, x, _ in random_networks(seeds):
        folder = tmp_path / str(seed)
        folder.mkdir()
        spiking = acc.convert(network, SCHEDULES[seed % 4])
        try:
            compared(spiking, x, folder, COMPILERS[0])
        except InputError as error:
            if "its first axis is not that of images" not in str(error):
                raise
            refused += 1
            continue
        write_network(Program(spiking, x[:1]), folder, {"name": "none"})
        assert torch.equal(read_network(folder)(x), network(x)), f"seed {seed}"
        done += 1
    assert done > 5 * refused
    record_property("seen", f"random networks in C and from folders: {done} equal in every bit, {refused} refused")


def test_calibrated_networks_and_operators_per_step_are_refused(digits, tmp_path):
    whole, x, _ = digits
    for network in (
        acc.calibrate(acc.convert(whole, "streaming"), x[:4], "srp", 2),
        acc.convert(whole, "streaming", "per-step"),
    ):
        with pytest.raises(InputError, match="a calibrated network, or one with operators per step, has no form"):
            c(network, tmp_path / "n.c", x[:1])


def test_maxima_of_a_function_are_not_taken_for_a_permutation(tmp_path):
    class Maxima(Named):
        def forward(self, x):
            return self.read(F.max_pool2d(F.relu(self.stem(x)), 4).mean((2, 3)))

    x = images(8)
    network = acc.integers(acc.quantise(Maxima().eval(), "cs-qcfs", 4, sample=x), x, 8, MEAN, STD)
    with pytest.raises(InputError, match=r"max_pool2d.* has no form in exports"):
        c(acc.convert(network, "signed"), tmp_path / "n.c", x[:1])
