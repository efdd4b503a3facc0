"""Levels below zero: everything that holds for levels 0..L holds for lowest..L (T1 to T3, T5, G1)."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference

from . import random_networks as nets
from .equality import assert_equal
from .implementations import Missing
from .strategies import POWERS, dyadic_neuron, level_of, near_step, rational, rational_array
from .test_t2 import assert_exact, executed

LOWEST = st.integers(-6, 0)
EXACT = {"integrate-then-fire": lambda depth, levels, below: levels,
         "signed": lambda depth, levels, below: 2 + depth * (levels + below - 1)}  # fmt: skip


def needs(impl, *names):
    """Missing, if a file's functions do not know `lowest`."""
    for name in names:
        if "lowest" not in inspect.signature(impl.native(name)).parameters:
            raise Missing(f"{name}(..., lowest)")


def test_levels_are_clipped_at_the_lowest(impl, rounds, seen):
    needs(impl, "qcfs_level", "qcfs")
    below = []

    @rounds(80)
    @given(near_step(lowest=-6), LOWEST)
    def check(neuron, lowest):
        z, theta, levels = neuron
        level = level_of(z, z.dtype.type(theta), levels, z.dtype.type(0.5), lowest)
        given = {"z": z, "theta": theta, "L": levels, "lowest": lowest}
        assert_equal("qcfs_level", impl.qcfs_level(z, theta, levels, lowest=lowest), level, "Eq. 2-23", **given)
        value = z.dtype.type(theta) * level / z.dtype.type(levels)
        assert_equal("qcfs", impl.qcfs(z, theta, levels, lowest=lowest), value, "(theta level) / L", **given)
        below.append((level < 0).mean())

    check()
    seen(f"{impl.name}: levels lowest..L, below zero: {100 * np.mean(below):.0f} %")


def test_G1_derivatives_with_levels_below_zero(impl, rounds):
    needs(impl, "qcfs_grad", "qcfs_parameter_grad")

    @rounds(60)
    @given(near_step(lowest=-6), LOWEST)
    def check(neuron, lowest):
        z, theta, levels = neuron
        z = z.astype(float)
        u = z * levels / float(theta) + 0.5
        inside = (u >= lowest) & (u < levels)
        value = float(theta) * level_of(z, float(theta), levels, 0.5, lowest) / levels
        by_threshold = np.where(inside, (value - z) / float(theta), np.where(u >= levels, 1, lowest / levels))
        by_z, by_theta = impl.qcfs_grad(z, np.array(float(theta)), levels, lowest=lowest)
        given = {"z": z, "theta": theta, "L": levels, "lowest": lowest}
        assert_equal("d/dz", by_z, inside.astype(float), "1 for lowest <= u < L", **given)
        assert_equal("d/dtheta", by_theta, by_threshold, "(2.4), (2.5)", **given)
        upstream = np.ones_like(z)
        total = impl.qcfs_parameter_grad(z, np.array(float(theta)), levels, "raw", upstream, lowest=lowest)
        # a sum of 8 numbers of size below 4: rounded 8 times
        assert abs(total - by_threshold.sum()) <= 8 * 32 * np.finfo(float).eps

    check()


def test_T2_counts_are_levels_below_zero_too(impl, rounds):
    needs(impl, "integrate_then_fire_run")

    @rounds(80)
    @given(dyadic_neuron(), LOWEST)
    def check(neuron, lowest):
        currents, theta, steps = neuron
        currents = currents - 3 * theta / 4
        spikes, membrane = impl.integrate_then_fire_run(currents, theta, lowest)
        assert len(spikes) == max(steps, -lowest)
        total, count = currents.sum(axis=0), spikes.sum(axis=0)
        level = level_of(total / steps, theta, steps, 0.5, lowest)
        given = {"currents": currents, "theta": theta, "lowest": lowest}
        assert_equal("counts of integrate_then_fire_run", count, level, "T2: the level of the mean current", **given)
        assert_equal("the last membrane", membrane, theta / 2 + total - theta * count, "(3.2)", **given)
        assert (abs(spikes).sum(axis=0) == abs(count)).all(), "spikes of a phase have one sign"
        assert (np.diff(abs(spikes), axis=0) <= 0).all(), "a neuron fires at once until it is done"

    check()


def test_T3_settles_within_the_range_of_levels(impl, rounds, seen):
    needs(impl, "st_bif_run", "signed_step")
    below = []

    @rounds(80)
    @given(neuron=dyadic_neuron(), levels=POWERS, lowest=LOWEST)
    def check(neuron, levels, lowest):
        currents, theta, _ = neuron
        currents = currents - 3 * theta / 4
        quiet = np.zeros((levels - lowest, *currents.shape[1:]))
        spikes, sent = impl.st_bif_run(np.concatenate([currents, quiet]), theta, levels, lowest)
        level = level_of(currents.sum(axis=0), theta, levels, 0.5, lowest)
        given = {"currents, then silence": currents, "theta": theta, "L": levels, "lowest": lowest}
        assert_equal("what st_bif_run has sent", sent, level, "T3: the level of all input", **given)
        tracer = np.cumsum(spikes, axis=0)
        assert ((tracer >= lowest) & (tracer <= levels)).all(), "N stays in lowest..L"
        before = np.zeros(currents.shape[1:])
        for t, spike in enumerate(spikes[: len(currents)]):
            step = impl.signed_step(currents[: t + 1].sum(axis=0), before, theta, levels, lowest)
            assert_equal("signed_step", step, spike, "the spike of st_bif_run", **given)
            before = before + spike
        below.append((level < 0).mean())

    check()
    seen(f"T3 {impl.name}: settled with levels lowest..L, below zero: {100 * np.mean(below):.0f} %")


def test_T2_T3_with_levels_below_zero_in_exact_arithmetic(impl, rounds):
    if not impl.exact:
        pytest.skip("the contract asks Fractions of the reference alone")

    @rounds(40)
    @given(theta=rational(low=1, high=4), levels=st.integers(1, 5), lowest=LOWEST, data=st.data())
    def check(theta, levels, lowest, data):
        currents = data.draw(rational_array((levels, 1, 3)))
        quiet = currents[:1] * 0
        total = currents.sum(axis=0)
        _, sent = impl.st_bif_run(np.concatenate([currents, *[quiet] * (levels - lowest)]), theta, levels, lowest)
        assert (sent == impl.qcfs_level(total, theta, levels, lowest=lowest)).all()
        spikes, _ = impl.integrate_then_fire_run(currents, theta, lowest)
        assert (spikes.sum(axis=0) == impl.qcfs_level(total / levels, theta, levels, lowest=lowest)).all()

    check()


@pytest.mark.parametrize("schedule", EXACT)
def test_networks_with_integer_weights_and_levels_below_zero(impl, rounds, schedule, seen):
    """Increments on CNNs in exact arithmetic: counts, every step's logits, latency and spikes are the reference's."""
    below = []

    @rounds(20)
    @given(seed=st.integers(0, 10_000), depth=st.integers(1, 5), levels=st.sampled_from([2, 4, 8]))
    def check(seed, depth, levels):
        random = np.random.default_rng(seed)
        nodes = with_lowest(random, nets.integer_cnn(random, depth, levels))
        x = random.integers(-16, 17, (3, 1, 4, 4)) / 16
        s, ann = executed(impl, nodes, x, EXACT[schedule](depth, levels, levels), schedule, "increments")
        assert_exact(nodes, x, s, ann, schedule, f"seed {seed}, depth {depth}")
        below.append(np.mean([(count < 0).mean() for count in s.counts.values()]))

    check()
    assert np.mean(below) > 0.02
    seen(f"{impl.name}, {schedule}: integer CNNs equal in every bit, levels below zero: {100 * np.mean(below):.0f} %")


@pytest.mark.parametrize("schedule", EXACT)
def test_T5_with_levels_below_zero(impl, rounds, schedule, seen):
    """Totals on float networks with layer norm, softmax, skips and mixed L: logits equal in every bit, and settled."""
    below = []

    @rounds(25)
    @given(seed=st.integers(0, 10_000))
    def check(seed):
        random = np.random.default_rng(seed)
        levels = 4 if schedule == "integrate-then-fire" else None
        nodes = with_lowest(random, nets.graph(random, False, levels=levels))
        x = random.normal(size=(4, 4))
        steps = levels or nets.settling_bound(nodes) + 1
        s, ann = executed(impl, nodes, x, steps, schedule, "totals")
        assert np.array_equal(s.logits[-1], ann), f"seed {seed}: logits differ"
        assert s.units_that_differ == 0
        assert s.settled in (True, None), f"seed {seed}: not settled after {steps} steps"
        emitted = sum(abs(count).sum() for count in s.counts.values())
        assert s.spikes_per_neuron >= emitted / sum(c.size for c in s.counts.values()) - 1e-12  # a ratio, rounded
        below.append(np.mean([(count < 0).mean() for count in s.counts.values()]))

    check()
    assert np.mean(below) > 0.02
    seen(f"T5 {impl.name}, {schedule}: all bits equal, levels below zero: {100 * np.mean(below):.0f} %")


def test_T1_streaming_at_constant_current_counts_the_level(impl, rounds):
    """A single layer behind the image, T = L: a negative current sends negative spikes, as far as lowest."""

    @rounds(40)
    @given(z=st.lists(st.integers(-48, 48), min_size=6, max_size=6), levels=POWERS, share=st.integers(0, 4))
    def check(z, levels, share):
        lowest = -(levels * share // 4)
        nodes = [{"name": "a", "op": "qcfs", "inputs": ["image"], "parameter": np.array(1.0), "levels": levels,
                  "positivity": "raw", "lowest": lowest},
                 {"name": "b", "op": "linear", "inputs": ["a"], "weight": np.eye(6), "bias": None}]  # fmt: skip
        x = np.array([z]) / 16
        s, ann = executed(impl, nodes, x, levels, "streaming", None)
        assert np.array_equal(s.counts["a"], level_of(x, 1.0, levels, 0.5, lowest))
        assert np.array_equal(s.logits[-1], ann)

    check()


def with_lowest(random, nodes):
    """The nodes, each activation with a lowest level of its own between -L and 0."""
    return [node | ({"lowest": -int(random.integers(0, node["levels"] + 1))} if node["op"] == "qcfs" else {})
            for node in nodes]  # fmt: skip


@pytest.mark.parametrize("lowest", [1, -1.0, True, "x", None])
def test_a_lowest_level_is_a_whole_number_of_at_most_0(impl, lowest):
    needs(impl, "qcfs_level")
    with pytest.raises(reference.InputError, match=f"lowest must be a whole number of at most 0, got {lowest!r}"):
        impl.qcfs_level(np.zeros((1, 2)), np.array(1.0), 4, lowest=lowest)


def test_networks_have_room_for_a_phase(impl):
    node = {"name": "a", "op": "qcfs", "inputs": ["image"], "parameter": np.array(1.0), "levels": 4,
            "positivity": "raw", "lowest": -5}  # fmt: skip
    with pytest.raises(reference.InputError, match="lowest must be at least -4, the levels negated, got -5"):
        impl.convert(impl.build([node]), "signed")


def test_calibrations_refuse_negative_spikes(impl):
    node = {"name": "a", "op": "qcfs", "inputs": ["image"], "parameter": np.array(1.0), "levels": 4,
            "positivity": "raw", "lowest": -1}  # fmt: skip
    with pytest.raises(reference.InputError, match="a has levels below zero: calibrations are for neurons"):
        impl.calibrate(impl.convert(impl.build([node]), "streaming"), np.zeros((1, 2)), "srp", 2)
