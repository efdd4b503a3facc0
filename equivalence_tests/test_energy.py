"""Synaptic operations against independent counts: synapse by synapse, by hand, and by NeuroBench."""

import importlib.util
import math

import numpy as np
import pytest

from reference import avg_pool2d, conv2d

from . import random_networks as nets
from .implementations import load

SCHEDULES = ("streaming", "integrate-then-fire", "signed")


def network(random, lowest=0):
    """conv, neurons, pooling, conv + skip, neurons, linear: every kind of synapse, no weight 0."""
    theta = {"op": "qcfs", "levels": 4, "lowest": lowest, "positivity": "raw", "parameter": np.array(1.0)}
    return [
        {"name": "a", "op": "conv2d", "inputs": ["image"], "weight": random.normal(size=(3, 2, 3, 3)), "padding": 1},
        {"name": "s", "inputs": ["a"], **theta},
        {"name": "pool", "op": "avg_pool2d", "inputs": ["s"], "size": 2},
        {"name": "b", "op": "conv2d", "inputs": ["pool"], "weight": random.normal(size=(3, 3, 3, 3)), "padding": 1},
        {"name": "joined", "op": "add", "inputs": ["b", "pool"]},
        {"name": "t", "inputs": ["joined"], **theta},
        {"name": "flat", "op": "flatten", "inputs": ["t"]},
        {"name": "c", "op": "linear", "inputs": ["flat"], "weight": random.normal(size=(5, 27))},
    ]


def synapses(operator, shape):
    """Outputs that change when one input does, for each input: an array of `shape`, counted one by one."""
    still, count = operator(np.zeros((1, *shape))), np.zeros(shape)
    for place in np.ndindex(*shape):
        x = np.zeros((1, *shape))
        x[(0, *place)] = 1
        count[place] = np.count_nonzero(operator(x) - still)
    return count


def run(impl, nodes, x, schedule, steps, method=None):
    """(Energy, Simulation) behind NumPy."""
    spiking = impl.native("convert")(impl.native("build")(impl.encode(nodes)), schedule)
    if method:
        spiking = impl.native("calibrate")(spiking, impl.encode(x), method, 3)
    s = impl.native("simulate")(spiking, impl.encode(x), steps)
    return impl.native("energy")(spiking, impl.encode(x), s), impl.decode(s)


WAYS = [*((schedule, None, lowest) for schedule in SCHEDULES for lowest in (0, -4)),
        ("streaming", "srp", 0), ("streaming", "cos", 0)]  # fmt: skip


@pytest.mark.parametrize(("schedule", "method", "lowest"), WAYS)
def test_every_spike_costs_its_synapses(impl, schedule, method, lowest):
    random = np.random.default_rng(0)
    nodes, x = network(random, lowest), random.uniform(0, 1, (4, 2, 6, 6))
    cost, s = run(impl, nodes, x, schedule, 4 if schedule != "signed" else 12, method)
    through_pool = lambda f: lambda v: f(avg_pool2d(v, 2))  # noqa: E731
    to_b = synapses(through_pool(lambda v: conv2d(v, nodes[3]["weight"], None, 1, 1)), (3, 6, 6))
    to_sum = synapses(through_pool(lambda v: v), (3, 6, 6))
    mean = {name: count.mean(axis=0) for name, count in s.emitted.items()}
    assert cost.acs["b"] == pytest.approx((mean["s"] * to_b).sum(), rel=1e-12)  # a mean of whole numbers
    assert cost.acs["joined"] == pytest.approx((mean["s"] * to_sum).sum(), rel=1e-12)
    assert cost.acs["c"] == pytest.approx(mean["t"].sum() * 5, rel=1e-12)
    assert sum(cost.acs.values()) == pytest.approx(sum(cost.acs[name] for name in ("b", "joined", "c")), rel=1e-12)
    dense = {"a": 3 * 36 * 18, "b": 3 * 9 * 27, "c": 5 * 27}  # outputs times the inputs of each
    assert cost.ann_macs == dense
    assert cost.macs["a"] == dense["a"], "the image goes in once"
    assert sum(cost.macs.values()) == dense["a"]
    steps = s.latency if schedule == "signed" else 4 + {"srp": 3, "cos": 6}.get(method, 0)
    assert cost.totals_macs == {name: count * steps for name, count in dense.items()}
    assert cost.ann_joules == pytest.approx(4.6e-12 * sum(dense.values()))
    assert cost.joules == pytest.approx(4.6e-12 * dense["a"] + 0.9e-12 * sum(cost.acs.values()))
    assert cost.totals_joules == pytest.approx(cost.ann_joules * steps)
    in_whole_numbers(cost, s, dense, 4 - lowest)
    assert sum(cost.acs.values()) > 100, "neurons spike"
    assert lowest == 0 or min(count.min() for count in s.counts.values()) < 0


def in_whole_numbers(cost, s, dense, most):
    """(13.3) and (13.4), once more by hand."""
    bits, neurons = math.ceil(math.log2(most + 1)), 3 * 36 + 3 * 9
    acs, image = sum(cost.acs.values()), dense["a"]
    others = sum(dense.values()) - image
    assert (cost.bits, cost.neurons, cost.steps) == (bits, neurons, s.latency)
    assert cost.whole_joules == pytest.approx(0.1e-12 * acs + 0.3e-12 * image)
    assert cost.rival_joules == pytest.approx(0.3e-12 * image + (0.2e-12 * bits / 8 + 0.1e-12) * others)
    assert cost.whole_memory == pytest.approx(1.25e-12 * (acs + 2 * image + 8 * neurons * s.latency))
    assert cost.rival_memory == pytest.approx(1.25e-12 * (2 * image + (1 + bits / 8) * others))
    rest = 2.8e-12 * image + 10e-12 * neurons * s.latency
    spikes = max(0, cost.rival_joules + cost.rival_memory - rest)
    assert cost.break_even == pytest.approx(spikes / (1.35e-12 * acs))


def test_a_product_of_spikes_with_themselves_costs_what_they_meet(impl):
    """S S^T of [n, 3, 2]: each spike meets a row of 3 in either role."""
    random, theta = np.random.default_rng(0), {"op": "qcfs", "levels": 4, "positivity": "raw", "lowest": -4}
    nodes = [{"name": "s", "inputs": ["image"], "parameter": np.array(1.0), **theta},
             {"name": "p", "op": "product", "inputs": ["s", "s"], "transpose": True}]  # fmt: skip
    cost, s = run(impl, nodes, random.uniform(-1, 1, (4, 3, 2)), "signed", 9)
    assert sum(cost.acs.values()) == pytest.approx(2 * 3 * s.emitted["s"].sum() / 4)
    assert sum(cost.macs.values()) == 0


def test_negative_spikes_and_pre_steps_count(impl):
    """theta = 1, L = 2 by hand: one negative spike; one pre-step's spike."""
    theta = {"op": "qcfs", "levels": 2, "positivity": "raw", "parameter": np.array(1.0)}
    nodes = [
        {"name": "s", "inputs": ["image"], **theta},
        {"name": "a", "op": "linear", "inputs": ["s"], "weight": np.array([[1.0, -1.0]])},
        {"name": "t", "inputs": ["a"], **theta},
        {"name": "b", "op": "linear", "inputs": ["t"], "weight": np.ones((3, 1))},
    ]
    # "s" sends 1, 2 on the first input and 1, 1 on the second; a = 0, 1/2: "t" fires once; no spike is taken back
    cost, s = run(impl, nodes, np.array([[1.0, 0.5]]), "signed", 6)
    assert s.counts["s"].tolist() == [[2, 1]]
    assert [cost.acs[name] for name in ("s", "a", "t", "b")] == [0, 3, 0, 3]
    # with a bias of 1/2, "t" fires on the first input's spike and takes it back when the second has sent two
    nodes[1]["bias"] = np.array([0.5])
    cost, s = run(impl, nodes, np.array([[0.5, 1.0]]), "signed", 8)
    assert s.emitted["t"].sum() > s.counts["t"].sum() == 0
    assert cost.acs["b"] == 3 * s.emitted["t"].sum()


def test_both_sides_count_the_same(impl, partner, rounds):
    from hypothesis import given
    from hypothesis import strategies as st

    @rounds(15)
    @given(st.integers(0, 10_000), st.sampled_from(SCHEDULES))
    def check(seed, schedule):
        random = np.random.default_rng(seed)
        levels = 8 if schedule == "integrate-then-fire" else None  # which has one L
        nodes, x = nets.graph(random, exact=True, levels=levels), random.integers(-8, 17, (3, 4)) / 16
        (ours, _), (theirs, _) = (run(side, nodes, x, schedule, 8) for side in (impl, partner))
        for part in ("acs", "macs", "ann_macs", "totals_macs"):
            mine, other = ({k: v for k, v in getattr(e, part).items() if v} for e in (ours, theirs))
            assert mine == pytest.approx(other, rel=1e-12), (seed, part)
        for part in ("whole_joules", "rival_joules", "whole_memory", "rival_memory", "break_even"):
            assert getattr(ours, part) == pytest.approx(getattr(theirs, part), rel=1e-12), (seed, part)

    check()


def test_neurobench_counts_the_same(record_property):
    """NeuroBench's SynapticOperations on the spikes of each step, for a network without skips and pooling."""
    if importlib.util.find_spec("neurobench") is None:
        pytest.skip("NeuroBench is not installed: pip install -e '.[test]' brings it")
    import torch
    from neurobench.metrics.workload import SynapticOperations
    from neurobench.models import TorchModel
    from torch import nn

    import accelerated as acc

    torch.manual_seed(0)
    steps, x = 4, torch.rand(3, 2, 8, 8)
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(),
                            nn.Flatten(), nn.Linear(54, 5))  # fmt: skip
    spiking = acc.convert(acc.quantise(network, "s-qcfs", steps, "max", x), "streaming")
    trains = {name: [] for name in spiking.layers}
    hooks = [layer.register_forward_hook(lambda _, inputs, __, name=name: trains[name].append(inputs[1].spike))
             for name, layer in spiking.layers.items()]  # fmt: skip
    s = acc.simulate(spiking, x, steps)
    for hook in hooks:
        hook.remove()
    first, second = trains.values()

    class Replayed(nn.Module):
        """The connections alone, fed with the spikes 0 / 1 of each step: theta folded into the next weights."""

        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([network[0], network[2], network[5]])

        def forward(self, x):
            for now in range(steps):
                self.layers[0](x)
                self.layers[1](first[now])
                out = self.layers[2](second[now].flatten(1))
            return out

    model = TorchModel(Replayed())
    metric, cost = SynapticOperations(), acc.energy(spiking, x, s)
    from neurobench.hooks.layer import LayerHook

    model.connection_hooks = [LayerHook(layer) for layer in model.connection_layers()]
    counted = metric(model, model(x), (x, None))
    assert counted["Effective_ACs"] == pytest.approx(sum(cost.acs.values()), rel=1e-6)
    inside = nn.functional.conv2d(torch.ones(1, 2, 8, 8), torch.ones(4, 2, 3, 3), padding=1).sum().item()
    assert counted["Effective_MACs"] == steps * inside, "the image in every step, without the padding; ours once"
    assert cost.macs["0"] == 4 * 64 * 18
    record_property("seen", f"energy: NeuroBench counts {counted['Effective_ACs']:.0f} accumulates an image, so do we")


def test_a_mutant_of_the_count_would_show():
    """The control: with one spike more the count moves by its synapses."""
    impl, random = load("reference"), np.random.default_rng(0)
    nodes, x = network(random), random.uniform(0, 1, (1, 2, 6, 6))
    spiking = impl.convert(impl.build(nodes), "streaming")
    s = impl.simulate(spiking, x, 4)
    before = impl.energy(spiking, x, s).acs["c"]
    s.emitted["t"][0, 0, 0, 0] += 1
    assert impl.energy(spiking, x, s).acs["c"] == before + 5
