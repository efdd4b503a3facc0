"""NIR graphs: read again by ours, and run by somebody else's code, with the package's spike in every step."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import accelerated as acc
from accelerated import data as datasets
from accelerated import run
from accelerated.checks import InputError
from accelerated.exports.from_nir import from_nir
from accelerated.exports.nir import FIRST, FORMS, RESET, kit, nir

from .whole_numbers import images, random_networks, whole_mixed

package = pytest.importorskip("nir", reason="graphs are written by the package nir: pip install nir")
LEVELS, STEPS = 8, 12


def written(network, x, folder, steps=STEPS):
    """Both graphs and the kit of a network in whole numbers; the kit's arrays."""
    spiking = acc.convert(network, "streaming")
    for form in FORMS:
        nir(spiking, folder / f"{form}.nir", x[:1], form)
    return dict(np.load(kit(spiking, folder / "kit.npz", x, steps)))


def same_again(folder, arrays, dtype=torch.float64):
    """Assert that both graphs, read again, give the kit's spikes and outputs; the least share of spikes of a layer."""
    steps, frames = len(arrays["outputs"]), torch.from_numpy(arrays["frames"]).to(dtype)
    for form in FORMS:
        again = from_nir(folder / f"{form}.nir").to(dtype)
        for neuron in again.layers.values():
            neuron.start = neuron.start.to(dtype)
        result = acc.simulate(again, frames, steps, record=[*again.layers])
        totals = (result.logits.double() * torch.arange(1, steps + 1).reshape(-1, 1, 1)).numpy()
        assert np.abs(totals - arrays["outputs"].cumsum(0)).max() < 0.5, form  # whole numbers, up to rounding
        for name, layer in result.recorded.items():
            assert (layer.spikes.numpy() == arrays[f"spikes.{name.removeprefix('nodes.')}"]).all(), (form, name)
    return min(float(value.mean()) for name, value in arrays.items() if name.startswith("spikes."))


class Plain(nn.Module):
    """Of every operator that has a form: strides, groups, padding, skips with and without a layer, both pools."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.same, self.wide = nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.Conv2d(8, 16, 3, 2, 1, groups=2)
        self.down, self.pool, self.mean = nn.Conv2d(8, 16, 1), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2)
        self.hidden, self.read = nn.Linear(64, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = (x + self.same(x)).relu()
        y = (self.down(self.pool(x)) + self.wide(x)).relu()
        return self.read(self.hidden(self.mean(y).flatten(1)).relu())


def whole(network, x, **more):
    """A network in whole numbers."""
    with torch.no_grad():
        network.train()(x)
    quantised = acc.fold_batch_norms(acc.quantise(network.eval(), "cs-qcfs", LEVELS, sample=x))
    return acc.integers(quantised, x, **more)


def whole_plain():
    """`Plain` on whole pixels."""
    return whole(Plain(), images(), mean=(0.5, 0.4, 0.45), std=(0.2, 0.25, 0.3))


def test_digits_read_again(tmp_path):
    """The whole test set, in both forms and formats of numbers."""
    arrays = written(acc.load("digits"), datasets.load("digits").test_x, tmp_path)
    assert same_again(tmp_path, arrays) > 0.05
    assert same_again(tmp_path, arrays, torch.float32) > 0.05


def test_every_operator_read_again(tmp_path):
    assert same_again(tmp_path, written(whole_plain(), images(32), tmp_path)) > 0.02
    kinds = {type(node).__name__ for node in package.read(tmp_path / "circuit.nir").nodes.values()}
    assert {"Affine", "Conv2d", "Flatten", "I", "Input", "Output", "Scale", "SumPool2d", "Threshold"} == kinds


@pytest.mark.parametrize("form", FORMS)
def test_membranes_are_never_near_the_threshold(form, tmp_path):
    """What makes > and >= the same: every membrane is a quarter of a whole number's worth away from its threshold."""
    network, x = acc.load("digits"), datasets.load("digits").test_x[:64]
    written(network, x, tmp_path)
    again = from_nir(tmp_path / f"{form}.nir")
    frames = torch.from_numpy(np.load(tmp_path / "kit.npz")["frames"]).double()
    recorded = acc.simulate(again, frames, STEPS, record=[*again.layers]).recorded
    thetas = {
        name.replace(".", "_"): neuron.threshold for name, neuron in acc.convert(network, "signed").layers.items()
    }
    for name, layer in recorded.items():
        theta = thetas[name.removeprefix("nodes.")].double()
        before = layer.membranes + layer.spikes  # as compared, in units of theta
        assert ((before - 1).abs() * theta).min() > 0.24, name  # 1/4 up to rounding


def test_somebody_elses_code_runs_the_circuit(tmp_path):
    """nirtorch, which knows nothing of ours, with a module for each kind of node: the whole test set of digits."""
    importers = needs("nirtorch")
    written(acc.load("digits"), datasets.load("digits").test_x, tmp_path)
    assert importers.tried(importers.nirtorch, tmp_path, mend=True) == (0, 0)


@pytest.mark.parametrize("name", ["spikingjelly", "sinabs"])
def test_importers_agree_through_their_shims(name, tmp_path):
    importers = needs(name)
    for number, (network, x) in enumerate(((acc.load("digits"), datasets.load("digits").test_x[:100]), (plain_mlp()))):
        folder = tmp_path / str(number)
        folder.mkdir()
        written(network, x, folder)
        assert importers.tried(importers.IMPORTERS[name], folder, mend=True) == (0, 0)
        as_imported = importers.tried(importers.IMPORTERS[name], folder, mend=False)
        assert isinstance(as_imported, str) or as_imported[0] > 0.05


def needs(name):
    """The comparison of importers, if one of them is here."""
    pytest.importorskip(name, reason=f"{name} runs the graph: pip install {name}")
    from accelerated.benchmarks import importers

    return importers


def plain_mlp():
    """A network of linear layers in whole numbers, and its images."""
    torch.manual_seed(0)
    x = datasets.load("digits").test_x[:64]
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))
    return whole(network, x, most=16), x


@pytest.mark.parametrize(
    "seeds", [range(100), pytest.param(range(100, 6000), marks=[pytest.mark.long, pytest.mark.timeout(3000)])]
)
def test_random_networks(seeds, tmp_path, record_property):
    done, refused = 0, 0
    for _, network, x, _ in random_networks(seeds):
        try:
            arrays = written(network, x, tmp_path)
        except InputError as error:
            known = ("has no form in NIR", "has no form in exports", "its first axis is not that of images")
            if not any(text in str(error) for text in known):
                raise
            refused += 1
            continue
        same_again(tmp_path, arrays)
        done += 1
    assert done >= 2
    record_property("seen", f"random networks as NIR: {done} equal in every spike, {refused} refused by name")


def test_the_command_and_the_table(tmp_path, capsys):
    importers = needs("nirtorch")
    assert run.main(["export", "nir", "digits", "--images", "4", "--steps", "3", "--out", str(tmp_path / "kit")]) == 0
    assert sorted(path.name for path in (tmp_path / "kit").iterdir()) == ["circuit.nir", "kit.npz", "neurons.nir"]
    assert importers.main([str(tmp_path / "kit"), "--out", str(tmp_path / "table.md")]) == 0
    (line,) = [line for line in (tmp_path / "table.md").read_text().splitlines() if "| nirtorch " in line]
    assert "every spike equal" in line
    assert importers.main([str(tmp_path)]) == 2
    assert "holds no kit" in capsys.readouterr().err


def test_what_has_no_form_is_named(tmp_path):
    network, x = acc.load("digits"), datasets.load("digits").test_x[:1]
    path = tmp_path / "x.nir"
    with pytest.raises(InputError, match="schedule streaming, got 'signed'"):
        nir(acc.convert(network, "signed"), path, x)
    with pytest.raises(InputError, match="unknown form 'lif': choose from neurons, circuit"):
        nir(acc.convert(network, "streaming"), path, x, "lif")
    with pytest.raises(InputError, match="moves or joins numbers, which has no form in NIR"):
        nir(acc.convert(whole_mixed(), "streaming"), path, images(1))
    with pytest.raises(InputError, match="cannot write"):
        nir(acc.convert(network, "streaming"), tmp_path / "nowhere" / "x.nir", x)
    assert not list(tmp_path.iterdir())


def graph_of(*nodes, **more):
    """A chain of nodes between input and output."""
    return package.NIRGraph.from_list(*nodes, **more)


def neurons(**changes):
    """Two IF neurons that say how they reset."""
    return package.IF(np.ones(2), np.ones(2), metadata={"reset": RESET, FIRST: np.full(2, 0.5), "levels": 4} | changes)


LAYER = package.Affine(np.eye(2), np.zeros(2))
REFUSED = {
    "start": (neurons(**{FIRST: "abc"}), "holds 'abc', which are no numbers"),
    "levels": (neurons(levels=2.5), "levels must be a whole number of at least 1, got 2.5"),
    "r": (package.IF(np.array([1.0, 2.0]), np.ones(2)), "has r = 2, and steps of 1 with r = 1 are read"),
    "reset": (package.IF(np.ones(2), np.ones(2)), "does not say that it resets as ours"),
    "first": (neurons(reset="to zero"), "does not say that it resets as ours"),
    "leak": (package.LIF(*np.ones((4, 2))), "is LIF, which has no form here"),
    "threshold": (package.Threshold(np.ones(2)), "is a Threshold without I before it"),
    "theta": (package.IF(np.ones(2), -np.ones(2), metadata=neurons().metadata), "must be positive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_graphs_that_ours_cannot_express(case):
    node, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        from_nir(graph_of(LAYER, node, LAYER))


def test_files_levels_and_cycles(tmp_path):
    (tmp_path / "x.nir").write_text("no graph")
    for path in (tmp_path / "x.nir", tmp_path / "nowhere.nir"):
        with pytest.raises(InputError, match="is not a readable NIR file"):
            from_nir(path)
    one = neurons()
    del one.metadata["levels"]
    with pytest.raises(InputError, match="is not in its metadata: give levels"):
        from_nir(graph_of(LAYER, one, LAYER))
    assert from_nir(graph_of(LAYER, one, LAYER), levels=4).steps == 4
    graph = graph_of(LAYER, neurons(), LAYER)
    graph.edges.append(("affine_1", "if"))
    with pytest.raises(InputError, match=r"recurrent graphs have no form here: .*if.* -> "):
        from_nir(graph)


def test_names_that_containers_have_and_whole_weights():
    """Whatever a stranger's nodes are called, and whichever format their numbers have."""
    nodes = {"keys": package.Input(np.array([2])), "training": package.Affine(np.eye(2, dtype=int), np.zeros(2, int)),
             "": neurons(), "type": package.Affine(np.eye(2, dtype=np.float32), np.zeros(2, np.float32)),
             "output": package.Output(np.array([2]))}  # fmt: skip
    network = from_nir(package.NIRGraph(nodes, [*zip(nodes, [*nodes][1:], strict=False)]))
    result = acc.simulate(network, torch.tensor([[0.5, 1.0]]).double(), 4)
    assert result.logits[-1].tolist() == [[0.5, 1.0]]
    with pytest.raises(InputError, match="an edge goes from 'keys' to 'nowhere', and there is no 'nowhere'"):
        from_nir(package.NIRGraph(nodes, [("keys", "nowhere")], type_check=False))
    with pytest.raises(InputError, match="takes a NIRGraph or the path of its file, got NoneType"):
        from_nir(None)
    with pytest.raises(InputError, match="levels must be a whole number of at least 1, got 0"):
        from_nir(graph_of(LAYER, neurons(), LAYER), levels=0)


def test_layers_named_like_parts_of_a_neuron(tmp_path):
    """A layer `q_membrane` beside `q`: the kit's names are those of its layers in both forms."""
    torch.manual_seed(0)
    x = datasets.load("digits").test_x[:32]
    layers = {"flat": nn.Flatten(), "a": nn.Linear(64, 16), "q": nn.ReLU(), "b": nn.Linear(16, 16),
              "q_membrane": nn.ReLU(), "c": nn.Linear(16, 10)}  # fmt: skip
    assert same_again(tmp_path, written(whole(nn.Sequential(OrderedDict(layers)), x, most=16), x, tmp_path)) > 0.02


def test_outputs_of_many_steps_are_the_sums_of_the_spikes(tmp_path):
    """Where floats of 32 bits would no longer hold means times steps."""
    torch.manual_seed(0)
    x = images(2)
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
    network = whole(network, x, mean=(0.5, 0.4, 0.45), std=(0.2, 0.25, 0.3))
    arrays = written(network, x, tmp_path, steps=256)
    node = package.read(tmp_path / "neurons.nir").nodes["3"]
    spikes = arrays["spikes.1"].reshape(256, 2, -1)
    assert (spikes @ np.rint(node.weight).T + np.rint(node.bias) == arrays["outputs"]).all()


def test_strict_and_not_strict_thresholds():
    """A stranger's circuit fires above its threshold alone: a membrane that meets it exactly waits."""
    nodes = {"input": package.Input(np.array([1])), "i": package.I(np.ones(1)), "t": package.Threshold(np.ones(1)),
             "back": package.Scale(-np.ones(1)), "read": package.Affine(np.eye(1), np.zeros(1)),
             "output": package.Output(np.array([1]))}  # fmt: skip
    edges = [("input", "i"), ("i", "t"), ("t", "back"), ("back", "i"), ("t", "read"), ("read", "output")]
    network = from_nir(package.NIRGraph(nodes, edges), levels=4)
    result = acc.simulate(network, torch.tensor([[0.5], [0.625]]).double(), 4, record=["nodes.t"])
    assert result.recorded["nodes.t"].spikes[..., 0].T.tolist() == [[0, 0, 1, 0], [0, 1, 0, 1]]
