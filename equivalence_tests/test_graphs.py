"""T2, T3 and T5 on arbitrary acyclic networks, and both implementations against each other there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import random_networks as nets
from .pairs import run_conversion_error, run_simulation
from .test_t5 import claim, needs_networks


@pytest.mark.parametrize("schedule", ["streaming", "integrate-then-fire", "signed"])
def test_graphs_both_sides_agree_exactly(impl, partner, rounds, schedule):
    """Dyadic graphs, any T, mixed L if layers do not wait: counts, logits, shares, errors, in every arithmetic."""

    @rounds(25)
    @given(seed=st.integers(0, 10_000), steps=st.sampled_from([1, 2, 4, 8]))
    def check(seed, steps):
        random = np.random.default_rng(seed)
        nodes = nets.graph(random, exact=True, levels=8 if schedule == "integrate-then-fire" else None)
        x = random.integers(-8, 17, (3, 4)) / 16
        for run in (run_simulation, run_conversion_error):
            ours, theirs = (run(side, nodes, x, steps, schedule) for side in (impl, partner))
            for a, b in zip(ours, theirs, strict=True):
                # theta / 3 is not dyadic: conversion errors are compared within rounding, all else exactly
                same = np.abs(a - b) <= (1e-12 if run is run_conversion_error else 0)
                assert (same | (np.isnan(a) & np.isnan(b))).all(), (run.__name__, seed, steps)

    check()


@pytest.mark.parametrize("arithmetic", ["totals", "increments"])
@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed"])
def test_T2_T3_graphs_equal_their_quantised_network(impl, rounds, schedule, arithmetic, seen):
    """Exact arithmetic: equal in every bit; with mixed L, settled within 1 + the longest sum of (L - 1)."""
    shares = []

    @rounds(25)
    @given(seed=st.integers(0, 10_000), levels=st.sampled_from([1, 2, 4, 8]))
    def check(seed, levels):
        random = np.random.default_rng(seed)
        nodes = nets.graph(random, exact=True, levels=None if schedule == "signed" else levels)
        x, network = random.integers(-8, 17, (3, 4)) / 16, impl.build(nodes)
        steps = nets.settling_bound(nodes) + 1 if schedule == "signed" else levels
        s = impl.simulate(impl.convert(network, schedule), x, steps, arithmetic)
        assert s.units_that_differ == 0, (seed, levels)
        assert (s.logits[-1] == impl.answer(network, x)).all(), (seed, levels)
        assert s.settled is not False
        shares.append(np.mean(list(s.nonzero_share.values())))

    check()
    seen(
        f"T2, T3 {impl.name}: random graphs, {schedule}, {arithmetic}, "
        f"neurons that spike: {100 * np.mean(shares):.0f} %"
    )


@pytest.mark.parametrize("format", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed"])
def test_T5_graphs_with_operators_that_are_not_linear(impl, rounds, format, schedule, seen):
    """Layer norm and softmax between the layers, image skips, unread layers: logits equal in every bit."""
    needs_networks(impl)
    if format not in impl.formats:
        pytest.skip("NumPy has no bfloat16")
    shares = []

    @rounds(20)
    @given(seed=st.integers(0, 10_000), levels=st.sampled_from([1, 3, 8, 16]))
    def check(seed, levels):
        random = np.random.default_rng(seed)
        nodes = nets.graph(random, exact=False, levels=None if schedule == "signed" else levels)
        x = random.uniform(-0.5, 1, (3, 4))
        steps = nets.settling_bound(nodes) + 1 if schedule == "signed" else levels
        s, equal = claim(impl, nodes, x, schedule, steps, format)
        assert s.units_that_differ == 0, (seed, levels)
        assert equal, (seed, levels)
        shares.append(np.mean(list(s.nonzero_share.values())))

    check()
    seen(f"T5 {impl.name}: random graphs with layer norm and softmax, {format}, {schedule}: 0 bits differ, "
         f"neurons that spike: {100 * np.mean(shares):.0f} %")  # fmt: skip


def test_streaming_acts_on_means_through_operators_that_are_not_linear(impl, rounds):
    """What a layer norm or softmax has passed on by step t is t f(mean so far): its neuron sees the mean that f gives.

    One neuron behind f on a constant image: the mean current is f(x) itself, so that T1 gives its level. Equality but
    within 1e-9 of a tie: the telescoped sum is off by some 1e-15.
    """

    @rounds(20)
    @given(seed=st.integers(0, 10_000), op=st.sampled_from(["layer_norm", "softmax"]), levels=st.integers(1, 12))
    def check(seed, op, levels):
        random = np.random.default_rng(seed)
        norm = {"gamma": random.normal(size=4), "beta": random.normal(size=4)} if op == "layer_norm" else {}
        nodes = [
            {"name": "f", "op": op, "inputs": ["image"], **norm},
            {"name": "act", "op": "qcfs", "inputs": ["f"], "parameter": np.array(0.75), "levels": levels,
             "positivity": "raw"},
            {"name": "logits", "op": "linear", "inputs": ["act"], "weight": np.eye(4)},
        ]  # fmt: skip
        s = impl.simulate(impl.convert(impl.build(nodes), "streaming"), random.normal(size=(5, 4)), levels)
        assert s.units_that_differ == 0, (seed, op, levels)

    check()
