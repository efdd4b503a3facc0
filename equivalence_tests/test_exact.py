"""The reference stays exact on Fractions wherever no exponential is involved, layers and whole networks included."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from reference import layers

from . import random_networks as nets
from .strategies import all_fractions, rational_array

THIRDS = {"low": -2, "high": 2, "denominators": (1, 2, 3)}


def fractions(x, denominator=3):
    """Random-looking Fractions in the shape of an array."""
    return np.frompyfunc(lambda v: Fraction(round(float(v) * denominator), denominator), 1, 1)(np.asarray(x))


def test_layers_and_their_derivatives_stay_exact(rounds):
    @rounds(10)
    @given(seed=st.integers(0, 10_000), stride=st.integers(1, 3), padding=st.integers(0, 1))
    def check(seed, stride, padding):
        random = np.random.default_rng(seed)
        x, weight = fractions(random.normal(size=(1, 2, 5, 5))), fractions(random.normal(size=(2, 2, 2, 2)))
        y = reference.conv2d(x, weight, fractions(random.normal(size=2)), stride, padding)
        upstream = fractions(random.normal(size=y.shape))
        exact = [y, *layers.conv2d_grad(x, weight, upstream, stride, padding)]
        pooled = reference.avg_pool2d(x, 2)
        exact += [pooled, layers.avg_pool2d_grad(x, 2, fractions(random.normal(size=pooled.shape)))]
        rows, matrix = fractions(random.normal(size=(3, 4))), fractions(random.normal(size=(2, 4)))
        exact += [
            reference.linear(rows, matrix),
            *layers.linear_grad(rows, matrix, fractions(random.normal(size=(3, 2)))),
        ]
        exact += [reference.sum_to(x, (2, 1, 1)), reference.sum_to(x, ())]
        theta = fractions(random.uniform(1, 2, (2, 1, 1)))
        exact += [reference.qcfs_parameter_grad(x, theta, 3, "raw", x), *reference.qcfs_grad(x, theta, 3)]
        for i, value in enumerate(exact):
            assert all_fractions(value), f"result {i} holds { ({type(v) for v in np.ravel(value)}) }"
        # the adjoint, exactly: <conv(x), g> = <x, dx> for a linear map, whatever stride and padding
        plain = reference.conv2d(x, weight, None, stride, padding)
        assert (plain * upstream).sum() == (x * exact[1]).sum() == (weight * exact[2]).sum()

    check()


@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed"])
@pytest.mark.parametrize("arithmetic", ["totals", "increments"])
def test_whole_networks_in_exact_arithmetic(rounds, schedule, arithmetic, seen):
    """T2 and T3 without a single rounding: thirds and L = 3, skips and pooling; every number in sight is a Fraction."""
    shares = []

    @rounds(4)
    @given(seed=st.integers(0, 10_000), depth=st.integers(1, 4))
    def check(seed, depth):
        random = np.random.default_rng(seed)
        nodes = nets.integer_cnn(random, depth, 3, channels=2)
        nodes = [{k: fractions(v) if isinstance(v, np.ndarray) else v for k, v in node.items()} for node in nodes]
        network, x = reference.build(nodes), fractions(random.uniform(0, 1, (1, 1, 4, 4)))
        steps = 3 if schedule == "integrate-then-fire" else 2 + 2 * depth
        s = reference.simulate(reference.convert(network, schedule), x, steps, arithmetic)
        ann = reference.answer(network, x)
        assert all_fractions(s.logits)
        assert all_fractions(ann)
        assert s.units_that_differ == 0
        assert (s.logits[-1] == ann).all()
        for parts in reference.conversion_error(network, x, steps, schedule).values():
            assert all(map(all_fractions, parts))
            assert (parts.unevenness == 0).all()
        shares.append(np.mean(list(s.nonzero_share.values())))

    check()
    share = f"neurons that spike: {100 * np.mean(shares):.0f} %"
    seen(f"exact: whole networks on Fractions, {schedule}, {arithmetic}: equal, {share}")


def test_currents_of_thirds(rounds):
    """T1 where floats cannot go: theta / L = 1/9, so that a third of a step is a tie or none, exactly."""

    @rounds(40)
    @given(rational_array((5,), **THIRDS))
    def check(z):
        spikes, _ = reference.if_run(np.stack([z[None]] * 3), Fraction(1, 3))
        assert (spikes.sum(axis=0)[0] == reference.qcfs_level(z, Fraction(1, 3), 3)).all(), z

    check()
