"""Networks as ONNX, run by onnxruntime and qonnx: the package's levels and answers, at once and step by step."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import accelerated as acc
from accelerated import data as datasets
from accelerated import models, run
from accelerated.checks import InputError
from accelerated.exports.onnx import onnx
from accelerated.exports.onnx_floats import onnx_floats
from accelerated.exports.program import Program
from accelerated.exports.qonnx import qonnx, thresholds_of
from accelerated.runs import receipts

from .whole_numbers import images, random_networks

runtime = pytest.importorskip("onnxruntime", reason="somebody else's code runs the files: pip install onnx onnxruntime")
checker = pytest.importorskip("onnx", reason="ONNX files are written by the package onnx")


def opened(path):
    """A file that its checker accepts, in somebody else's interpreter."""
    checker.checker.check_model(str(path), full_check=True)
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def same_pass(network, x, path):
    """Assert that one pass gives the quantised network's levels and answers; the share of levels that are not 0."""
    spiking = acc.convert(network, "signed")
    session, program = opened(onnx(spiking, path, x[:1])), Program(spiking, x[:1])
    answer, *levels = session.run(None, {"pixels": receipts.pixels_of(network, x).numpy().astype(np.uint8)})
    result = acc.simulate(spiking, x, spiking.steps)
    assert (answer / program.unit == acc.answer(network, x).double().numpy()).all()
    names = [output.name.removeprefix("levels.") for output in session.get_outputs()[1:]]
    assert sorted(names) == sorted(result.counts)
    assert all((found == result.counts[name].numpy()).all() for name, found in zip(names, levels, strict=True))
    return min(float((found != 0).mean()) for found in levels)


def same_steps(network, x, path, schedule):
    """Assert that each step gives the package's answer after it, and the last one its levels."""
    spiking = acc.convert(network, schedule)
    session, program = opened(onnx(spiking, path, x[:1], step=True)), Program(spiking, x[:1])
    state = {value.name: np.zeros([len(x), *value.shape[1:]], np.int32) for value in session.get_inputs()[2:]}
    result, pixels = acc.simulate(spiking, x, spiking.steps), receipts.pixels_of(network, x).numpy().astype(np.uint8)
    worths = next(iter(spiking.layers.values())).worths
    for now in range(spiking.steps):
        worth = np.array(worths[min(now, len(worths) - 1)], np.int32)
        answer, *levels = session.run(None, {"pixels": pixels, "worth": worth, **state})
        state = dict(zip(state, levels, strict=True))
        assert (answer / program.unit == result.logits[now].double().numpy()).all(), now
    for name, found in state.items():
        assert (found == result.counts[name.removeprefix("sent.")].numpy()).all()


def test_digits_in_one_pass_and_step_by_step(tmp_path):
    """The whole test set."""
    network, data = acc.load("digits"), datasets.load("digits")
    assert same_pass(network, data.test_x, tmp_path / "pass.onnx") > 0.2
    for schedule in ("signed", "halving"):
        same_steps(network, data.test_x, tmp_path / f"{schedule}.onnx", schedule)


def test_every_operator(whole, tmp_path):
    """Groups, strides, slices, padding, joins, maxima, sums, factors: by operators on whole numbers but for maxima."""
    assert same_pass(whole, images(16), tmp_path / "pass.onnx") > 0.1
    same_steps(whole, images(16), tmp_path / "step.onnx", "halving")
    kinds = {node.op_type for node in checker.load(tmp_path / "pass.onnx").graph.node}
    assert {"ConvInteger", "MatMulInteger"} <= kinds
    assert not kinds & {"Conv", "MatMul", "Gemm", "Floor", "Round", "QuantizeLinear"}


@pytest.mark.parametrize(
    "seeds", [range(100), pytest.param(range(100, 3000), marks=[pytest.mark.long, pytest.mark.timeout(3000)])]
)
def test_random_networks(seeds, tmp_path, record_property):
    done = 0
    for seed, network, x, _ in random_networks(seeds):
        try:
            same_pass(network, x, tmp_path / f"{seed}.onnx")
            same_steps(network, x, tmp_path / f"{seed}s.onnx", ("signed", "halving")[seed % 2])
        except InputError as error:
            if "its first axis is not that of images" not in str(error):
                raise
            continue
        done += 1
    assert done >= 4
    record_property("seen", f"random networks by onnxruntime: {done} equal in every bit and step")


def test_what_has_no_form_is_named(tmp_path):
    network = acc.load("digits")
    with pytest.raises(InputError, match="a step is that of signed or halving, got 'streaming'"):
        onnx(acc.convert(network, "streaming"), tmp_path / "x.onnx", network.images[:1], step=True)
    with pytest.raises(InputError, match="cannot write"):
        onnx(acc.convert(network, "signed"), tmp_path / "nowhere" / "x.onnx", network.images[:1])
    with pytest.raises(InputError, match="has no QCFS activation: quantise"):
        onnx_floats(nn.Linear(3, 2), tmp_path / "x.onnx", torch.zeros(1, 3))
    assert not list(tmp_path.iterdir())


def test_the_network_of_the_package_by_command(tmp_path, capsys):
    for form in ("pass", "step"):
        out = tmp_path / "new" / f"{form}.onnx"
        assert run.main(["export", "onnx", "digits", "--out", str(out), "--form", form]) == 0
        assert f"written to {out}" in capsys.readouterr().out.replace("\n", "")
        assert opened(out).get_inputs()[0].name == "pixels"
    assert run.main(["export", "onnx", "digits", "--out", str(tmp_path / "x.onnx"), "--form", "floats"]) == 2
    assert "in whole numbers: choose form pass, step or qonnx" in capsys.readouterr().err
    assert run.main(["export", "onnx", "nowhere", "--out", str(tmp_path / "x.onnx")]) == 2
    assert "nowhere holds no run" in capsys.readouterr().err


def test_bytes_and_large_weights_are_not_saturated(tmp_path):
    """Linear layers on 0..255: pairs of products leave 16 bits, which some machines would cut off."""
    torch.manual_seed(0)
    first = nn.Linear(64, 8)
    first.weight.data = torch.tensor([1.0, -1.0]).repeat_interleave(32).repeat(8, 1)  # sums are small, pairs are not
    network = nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randint(200, 256, (16, 1, 8, 8)) / 255
    whole = acc.integers(acc.quantise(network, "cs-qcfs", 8, sample=x), x)
    assert Program(acc.convert(whole, "signed"), x[:1]).nodes[2]["weight"].max() > 100
    assert same_pass(whole, x, tmp_path / "x.onnx") > 0.2


def test_a_step_has_one_worth(tmp_path):
    network = acc.load("digits")
    with pytest.raises(InputError, match="a step has one worth for all layers"):
        onnx(acc.convert(network, acc.halving((4, 2, 1), 2)), tmp_path / "x.onnx", network.images[:1], step=True)


def test_the_unit_is_exact(tmp_path):
    network = acc.load("digits")
    path = onnx(acc.convert(network, "signed"), tmp_path / "x.onnx", network.images[:1])
    (unit,) = (entry.value for entry in checker.load(path).metadata_props if entry.key == "unit")
    assert float(unit) == Program(acc.convert(network, "signed"), network.images[:1]).unit.item()


def same_thresholds(network, x, path):
    """Assert that qonnx's own executor gives the package's answers and levels."""
    executor = pytest.importorskip("qonnx.core.onnx_exec", reason="its MultiThreshold: pip install qonnx")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes

    spiking = acc.convert(network, "signed")
    program, model = Program(spiking, x[:1]), ModelWrapper(str(qonnx(spiking, path, x[:1]))).transform(InferShapes())
    levels = acc.simulate(spiking, x, spiking.steps).counts
    answers, shares = acc.answer(network, x).double().numpy(), []
    for row, pixels in enumerate(receipts.pixels_of(network, x).numpy().astype(np.float32)):
        found = executor.execute_onnx(model, {"pixels": pixels[None]}, return_full_exec_context=True)
        assert (found["answer"] / program.unit == answers[row]).all(), row
        for name, counts in levels.items():
            assert (found[f"value.{name}"][0] == counts[row].numpy()).all(), (row, name)
            shares.append(float((counts[row] != 0).float().mean()))
    types = {node["name"]: str(model.get_tensor_datatype(f"value.{node['name']}")) for node in program.nodes}
    assert {types[name] for name in levels} == {"UINT4"}
    return np.mean(shares)


def test_multithreshold_by_its_own_executor(whole, tmp_path):
    digits, data = acc.load("digits"), datasets.load("digits")
    assert same_thresholds(digits, data.test_x[:40], tmp_path / "digits.onnx") > 0.2
    assert same_thresholds(whole, images(8), tmp_path / "mixed.onnx") > 0.2


def test_thresholds_below_zero_and_odd_steps():
    """MultiThreshold's thresholds are level(z)'s, at every whole z, with levels below zero and odd steps too."""
    for lowest, levels, step in itertools.product((0, -1, -4), (1, 4, 8), (1, 2, 3, 10, 37)):
        z = np.arange(-400, 400)
        thresholds = thresholds_of(lowest, levels, np.array([step]))
        found = lowest + (z[:, None] >= thresholds).sum(1)
        assert (found == np.clip(np.floor(z / step + 0.5), lowest, levels)).all(), (lowest, levels, step)


def test_floats_are_near(tmp_path, record_property):
    """PyTorch's exporter: in floats, sums in another order put values at the edge of a level one level away."""
    near, labels = floats_near("cnn", datasets.load("digits").test_x, tmp_path / "floats.onnx")
    assert near > 0.9
    assert labels > 0.99
    record_property("seen", f"floats by onnxruntime: {near:.1%} of images within 1e-5 of the largest logit")


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["resnet20", "vit_tiny", "swin_tiny"])
def test_floats_of_larger_networks(name, tmp_path, record_property):
    """Of random weights, whose logits are close together."""
    x = nn.functional.interpolate(datasets.load("digits").test_x[:64], size=(32, 32))
    near, labels = floats_near(name, x, tmp_path / "floats.onnx")
    assert labels > 0.9
    record_property("seen", f"{name}: {near:.1%} of images within 1e-5 of the largest logit, labels {labels:.1%}")


def floats_near(name, x, path):
    """(share of images whose logits are the network's up to rounding: no level differs; share of equal labels)."""
    torch.manual_seed(0)
    network = models.make(name, tuple(x.shape[1:]), 10, 0.5).eval()
    network = acc.quantise(network, "cs-qcfs", 8, sample=x[:64]).eval()
    session = runtime.InferenceSession(str(onnx_floats(network, path, x[:1])))
    (found,) = session.run(None, {"image": x.numpy()})
    wanted = acc.answer(network, x).numpy()
    near = np.abs(found - wanted).max(1) <= 1e-5 * np.abs(wanted).max()
    return near.mean(), (found.argmax(1) == wanted.argmax(1)).mean()


def test_sums_beyond_float32_are_refused(tmp_path):
    network = acc.load("digits")
    spiking = acc.convert(network, "signed")
    with torch.no_grad():
        spiking.graph.fc.bias += 2**24
    with pytest.raises(InputError, match="float32, which QONNX has, holds whole numbers up to 16777216"):
        qonnx(spiking, tmp_path / "x.onnx", network.images[:1])


def test_tokens_have_no_form_in_exports_and_are_named(tmp_path):
    """A linear layer on tokens: as many as features, and not."""
    torch.manual_seed(0)
    x = torch.randint(0, 256, (8, 1, 8, 8)) / 255
    for features in (4, 6):
        layers = nn.Conv2d(1, features, 4, 4), nn.ReLU(), Tokens(), nn.Linear(features, features), nn.ReLU()
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * features, 3)).eval()
        whole = acc.integers(acc.quantise(network, "s-qcfs", 8, sample=x), x)
        spiking = acc.convert(whole, "signed")
        for write in (onnx, qonnx):
            with pytest.raises(InputError, match="acts on 2 axes, which has no form in"):
                write(spiking, tmp_path / "x.onnx", x[:1])
    assert not list(tmp_path.iterdir())


class Tokens(nn.Module):
    """Places as tokens."""

    def forward(self, x):
        return x.flatten(2).transpose(1, 2)
