"""T1, constant current: with T = L the IF neuron's count is level(z). The proof over all reals is in test_proofs.py."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .equality import assert_equal
from .strategies import POWERS, SCALES, all_fractions, level_of, rational, rational_array


def constant(z, steps):
    """[T, 1, ...]: the same current at every step."""
    return np.stack([z[None]] * steps)


def test_T1_count_equals_level_on_every_edge(impl, rounds, seen):
    """Dyadic theta: every edge of every step and a quarter of a step either side, in exact arithmetic."""
    shares = []

    @rounds(40)
    @given(steps=POWERS, theta=SCALES)
    def check(steps, theta):
        edges = (np.arange(-2, steps + 3) - 0.5) * theta / steps
        inside = edges + theta / (4 * steps)
        z = np.concatenate([edges, inside, inside - theta / (2 * steps)])
        spikes, membrane = impl.if_run(constant(z, steps), np.array(theta))
        level = level_of(z, theta, steps)
        if impl.has("qcfs_level"):
            own = impl.qcfs_level(z, theta, steps)
            assert np.array_equal(own, level), "qcfs_level is clip(floor(z L / theta + 1/2), 0, L)"
        assert np.shape(spikes) == (steps, 1, len(z))
        wrong = np.flatnonzero(spikes.sum(axis=0)[0] != level)
        counts = spikes.sum(axis=0)[0]
        assert not wrong.size, (
            f"if_run at z = {z[wrong[:3]]}, theta = {theta}, T = {steps}: counts {counts[wrong[:3]]}, "
            f"expected {level[wrong[:3]]} (T1)"
        )
        assert set(np.unique(spikes)) <= {0, 1}
        left = (theta / 2 + steps * z - theta * level)[None]
        law = "V(T) = theta / 2 + T z - theta count: a spike lowers V by theta, and does not set it to 0"
        assert_equal("if_run's last membrane", membrane, left, law, z=z, theta=theta, T=steps)
        shares.append((level != 0).mean())

    check()
    seen(f"T1 {impl.name}: counts equal levels on all edges, levels other than 0: {100 * np.mean(shares):.0f} %")


def test_T1_holds_for_varying_currents_and_any_start(impl, rounds):
    """Any order of currents in [0, theta], and any V0 / theta = phi in [0, 1]."""

    @rounds(60)
    @given(steps=POWERS, theta=st.sampled_from([0.5, 1.0, 4.0]), phi=st.integers(0, 8), data=st.data())
    def check(steps, theta, phi, data):
        parts = data.draw(st.lists(st.integers(0, 8), min_size=4 * steps, max_size=4 * steps))
        currents = np.array(parts, dtype=float).reshape(steps, 1, 4) * theta / 8
        spikes, _ = impl.if_run(currents, np.array(theta), np.array(phi * theta / 8))
        level = level_of(currents.mean(axis=0), theta, steps, phi / 8)
        given = {"currents": currents, "theta": theta, "V0": phi * theta / 8}
        law = "T1: floor(mean T / theta + V0 / theta), for currents within 0 and theta in any order"
        assert_equal("counts of if_run", spikes.sum(axis=0), level, law, **given)
        own = impl.qcfs_level(currents.mean(axis=0), theta, steps, phi / 8)
        assert_equal("qcfs_level of the mean current, shift V0 / theta", own, level, "Eq. 2-23", **given)

    check()


def test_T1_in_exact_arithmetic(impl, rounds):
    """Any L, on Fractions: 1/3 is no float, and its ties are ties."""
    if not impl.exact:
        pytest.skip("the contract asks Fractions of the reference alone")

    @rounds(80)
    @given(z=rational_array((6,)), theta=rational(low=1, high=5), steps=st.integers(1, 9))
    def check(z, theta, steps):
        spikes, membrane = impl.if_run(constant(z, steps), theta)
        level = impl.qcfs_level(z, theta, steps)
        assert (spikes.sum(axis=0)[0] == level).all(), (z, theta, steps)
        for exact in (spikes, membrane, level, impl.qcfs(z, theta, steps), *impl.qcfs_grad(z, theta, steps)):
            assert all_fractions(exact), f"an element left exact arithmetic: {np.ravel(exact)[:3]}"

    check()


@pytest.mark.parametrize("leak", [0.0, 0.5, 1.0])
def test_a_leak_of_1_is_the_if_neuron(impl, rounds, leak):
    """lif_run decays before it adds: V <- leak V + z (Eq. 2-8); by hand for three steps, at any dyadic scale."""

    @rounds(20)
    @given(scale=SCALES)
    def check(scale):
        z = np.array([0.5, 0.25, 0.75])[:, None, None] * scale
        spikes, membrane = impl.lif_run(z, np.array(scale), leak)
        expected = {0.0: ([0, 0, 0], 0.75), 0.5: ([0, 0, 1], 0.0625), 1.0: ([1, 0, 1], 0.0)}[leak]
        law, given = "V <- leak V + z, then fire, then V <- V - theta s", {"currents": z, "theta": scale, "leak": leak}
        assert_equal("spikes of lif_run", np.ravel(spikes), expected[0], law, **given)
        assert_equal("lif_run's last membrane", np.ravel(membrane), [expected[1] * scale], law, **given)

    check()


def test_T1_is_tight_at_one_third():
    """Why the exact round matters: theta = 1, L = T = 3, z = 1/2 is a tie, and level is 2, not 1."""
    import reference

    z = np.array([Fraction(1, 2)], dtype=object)
    assert reference.qcfs_level(z, Fraction(1), 3)[0] == 2
    assert reference.if_run(constant(z, 3), Fraction(1))[0].sum() == 2
