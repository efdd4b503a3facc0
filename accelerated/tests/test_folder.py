"""Networks in whole numbers as folders: they come back with every bit, and a receipt that a stranger can check."""

import json
import shutil

import pytest
import torch
from safetensors.numpy import load_file, save_file

import accelerated as acc
from accelerated import data as datasets
from accelerated import run
from accelerated.checks import InputError
from accelerated.exports.folder import read_network, write_network
from accelerated.exports.program import Program
from accelerated.runs import receipts, saved

from .whole_numbers import images

DIGITS = saved.WITH_US / "digits"


def call(*arguments):
    return run.main([*map(str, arguments)])


@pytest.fixture
def copy(tmp_path):
    """A copy of the network that comes with the package."""
    return shutil.copytree(DIGITS, tmp_path / "digits")


def test_every_operator_comes_back(whole, tmp_path):
    """The same levels, answers and names of layers on every schedule."""
    x = images(16)
    write_network(Program(acc.convert(whole, "signed"), x[:1]), tmp_path, {"name": "none"})
    again = read_network(tmp_path)
    assert torch.equal(again(x), whole(x))
    for schedule in ("streaming", "integrate-then-fire", "signed", "halving"):
        ours, theirs = (acc.convert(network, schedule) for network in (again, whole))
        results = [acc.simulate(network, x, network.steps) for network in (ours, theirs)]
        assert torch.equal(results[0].logits, results[1].logits)
        assert list(results[0].counts) == list(results[1].counts)
        assert all(map(torch.equal, *(result.counts.values() for result in results)))
        assert min(results[0].nonzero_share.values()) > 0.05


def test_digits_come_with_the_package_and_their_receipt_holds(capsys):
    network = acc.load("digits")
    spiking = acc.convert(network, "halving")
    result = acc.simulate(spiking, network.images, spiking.steps)
    assert torch.equal(result.logits[-1], network(network.images))
    assert (result.logits[-1].argmax(1) == network.labels).float().mean() > 0.97
    assert sum(file.stat().st_size for file in DIGITS.iterdir()) < 100_000
    assert call("verify", "digits") == 0
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines()] == ["integrate-then-fire", "signed", "halving"]
    assert out.count("every level and answer as claimed") == 3
    assert "dirty" not in (DIGITS / "receipt.json").read_text(), "its commit is one that others have"


def test_one_weight_is_enough_to_be_found(copy, capsys):
    arrays = load_file(copy / "model.safetensors")
    name = next(name for name in arrays if name.startswith("block2.conv1") and name.endswith("weight"))
    arrays[name] = arrays[name].copy()
    arrays[name].flat[5] += 40
    save_file(arrays, copy / "model.safetensors")
    assert call("verify", copy) == 2
    said = capsys.readouterr()
    assert "signed: answers_sha256" in said.out
    assert "levels of block2.relu1" in said.out.replace("\n", " ")
    assert "levels of block1.relu2" not in said.out, "what comes before is as claimed"
    assert f"3 of 3 schedules do not give what {copy} claims" in said.err.replace("\n", " ")


def test_a_run_is_exported_with_its_receipt(tmp_path, capsys):
    short = ["--model", "mlp", "--width", 0.1, "--levels", 4, "--epochs", 1, 1, 1, "--times", 1, "--test-images", 8,
             "--schedules", "streaming", "--out", tmp_path, "--name", "run", "--bits", 6]  # fmt: skip
    assert call(*short) == 0
    assert call("export", "folder", tmp_path / "run") == 0
    folder = tmp_path / "run" / "network"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "receipt.json", "README.md"}
    assert str(tmp_path) not in "".join((folder / name).read_text() for name in ("config.json", "receipt.json"))
    ours, theirs = acc.load(folder), acc.load(tmp_path / "run")
    assert torch.equal(ours(ours.images), theirs(ours.images))
    assert call("verify", folder) == 0
    assert call("export", "folder", tmp_path / "run") == 2
    assert f"{folder} is there already: choose another --out" in capsys.readouterr().err.replace("\n", " ")


def test_a_network_that_does_not_come_back_leaves_nothing(tmp_path, monkeypatch):
    def ill(*_):
        raise InputError("not the same")

    monkeypatch.setattr(receipts, "same_again", ill)
    about = {"name": "digits", "size": 0, "model": "cnn", "trained": {}}
    with pytest.raises(InputError, match="not the same"):
        receipts.write_folder(acc.load("digits"), datasets.load("digits"), tmp_path / "x", about)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda text: "{", "holds no network: there is no readable config.json"),
        (
            "config.json",
            lambda text: text.replace("isospike-whole-1", "other"),
            "no network of the form isospike-whole",
        ),
        ("config.json", lambda text: text.replace('"op": "conv2d"', '"op": "conv3d"'), "holds a damaged network"),
        ("receipt.json", lambda text: "[]", "has no readable receipt.json"),
    ],
)
def test_a_damaged_folder_is_named(copy, file, change, message, capsys):
    (copy / file).write_text(change((copy / file).read_text()))
    assert call("verify", copy) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert message in err


def test_weights_that_are_cut_off_are_named(copy):
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(InputError, match="holds a damaged network"):
        acc.load(copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify"], "verify needs one folder"),
        (["verify", "nowhere"], "nowhere holds no network"),
        (["export", "folder"], "export needs what to write and the folder of a run"),
        (["export", "folder", "nowhere"], "nowhere holds no run"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert call(*arguments) == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1
    assert message in err


def test_the_receipt_is_of_the_network(copy):
    claimed = json.loads((copy / "receipt.json").read_text())
    assert set(claimed["levels_sha256"]) == set(acc.convert(acc.load(copy), "signed").layers)
    assert claimed["nonzero"] > 0.2


def rewritten(folder, file, change):
    value = json.loads((folder / file).read_text())
    change(value)
    (folder / file).write_text(json.dumps(value))


@pytest.mark.parametrize("name", ["__class__.eval", "forward", "a*/b", "constant_0", "a..b"])
def test_a_name_cannot_reach_beyond_the_network(name, copy):
    """Names become attributes of modules, and stand in comments of C."""

    def change(config):
        config["nodes"][1]["name"] = name
        config["nodes"][2]["inputs"] = [name]

    rewritten(copy, "config.json", change)
    before = torch.nn.Module.eval
    with pytest.raises(InputError, match="holds a damaged network: a node is called"):
        acc.load(copy)
    assert torch.nn.Module.eval is before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["nodes"].pop(0), "is a 'conv2d' in place 0"),
        (lambda config: config["nodes"].append(config["nodes"][-1]), "a node is called 'fc'"),
        (lambda config: config["nodes"][1].update(inputs=[]), "'conv' reads"),
        (lambda config: config["nodes"][1].update(inputs=["fc"]), "'conv' reads"),
        (
            lambda config: [n.update(inputs=[n["inputs"][0]] * 2) for n in config["nodes"] if n["op"] == "add"],
            "to itself",
        ),
        (lambda config: config.update(unit=[]), "damaged network"),
        (lambda config: config["nodes"][2].update(levels=5000), "5000 levels have no form"),
        (lambda config: config.pop("answer"), "damaged network"),
    ],
)
def test_nodes_that_are_no_network_are_named(change, message, copy):
    rewritten(copy, "config.json", change)
    with pytest.raises(InputError, match=message):
        acc.load(copy)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("conv.weight", lambda a: a.astype("float32"), "the arrays of 'conv' are not of whole numbers"),
        ("relu.factor", lambda a: a + 1, "the steps of 'relu' are not even numbers"),
        ("fc.weight", lambda a: a.astype("int32") * 2**20, "sums reach"),
    ],
)
def test_arrays_that_are_no_network_are_named(part, change, said, copy):
    arrays = load_file(copy / "model.safetensors")
    save_file(arrays | {part: change(arrays[part])}, copy / "model.safetensors")
    with pytest.raises(InputError, match=said):
        acc.load(copy)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("receipt.json", lambda receipt: receipt.update(levels_sha256={}), "levels of relu"),
        ("receipt.json", lambda receipt: receipt["levels_sha256"].pop("relu"), "levels of relu"),
        ("config.json", lambda config: config.update(unit=[2 * unit for unit in config["unit"]]), "unit"),
        ("receipt.json", lambda receipt: receipt.update(right=360), "right"),
    ],
)
def test_a_receipt_cannot_leave_out_what_differs(file, change, said, copy, capsys):
    rewritten(copy, file, change)
    assert call("verify", copy) == 2
    assert said in capsys.readouterr().out


def test_a_folder_of_the_same_name_is_not_taken_for_the_packages(copy, monkeypatch, capsys):
    monkeypatch.chdir(copy.parent)
    assert call("verify", "digits") == 2
    assert "digits is a network of the package and a folder here: say ./digits" in capsys.readouterr().err
    assert call("verify", "./digits") == 0
