"""Engines: layer by layer equals step by step; events are the dense sums in another order; no compiler is needed."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import accelerated as acc
from accelerated import _native, activation, simulation
from accelerated.engines import dense, event
from accelerated.engines.cuda_graph import places
from accelerated.models import make

from . import random_networks as nets

ROOT = Path(__file__).parents[1]
if _native.PRESENT:
    from accelerated import kernels
    from accelerated.kernels import build
compiled = _native.PRESENT and build.library() is not None
needs_compiler = pytest.mark.skipif(not compiled, reason="there are no compiled kernels: PyTorch does the work")


def step_by_step(monkeypatch, network, x, steps):
    """The plain form: one step after another, an operator at a time."""
    with monkeypatch.context() as patch:
        patch.setattr(dense.DenseRun, "foldable", False)
        return acc.simulate(network, x, steps, engine="dense")


def spiking(kind, seed, operators="accumulated"):
    """A random streaming network in float64 with thresholds from the maximum, and images."""
    random = np.random.default_rng(seed)
    if kind == "graph":
        return acc.convert(acc.build(nets.graph(random, exact=False)), "streaming", operators), torch.tensor(
            random.normal(size=(4, 4))
        )
    x = nets.images(random, kind, 4)
    nodes = nets.quantised(nets.MADE[kind](random, 3), x, "hn-qcfs" if kind == "transformer" else "cs-qcfs", 8)
    return acc.convert(acc.build(nodes), "streaming", operators), torch.tensor(x)


def same(ours, theirs, tolerance):
    assert ours.counts.keys() == theirs.counts.keys()
    for name, count in theirs.counts.items():
        assert torch.equal(ours.counts[name], count), name
    # what may differ is the last bit of a sum, times a hundred terms
    assert (ours.logits[-1] - theirs.logits[-1]).abs().max() <= tolerance * theirs.logits.abs().max()
    assert ours.spikes_per_neuron == theirs.spikes_per_neuron > 0


@pytest.mark.parametrize("operators", ["accumulated", "per-step"])
@pytest.mark.parametrize("kind", ["mlp", "cnn", "graph", "transformer"])
def test_layer_by_layer_is_step_by_step(kind, operators, monkeypatch):
    """T = 11 is no multiple of the steps taken at once."""
    for seed in range(4):
        network, x = spiking(kind, seed, operators)
        assert dense.DenseRun(network, x).foldable
        same(acc.simulate(network, x, 11, engine="dense"), step_by_step(monkeypatch, network, x, 11), 1e-13)


@needs_compiler
@pytest.mark.parametrize("kind", ["mlp", "cnn", "graph", "transformer"])
def test_events_are_the_dense_sums(kind, monkeypatch, record_property):
    """Float64 and Gaussian weights: a membrane within rounding of its threshold has a chance of about 1e-12 a unit."""
    layers = bits = 0
    for seed in range(6):
        network, x = spiking(kind, seed)
        run = simulation.engine_named("event")(network, x)
        layers, bits = layers + len(run.neurons), bits + sum(any(t.source for t in ts) for ts in run.terms.values())
        same(acc.simulate(network, x, 11, engine="event"), step_by_step(monkeypatch, network, x, 11), 1e-12)
    record_property("seen", f"events, {kind}: {bits} of {layers} layers see spikes as bits; all counts equal")
    assert bits or kind == "transformer"


@needs_compiler
@pytest.mark.parametrize("faster", ["dense", "event", "every other"])
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_auto_changes_engines_on_the_way(kind, faster, monkeypatch):
    """After the first steps each layer uses the faster engine and keeps its state; the next run keeps the choice."""
    seconds = {"dense": lambda: 0, "event": lambda: 9, "every other": iter([0, 9] * 99).__next__}[faster]
    monkeypatch.setattr(event.EventRun, "_measure", lambda *_: seconds())
    network, x = spiking(kind, 0)
    expected = step_by_step(monkeypatch, network, x, 11)
    for _ in range(2):
        same(acc.simulate(network, x, 11, engine="auto"), expected, 1e-12)
    slow = network.prepared["dense", x.shape]
    assert len(slow) == {"dense": 2, "event": 0, "every other": 1}[faster]


@needs_compiler
@pytest.mark.parametrize("name", ["resnet18", "vgg16", "resnet50"])
def test_events_through_known_networks(name, record_property):
    """Narrow: every layer but the first sees bits. In float64 all counts are equal; in float32 a sum in another order
    flips a spike in a million, and a flip spreads in networks with random weights: that is only shown."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, 32, 32)
    model = make(name, (3, 32, 32), 10, 0.25).train()
    for _ in range(3):
        model(x)
    network = acc.convert(acc.quantise(model.eval(), "cs-qcfs", 8, "max", x), "streaming")
    run = simulation.engine_named("event")(network, x)
    assert sum(any(term.source for term in run.terms.get(node, ())) for node in run.neurons) >= len(run.neurons) - 1
    exact = acc.convert(acc.quantise(model.double(), "cs-qcfs", 8, "max", x.double()), "streaming")
    same(*(acc.simulate(exact, x.double(), 6, engine=engine) for engine in ("event", "dense")), 1e-12)
    event, dense = (acc.simulate(network, x, 6, engine=engine) for engine in ("event", "dense"))
    units = sum(count.numel() for count in dense.counts.values())
    flips = sum(int((event.counts[name] != count).sum()) for name, count in dense.counts.items())
    first = next(iter(dense.counts))
    assert torch.equal(event.counts[first], dense.counts[first])
    record_property("seen", f"events, {name}, float32: {flips} of {units} counts differ from the dense engine's")


class Functional(torch.nn.Module):
    """A network as many write it: functions for activations, pooling and flattening; a linear layer after an image."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2 = torch.nn.Conv2d(1, 8, 3), torch.nn.Linear(72, 24), torch.nn.Linear(24, 5)
        self.pool = torch.nn.AvgPool2d(2)

    def forward(self, x):
        x = torch.flatten(self.pool(torch.relu(self.conv(x))), 1)
        return self.fc2(torch.relu(self.fc1(x)))


@needs_compiler
def test_a_linear_layer_sees_an_image_of_bits(monkeypatch):
    torch.manual_seed(0)
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    network = acc.convert(acc.quantise(Functional().double(), "s-qcfs", 8, "max", x), "streaming")
    run = event.EventRun(network, x)
    assert any(term.pooled and isinstance(term.module, torch.nn.Linear) for ts in run.terms.values() for term in ts)
    for engine in ("event", "auto", "auto"):
        same(acc.simulate(network, x, 7, engine=engine), step_by_step(monkeypatch, network, x, 7), 1e-12)


@needs_compiler
def test_calibrated_networks_run_on_events(monkeypatch):
    network, x = spiking("cnn", 0)
    for method in ("cos", "srp"):
        ready = acc.calibrate(network, x, method, 4)
        same(acc.simulate(ready, x, 5, engine="event"), step_by_step(monkeypatch, ready, x, 5), 1e-12)


def test_who_watches_a_neuron_sees_every_step():
    network, x = spiking("mlp", 0)
    seen = []
    handle = next(iter(network.layers.values())).register_forward_hook(lambda *_: seen.append(1))
    acc.simulate(network, x, 5)
    handle.remove()
    assert len(seen) == 5


PROGRAM = """
import sys, numpy as np, torch, accelerated as acc
from equivalence_tests import random_networks as nets
nodes = nets.integer_cnn(np.random.default_rng(3), 3, 4)
network, x = acc.build(nodes), torch.tensor(np.random.default_rng(4).integers(0, 17, (3, 1, 4, 4)) / 16)
for engine in ("dense", "event", "auto"):
    s = acc.simulate(acc.convert(network, "streaming"), x, 4, engine=engine)
    print(s.logits.sum().item(), s.units_that_differ, [int(c.sum()) for c in s.counts.values()])
x.requires_grad_()
network(x).square().sum().backward()
print([p.grad.sum().item() for p in network.parameters()], x.grad.sum().item())
"""


def printed(environment, folder=ROOT):
    """The output of the program, and its errors."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(folder)} | environment)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


@pytest.mark.long
@needs_compiler
def test_without_a_compiler_and_without_the_folder_the_numbers_are_the_same(tmp_path):
    expected, complaint = printed({})
    assert not complaint
    for environment in ({"ISOSPIKE_KERNELS": "off"}, {"CC": "no-such-compiler"}, {"CC": "false"}):
        out, complaint = printed(environment | {"XDG_CACHE_HOME": str(tmp_path)})
        assert out == expected
        assert len(complaint.splitlines()) == 1, complaint
        assert complaint.startswith("isospike: kernels are not compiled (")
    for package in ("accelerated", "reference", "equivalence_tests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("kernels", "__pycache__"))
    assert printed({}, tmp_path) == (expected, "")


@needs_compiler
def test_compiled_for_any_processor_it_computes_the_same(tmp_path, monkeypatch):
    """No instruction set is assumed: the same results from a build for the oldest processor of the kind."""
    network, x = spiking("cnn", 1)
    expected = acc.simulate(network, x, 8, engine="event")
    import ctypes

    plain = ctypes.CDLL(str(build.build(tmp_path, native=("",))))
    monkeypatch.setattr(kernels, "library", lambda: plain)
    kernels._function.cache_clear()
    same(acc.simulate(network, x, 8, engine="event"), expected, 0)
    kernels._function.cache_clear()
    assert len(list(tmp_path.iterdir())) == 1, "nothing half-written is left"


@pytest.mark.parametrize("on", ["on", "off"])
def test_an_image_that_overflows_is_named_by_the_theorem_too(on, monkeypatch):
    """1e38 times two weights of 3 is infinite, and infinity less infinity no number: no level is made of it."""
    if on == "off":
        monkeypatch.setattr(activation, "elementwise", _native._Absent())
    one = {"op": "qcfs", "levels": 4, "positivity": "raw", "parameter": np.array(1.0)}
    nodes = [{"name": "fc", "op": "linear", "inputs": ["image"], "weight": np.array([[30.0, -30.0]])},
             {"name": "act", "inputs": ["fc"], **one},
             {"name": "out", "op": "linear", "inputs": ["act"], "weight": np.eye(1)}]  # fmt: skip
    network = acc.convert(acc.build(nodes).float(), "integrate-then-fire")
    with pytest.raises(ValueError, match="z must be finite"):
        acc.simulate(network, torch.full((1, 2), 1e38), 4, "theorem")


def test_bad_engines_are_named():
    network, x = spiking("mlp", 0)
    with pytest.raises(ValueError, match="engine 'fast': choose from auto, dense, event, graph"):
        acc.simulate(network, x, 2, engine="fast")
    assert simulation.ENGINES == ("auto", "dense", "event", "graph")
    with pytest.raises(ValueError, match="engine 'graph' needs images on a CUDA device, got cpu"):
        acc.simulate(network, x, 2, engine="graph")


@needs_compiler
def test_what_a_chunk_changes_lies_in_place():
    """What a CUDA graph replays: membranes and counts of a convolutional network are never moved."""
    network, x = spiking("cnn", 0)
    run = dense.DenseRun(network, x)
    seen = [places(run.states.values())]
    for _ in range(3):
        run.steps(4)
        seen.append(places(run.states.values()))
    assert seen[0] != seen[1] == seen[2] == seen[3]
    assert {state.now for state in run.states.values()} == {12}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("operators", ["accumulated", "per-step"])
@pytest.mark.parametrize("kind", ["mlp", "cnn", "graph", "transformer"])
def test_graphs_are_the_dense_engine_bit_for_bit(kind, operators):
    """T = 19: chunks of 4, 4, 4, 4 and 3, the third of them recorded, the fourth replayed."""
    network, x = spiking(kind, 0, operators)
    network, x = network.cuda(), x.cuda()
    dense, graph = (acc.simulate(network, x, 19, engine=engine) for engine in ("dense", "graph"))
    same(graph, dense, 0)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "transformer"])
def test_counts_by_theorem_are_those_of_the_steps(kind, record_property):
    """T2: spikes, operations, energy and the last logits of integrate-then-fire, at any T, without a single step."""
    shares = []
    for seed in range(3):
        streaming, x = spiking(kind, seed)
        network = acc.SpikingNetwork(copy.deepcopy(streaming.graph), "integrate-then-fire")
        for layer in network.layers.values():
            layer.schedule = network.schedule
        for steps in (3, 8):
            stepped, stated = acc.simulate(network, x, steps), acc.simulate(network, x, steps, "theorem")
            same(stated, stepped, 0)
            assert torch.equal(stated.logits[-1], stepped.logits[-1])
            assert stated.latency == stepped.latency
            assert stated.nonzero_share == stepped.nonzero_share
            assert acc.energy(network, x, stated) == acc.energy(network, x, stepped)
            assert stated.units_that_differ is None, "what was not executed is not called equal"
            shares.append(min(stated.nonzero_share.values()))
    record_property("seen", f"T2 by theorem, {kind}: all counts are the steps'; least active {100 * min(shares):.0f} %")
    with pytest.raises(ValueError, match="'theorem': choose from increments"):
        acc.simulate(streaming, x, 4, "theorem")
