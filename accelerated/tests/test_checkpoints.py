"""Files in the layout of the published code of QCFS, SRP and COS, written down a second time, load and answer alike."""

import pickle
from typing import Any

import pytest
import torch
from torch import nn

import accelerated as acc
from accelerated.activation import QCFS
from accelerated.checks import InputError
from accelerated.exports.checkpoints import load_checkpoint

L = 4


class Quantised(nn.Module):
    """Their activation: one raw threshold, `up` in the older code and `thresh` in the newer one; L is not saved."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        setattr(self, name, nn.Parameter(torch.rand(1) + 0.5))

    def forward(self, x):
        theta = getattr(self, self.name)
        return theta * torch.clamp(torch.floor(x / theta * L + 0.5) / L, 0, 1)


def conv(into, out, size=3, stride=1, bias=False):
    """A convolution and a batch norm with statistics of its own, as modules in a row."""
    norm: Any = nn.BatchNorm2d(out)
    for part, low, high in ((norm.running_mean, -0.3, 0.3), (norm.running_var, 0.5, 2), (norm.weight, 0.5, 2)):
        nn.init.uniform_(part, low, high)
    return [nn.Conv2d(into, out, size, stride, size // 2, bias=bias), norm]


class Block(nn.Module):
    def __init__(self, into, out, stride, expansion, name):
        super().__init__()
        wide = out * expansion
        basic = [*conv(into, out, 3, stride), Quantised(name), *conv(out, wide)]
        narrow = [
            *conv(into, out, 1),
            Quantised(name),
            *conv(out, out, 3, stride),
            Quantised(name),
            *conv(out, wide, 1),
        ]
        self.residual_function = nn.Sequential(*(basic if expansion == 1 else narrow))
        self.shortcut = nn.Sequential(*(conv(into, wide, 1, stride) if stride > 1 or into != wide else []))
        self.relu = Quantised(name)

    def forward(self, x):
        return self.relu(self.residual_function(x) + self.shortcut(x))


class Residual(nn.Module):
    """Their ResNets: the same 3 x 3 stem at any size."""

    def __init__(self, counts, channels, expansion, classes, name):
        super().__init__()
        self.conv1, into = nn.Sequential(*conv(3, channels), Quantised(name)), channels
        for stage, count in enumerate(counts):
            blocks = []
            for i in range(count):
                out = channels * 2**stage
                blocks.append(Block(into, out, 2 if stage and not i else 1, expansion, name))
                into = out * expansion
            setattr(self, f"conv{stage + 2}_x", nn.Sequential(*blocks))
        self.stages, self.fc = len(counts), nn.Linear(into, classes)

    def forward(self, x):
        x = self.conv1(x)
        for stage in range(self.stages):
            x = getattr(self, f"conv{stage + 2}_x")(x)
        return self.fc(x.mean((2, 3)))


class Plain(nn.Module):
    """Their VGG-16: five layers of convolutions, each with an average pooling, and three linear layers."""

    def __init__(self, width, classes, name):
        super().__init__()
        into = 3
        for i, (count, channels) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))):
            layers = []
            for _ in range(count):
                out = round(channels * width)
                layers += [*conv(into, out, bias=True), Quantised(name), nn.Dropout(0)]
                into = out
            setattr(self, f"layer{i + 1}", nn.Sequential(*layers, nn.AvgPool2d(2)))
        hidden = round(4096 * width)
        first = [nn.Flatten(), nn.Linear(into, hidden), Quantised(name), nn.Dropout(0)]
        second = [nn.Linear(hidden, hidden), Quantised(name), nn.Dropout(0), nn.Linear(hidden, classes)]
        self.classifier = nn.Sequential(*first, *second)

    def forward(self, x):
        for i in range(5):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.classifier(x)


WIDTH = 0.125
THEIRS = {
    "resnet20": lambda name: Residual((3, 3, 3), 2, 1, 10, name),
    "resnet18": lambda name: Residual((2, 2, 2, 2), 8, 1, 100, name),
    "resnet34": lambda name: Residual((3, 4, 6, 3), 8, 1, 10, name),
    "resnet50": lambda name: Residual((3, 4, 6, 3), 8, 4, 10, name),
    "vgg16": lambda name: Plain(WIDTH, 10, name),
}


@pytest.mark.parametrize("activation", ["up", "thresh"])
@pytest.mark.parametrize("model", THEIRS)
def test_a_checkpoint_answers_as_the_published_network(model, activation, tmp_path):
    torch.manual_seed(0)
    theirs, x, shares = THEIRS[model](activation).eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64), []
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    ours = load_checkpoint(tmp_path / "net.pth", model, L, width=WIDTH).double()
    for module in ours.modules():
        if isinstance(module, QCFS):
            module.register_forward_hook(lambda _module, _inputs, out: shares.append((out != 0).double().mean()))
    with torch.no_grad():
        wanted, found = theirs.double()(x), ours(x)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12), "sums in another order differ by less"
    assert wanted.std() > 1e-3
    assert min(shares) > 0.02, "every layer sends something"
    acc.convert(acc.fold_batch_norms(ours), "signed")


def saved(path, what):
    torch.save(what, path)
    return path


def test_whatever_does_not_fit_is_one_line_that_names_it(tmp_path):
    """Nothing keeps its initial value: `load_state_dict(strict=False)` would do so in silence."""
    torch.manual_seed(0)
    path, state = tmp_path / "net.pth", THEIRS["resnet20"]("up").state_dict()
    names = list(state)
    plain = {name: value for name, value in state.items() if not name.endswith(".up")}
    cases = [
        (plain, "'conv2_x.0.residual_function.0.weight' has shape (2, 2, 3, 3), in the place of a threshold"),
        (
            {name: state[name] for name in names[1:]},
            "'conv1.1.weight' has shape (2,), in the place of a weight of shape (2",
        ),
        ({name: state[name] for name in names if not name.startswith("conv4_x.2")}, "in the place of"),
        ({name: state[name] for name in names[-1:]}, "in the place of"),
        ({}, "it does not end with the biases of a read-out"),
        ({"model": {"state_dict": 3}}, "holds no state dictionary"),
        ([1, 2], "holds no state dictionary"),
    ]
    for what, message in cases:
        with pytest.raises(InputError) as refused:
            load_checkpoint(saved(path, what), "resnet20", L, width=WIDTH)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=r"'conv2_x\.1\.[\w.]+' does not stand where the published code puts it"):
        load_checkpoint(saved(path, {name: state[name] for name in blocks_swapped(names)}), "resnet20", L, width=WIDTH)
    extra = {"aux.weight": torch.ones(3), **state}
    with pytest.raises(InputError, match=r"does not fit resnet20: 'aux\.weight' has shape"):
        load_checkpoint(saved(path, extra), "resnet20", L, width=WIDTH)
    with pytest.raises(InputError, match="unknown model 'cnn': choose from vgg16"):
        load_checkpoint(path, "cnn", L)
    with pytest.raises(InputError, match="levels must be"):
        load_checkpoint(path, "resnet20", 0)


def blocks_swapped(names):
    """The names with the last two blocks of the first stage, which have equal shapes, in the other order."""
    second, third = ([name for name in names if name.startswith(f"conv2_x.{i}.")] for i in (1, 2))
    start = names.index(second[0])
    return [*names[:start], *third, *second, *names[start + len(second) + len(third) :]]


WRONG = [
    ("conv1.0.weight", lambda value: value.to(torch.int8), "is no dense tensor of real numbers"),
    ("conv1.0.weight", lambda value: value.to(torch.complex64), "is no dense tensor of real numbers"),
    ("conv1.0.weight", lambda value: value.to_sparse(), "is no dense tensor of real numbers"),
    ("fc.weight", lambda value: value * float("nan"), "holds numbers that are not finite"),
    ("conv1.2.up", lambda value: value * 0, "holds 0, which no trained network has"),
    ("conv1.1.running_var", lambda value: -value, "which no trained network has"),
]


@pytest.mark.parametrize(("name", "change", "message"), WRONG)
def test_numbers_that_no_network_has_are_named(name, change, message, tmp_path):
    torch.manual_seed(0)
    state = THEIRS["resnet20"]("up").state_dict()
    with pytest.raises(InputError) as refused:
        load_checkpoint(saved(tmp_path / "net.pth", state | {name: change(state[name])}), "resnet20", L, width=WIDTH)
    assert repr(name) in str(refused.value)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_name_with_and_without_its_prefix_is_refused(tmp_path):
    torch.manual_seed(0)
    state = THEIRS["resnet20"]("up").state_dict()
    of_parallel = {f"module.{name}": value for name, value in state.items()}
    load_checkpoint(saved(tmp_path / "net.pth", of_parallel), "resnet20", L, width=WIDTH)
    with pytest.raises(InputError, match=r"holds 'fc\.weight' twice, with and without 'module\.'"):
        load_checkpoint(
            saved(tmp_path / "net.pth", of_parallel | {"fc.weight": state["fc.weight"]}), "resnet20", L, width=WIDTH
        )


def test_files_are_read_and_never_run(tmp_path):
    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    path = tmp_path / "net.pth"
    torch.save({"model": {}, "config": Touch()}, path)
    with pytest.raises(InputError, match="holds more than tensors, which is not read: save its state dictionary alone"):
        load_checkpoint(path, "resnet20", L)
    assert not (tmp_path / "touched").exists()
    path.write_bytes(pickle.dumps(Touch()))
    with pytest.raises(InputError, match="is not read"):
        load_checkpoint(path, "resnet20", L)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match="is not a readable checkpoint"):
        load_checkpoint(path, "resnet20", L)
    for text in (b"", b"\x80\x02", bytes(range(200))):
        path.write_bytes(text)
        with pytest.raises(InputError, match=r"is not (a readable checkpoint|read)"):
            load_checkpoint(path, "resnet20", L)
    with pytest.raises(InputError, match="is not a readable checkpoint"):
        load_checkpoint(tmp_path / "nowhere.pth", "resnet20", L)
    assert not (tmp_path / "touched").exists()
