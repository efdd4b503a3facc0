"""T3, any order: the signed neuron settles on level(total input) within L steps after its input stops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import random_networks as nets
from .equality import assert_equal
from .strategies import POWERS, dyadic_neuron, level_of, rational, rational_array
from .test_t2 import assert_exact, executed


def test_T3_settles_within_L_steps_after_any_input(impl, rounds, seen):
    shares = []

    @rounds(80)
    @given(neuron=dyadic_neuron(), levels=POWERS)
    def check(neuron, levels):
        currents, theta, _ = neuron
        quiet = np.zeros((levels, *currents.shape[1:]))
        spikes, sent = impl.st_bif_run(np.concatenate([currents, quiet]), theta, levels)
        assert np.shape(spikes) == (len(currents) + levels, *currents.shape[1:])
        level = level_of(currents.sum(axis=0), theta, levels)
        given = {"currents, then L steps of none": currents, "theta": theta, "L": levels}
        assert_equal("what st_bif_run has sent", sent, level, "T3: the level of all input", **given)
        own = impl.qcfs_level(currents.sum(axis=0), theta, levels)
        assert_equal("qcfs_level of all input", own, level, "Eq. 2-23", **given)
        assert set(np.unique(spikes)) <= {-1, 0, 1}
        tracer = np.cumsum(spikes, axis=0)
        assert ((tracer >= 0) & (tracer <= levels)).all(), "N stays in 0..L"
        assert np.array_equal(tracer[-1], sent)
        shares.append((level != 0).mean())

    check()
    seen(f"T3 {impl.name}: settled on the level after wild input, levels other than 0: {100 * np.mean(shares):.0f} %")


def test_T3_every_step_is_a_step_towards_the_level(impl, rounds):
    """Both forms agree in exact arithmetic: the incremental spike is signed_step(total so far, sent so far)."""

    @rounds(60)
    @given(neuron=dyadic_neuron(), levels=POWERS)
    def check(neuron, levels):
        currents, theta, _ = neuron
        spikes, _ = impl.st_bif_run(currents, theta, levels)
        assert np.shape(spikes) == currents.shape
        sent = np.zeros(currents.shape[1:])
        for t, spike in enumerate(spikes):
            total = currents[: t + 1].sum(axis=0)
            step = impl.signed_step(total, sent, theta, levels)
            given = {"currents": currents, "theta": theta, "L": levels, "step": t + 1, "sent before": sent}
            towards = np.sign(level_of(total, theta, levels) - sent)
            assert_equal("the spike of st_bif_run", spike, towards, "sign(level of all so far - sent)", **given)
            assert_equal("signed_step", step, towards, "clip(level(total) - sent, -1, 1)", **given)
            sent = sent + spike

    check()


def test_T3_in_exact_arithmetic(impl, rounds):
    if not impl.exact:
        pytest.skip("the contract asks Fractions of the reference alone")

    @rounds(50)
    @given(theta=rational(low=1, high=4), levels=st.integers(1, 7), data=st.data())
    def check(theta, levels, data):
        currents = data.draw(rational_array((4, 1, 3)))
        quiet = currents[:1] * 0
        _, sent = impl.st_bif_run(np.concatenate([currents, *[quiet] * levels]), theta, levels)
        assert (sent == impl.qcfs_level(currents.sum(axis=0), theta, levels)).all(), (currents, theta, levels)

    check()


def test_T3_whole_networks_with_integer_weights_bit_for_bit(impl, rounds, seen):
    """Signed spikes through CNNs, increments only: settled within 1 + D (L - 1) steps, equal in every bit."""
    shares, negative = [], []

    @rounds(30)
    @given(seed=st.integers(0, 10_000), depth=st.integers(1, 5), levels=st.sampled_from([2, 4, 8]))
    def check(seed, depth, levels):
        random = np.random.default_rng(seed)
        nodes, x = nets.integer_cnn(random, depth, levels), random.integers(0, 17, (3, 1, 4, 4)) / 16
        bound = 1 + depth * (levels - 1)
        s, ann = executed(impl, nodes, x, bound + 1, "signed", "increments")
        assert s.settled, f"seed {seed}, depth {depth}: a sample still fires after {bound} steps"
        shares.append(assert_exact(nodes, x, s, ann, "signed", f"seed {seed}, depth {depth}"))
        sent = sum(np.abs(c).sum() for c in s.counts.values()) / sum(c.size for c in s.counts.values())
        negative.append(s.spikes_per_neuron - sent)

    check()
    assert max(negative) > 0, "no spike was ever taken back, so nothing signed was tested"
    seen(f"T3 {impl.name}: integer CNNs, increments, settled, equal, neurons that spike: {100 * np.mean(shares):.0f} %")


def test_T3_operators_that_are_not_linear_telescope(impl, rounds):
    """Layer norm and softmax pass on f(X_t) - f(X_{t-1}) with f(X_1) first: f(0) = beta or 1/n is part of the total.

    One spiking layer on either side; image and weights dyadic, and no total of the second layer within 1e-9 of a tie,
    so that the telescoped sum's own rounding (some 1e-15) cannot decide a level.
    """

    @rounds(25)
    @given(seed=st.integers(0, 10_000), op=st.sampled_from(["layer_norm", "softmax"]),
           schedule=st.sampled_from(["signed", "integrate-then-fire"]))  # fmt: skip
    def check(seed, op, schedule):
        random, levels = np.random.default_rng(seed), 4
        qcfs = {"op": "qcfs", "levels": levels, "positivity": "raw", "parameter": np.array(1.0)}
        norm = {"gamma": np.full(6, 1.0), "beta": np.full(6, 0.5)} if op == "layer_norm" else {}
        nodes = [
            {"name": "fc0", "op": "linear", "inputs": ["image"], "weight": random.integers(-2, 3, (6, 5)) / 2},
            {"name": "act0", "inputs": ["fc0"], **qcfs},
            {"name": "norm", "op": op, "inputs": ["act0"], **norm},
            {"name": "fc1", "op": "linear", "inputs": ["norm"], "weight": random.normal(size=(6, 6)),
             "bias": random.normal(size=6)},
            {"name": "act1", "inputs": ["fc1"], **qcfs},
            {"name": "logits", "op": "linear", "inputs": ["act1"], "weight": random.normal(size=(3, 6))},
        ]  # fmt: skip
        x = random.integers(0, 17, (4, 5)) / 16
        steps = 2 * levels if schedule == "signed" else levels
        s, _ = executed(impl, nodes, x, steps, schedule, "increments")
        assert s.units_that_differ == 0, (
            f"{op} under {schedule}, seed {seed}: {s.units_that_differ:.1%} of units differ"
        )

    check()
