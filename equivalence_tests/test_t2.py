"""T2, any order: integrate, then fire. Counts are levels whatever the order, for neurons and for whole networks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from reference.simulation import propagate

from . import random_networks as nets
from .equality import assert_equal
from .strategies import dyadic_neuron, level_of, rational, rational_array


def test_T2_count_is_the_level_of_the_mean(impl, rounds, seen):
    shares = []

    @rounds(100)
    @given(dyadic_neuron())
    def check(neuron):
        currents, theta, steps = neuron
        spikes, membrane = impl.integrate_then_fire_run(currents, theta)
        assert np.shape(spikes) == currents.shape
        count, total = spikes.sum(axis=0), currents.sum(axis=0)
        level = level_of(total / steps, theta, steps)
        given = {"currents": currents, "theta": theta}
        assert_equal("counts of integrate_then_fire_run", count, level, "T2: the level of the mean current", **given)
        assert_equal("qcfs_level of the mean", impl.qcfs_level(total / steps, theta, steps), level, "Eq. 2-23", **given)
        law = "theta / 2 + all currents - theta count"
        assert_equal("the last membrane", membrane, theta / 2 + total - theta * count, law, **given)
        assert set(np.unique(spikes)) <= {0, 1}
        assert (np.diff(spikes, axis=0) <= 0).all(), "a neuron fires at once until it is done"
        shares.append((level != 0).mean())

    check()
    seen(f"T2 {impl.name}: counts equal levels in any order, levels other than 0: {100 * np.mean(shares):.0f} %")


def test_T2_in_exact_arithmetic(impl, rounds):
    if not impl.exact:
        pytest.skip("the contract asks Fractions of the reference alone")

    @rounds(60)
    @given(steps=st.integers(1, 7), theta=rational(low=1, high=4), data=st.data())
    def check(steps, theta, data):
        currents = data.draw(rational_array((steps, 1, 3)))
        spikes, _ = impl.integrate_then_fire_run(currents, theta)
        level = impl.qcfs_level(currents.sum(axis=0) / steps, theta, steps)
        assert (spikes.sum(axis=0) == level).all(), (currents, theta)

    check()


def executed(impl, nodes, x, steps, schedule, arithmetic):
    """(simulation, logits of the quantised network) on the same batch."""
    network = impl.build(nodes)
    return impl.simulate(impl.convert(network, schedule), x, steps, arithmetic), impl.answer(network, x)


def levels_of(nodes, x):
    """{spiking layer: its levels}, by the reference: what counts are compared with."""
    levels = {}

    def neuron(node, z):
        levels[node["name"]] = level_of(z, node["threshold"], node["levels"], 0.5, node["lowest"])
        return node["threshold"] * levels[node["name"]] / node["levels"]

    propagate(reference.convert(reference.build(nodes), "signed"), x, neuron)
    return levels


def assert_same_counts(nodes, x, steps, s, where):
    """A streaming simulation sent what the reference's sends, and says so of itself."""
    expected = reference.simulate(reference.convert(reference.build(nodes), "streaming"), x, steps)
    for name, count in expected.counts.items():
        assert np.array_equal(s.counts[name], count), f"{where}: streaming, counts of {name} are not the reference's"
    for name in ("units_that_differ", "units_that_differ_last"):  # a ratio of whole numbers: a rounding or two
        assert abs(getattr(s, name) - getattr(expected, name)) < 1e-12, f"{where}: streaming, {name}"


def assert_exact(nodes, x, s, ann, schedule, where):
    """Counts are levels, logits the reference's, in every step and bit; exact arithmetic. The share of levels but 0."""
    levels = levels_of(nodes, x)
    assert set(s.counts) == set(levels), f"{where}: counts of {sorted(s.counts)}, expected {sorted(levels)}"
    for name, level in levels.items():
        assert np.array_equal(s.counts[name], level), f"{where}: counts of {name} are not its levels"
    whole = reference.answer(reference.build(nodes), x)
    assert np.array_equal(ann, whole), f"{where}: the quantised network's own logits differ from the reference's"
    assert np.array_equal(s.logits[-1], ann), f"{where}: logits differ"
    stepped = reference.simulate(reference.convert(reference.build(nodes), schedule), x, len(s.logits), "increments")
    assert np.array_equal(s.logits, stepped.logits), f"{where}: logits on the way are not the reference's"
    assert s.latency == stepped.latency, f"{where}: latency {s.latency}, expected {stepped.latency}"
    assert s.settled == stepped.settled, f"{where}: settled {s.settled}, expected {stepped.settled}"
    spikes = s.spikes_per_neuron, stepped.spikes_per_neuron
    assert abs(spikes[0] - spikes[1]) < 1e-9, f"{where}: {spikes[0]} spikes per neuron, expected {spikes[1]}"
    assert s.units_that_differ == 0, f"{where}: {s.units_that_differ:.1%} of units differ, says the report"
    return np.mean([(level != 0).mean() for level in levels.values()])


def test_T2_whole_networks_with_integer_weights_bit_for_bit(impl, rounds, seen):
    """Increments on CNNs with a skip and a pooling: exact arithmetic, so logits equal in every bit at T = L."""
    shares, differ = [], []

    @rounds(30)
    @given(seed=st.integers(0, 10_000), depth=st.integers(1, 5), levels=st.sampled_from([2, 4, 8]))
    def check(seed, depth, levels):
        random = np.random.default_rng(seed)
        nodes, x = nets.integer_cnn(random, depth, levels), random.integers(0, 17, (3, 1, 4, 4)) / 16
        s, ann = executed(impl, nodes, x, levels, "integrate-then-fire", "increments")
        shares.append(assert_exact(nodes, x, s, ann, "integrate-then-fire", f"seed {seed}, depth {depth}"))
        assert s.latency == (depth + 1) * levels, "latency is (D + 1) T"
        streamed, _ = executed(impl, nodes, x, levels, "streaming", None)
        assert_same_counts(nodes, x, levels, streamed, f"seed {seed}, depth {depth}")
        differ.append(streamed.units_that_differ)

    check()
    assert np.mean(differ) > 0, "the same networks differ when streaming, or this test shows nothing"
    seen(f"T2 {impl.name}: integer CNNs, increments, 0 units differ (streaming: {100 * np.mean(differ):.0f} %), "
         f"neurons that spike: {100 * np.mean(shares):.0f} %")  # fmt: skip


def test_T2_increments_on_floats_differ_only_next_to_a_tie(impl, rounds):
    """One layer in float64: the count is the level but within T L eps of a tie, and never off by more than 1."""

    @rounds(60)
    @given(seed=st.integers(0, 10_000), steps=st.integers(1, 16))
    def check(seed, steps):
        random = np.random.default_rng(seed)
        theta = random.uniform(0.3, 3)
        currents = random.uniform(-1, 2, (steps, 1, 50)) * theta
        mean = currents.sum(axis=0) / steps
        count = impl.integrate_then_fire_run(currents, np.array(theta))[0].sum(axis=0)
        u = mean * steps / theta + 0.5
        # T additions of size <= 2 T theta and T subtractions round once each, and the mean and u a few times more:
        # below 3 T^2 + 4 T units of eps
        near = np.abs(u - np.round(u)) <= 8 * steps * steps * np.finfo(float).eps
        off = np.abs(count - impl.qcfs_level(mean, theta, steps))
        assert (off[~near] == 0).all(), (seed, steps)
        assert (off <= 1).all(), (seed, steps)

    check()


@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed"])
def test_T2_T3_float_networks_obey_the_tie_rule(impl, rounds, schedule, seen):
    """Increments on float64 networks: a layer's count is the level of its own input, but next to a tie.

    Its own input is its operator applied to what the layers before have sent. A running sum of some 100 steps and 50
    terms of size up to 100 theta / L is off by less than 100 * 50 * 100 * 2e-16 = 1e-10 in units of theta / L.
    """
    shares = []

    @rounds(10)
    @given(seed=st.integers(0, 10_000), depth=st.integers(1, 6), levels=st.integers(2, 12))
    def check(seed, depth, levels):
        random = np.random.default_rng(seed)
        kind = ["mlp", "cnn"][seed % 2]
        x = nets.images(random, kind, 4)
        nodes = nets.quantised(getattr(nets, kind)(random, depth), x, "cs-qcfs", levels)
        network = impl.build(nodes)
        steps = levels if schedule == "integrate-then-fire" else 2 + depth * (levels - 1)
        s = impl.simulate(impl.convert(network, schedule), x, steps, "increments")

        def neuron(node, total):
            u = total * levels / node["threshold"] + 0.5
            far = np.abs(u - np.round(u)) > 1e-10
            level = np.clip(np.floor(u), 0, levels)
            assert (s.counts[node["name"]] == level)[far].all(), (node["name"], kind, seed, depth, levels)
            shares.append((level != 0).mean())
            return node["threshold"] * s.counts[node["name"]] / levels

        propagate(reference.convert(reference.build(nodes), schedule), x, neuron)

    check()
    seen(f"T2, T3 {impl.name}: float networks, {schedule}, increments: counts are levels but next to a tie, "
         f"levels other than 0: {100 * np.mean(shares):.0f} %")  # fmt: skip


def test_T2_asks_for_one_L(impl):
    """A phase has T = L steps: layers of different L are refused, by name; under the other schedules they are exact."""
    a = {"name": "a", "op": "qcfs", "inputs": ["image"], "parameter": np.array(1.0), "levels": 4, "positivity": "raw"}
    nodes = [a, a | {"name": "b", "inputs": ["a"], "levels": 7}]
    x = np.arange(-4, 20).reshape(4, 6) / 16
    network = impl.build(nodes)
    with pytest.raises(reference.InputError, match="needs one L, for phases of L steps, but 'a' has L = 4, 'b' L = 7"):
        impl.convert(network, "integrate-then-fire")
    for schedule in ("signed", "halving"):
        result, ann = executed(impl, nodes, x, 16, schedule, None)
        assert np.array_equal(result.logits[-1], ann), schedule
        assert all(np.any(count) for count in result.counts.values())
