"""N1, the limit of the claim: streaming IF neurons in a deep network do not equal their quantised ANN at T = L.

The solver's search is in test_proofs.py.
"""

import numpy as np
import pytest
from hypothesis import find, given
from hypothesis import strategies as st

import reference

from . import random_networks as nets
from .equality import assert_equal
from .strategies import SCALES
from .test_t2 import assert_same_counts


@pytest.mark.parametrize(("currents", "count", "level"), [((0.5, -0.25), 1, 0), ((0.0, 1.5), 1, 2)])
def test_N1_smallest_cases(impl, rounds, currents, count, level):
    """In units of theta, T = 2: fires at once and cannot take it back; fires too late."""

    @rounds(20)
    @given(theta=SCALES)
    def check(theta):
        z = np.array(currents)[:, None, None] * theta
        given = {"currents": z, "theta": theta}
        why = "N1: it fires at once, or too late, and so misses the level"
        assert_equal("the count of if_run", impl.if_run(z, np.array(theta))[0].sum(axis=0), [[count]], why, **given)
        own = impl.qcfs_level(z.mean(axis=0), theta, 2)
        assert_equal("qcfs_level of the mean", own, [[level]], "Eq. 2-23 with L = 2", **given)

    check()


@pytest.mark.parametrize(("currents", "level"), [((0.5, -0.25), 0), ((0.0, 1.5), 2)])
def test_N1_other_neurons_get_the_smallest_cases_right(impl, currents, level):
    z = np.array(currents)[:, None, None]
    assert impl.integrate_then_fire_run(z, np.array(1.0))[0].sum() == level
    assert impl.st_bif_run(np.concatenate([z, 0 * z]), np.array(1.0), 2)[1].item() == impl.qcfs_level(
        z.sum(axis=0), 1.0, 2
    )


def test_N1_hypothesis_shrinks_it():
    """From any currents in quarters, shrinking ends at two steps: T = 1 cannot fail."""

    def fails(quarters):
        z = np.array(quarters, dtype=float)[:, None, None] / 4
        return reference.if_run(z, np.array(1.0))[0].sum() != reference.qcfs_level(z.mean(axis=0), 1.0, len(z)).item()

    smallest = find(st.lists(st.integers(-8, 8), min_size=1, max_size=8), fails)
    assert len(smallest) == 2, smallest
    assert any(not 0 <= q <= 4 for q in smallest), "inside [0, theta] T1 forbids it"


def test_N1_errors_grow_with_depth(impl, seen, first_seed):
    """Random networks, T = L = 8: the share of the last layer's units that differ, at depth 1, 2, 4 and 8."""
    shares = {}
    for depth in (1, 2, 4, 8):
        differ, spike = [], []
        for seed in range(first_seed, first_seed + 6):
            random = np.random.default_rng(seed)
            x = nets.images(random, "mlp", 64)
            nodes = nets.quantised(nets.mlp(random, depth, width=48), x, "s-qcfs", 8)
            s = impl.simulate(impl.convert(impl.build(nodes), "streaming"), x, 8)
            # the membrane's rounding, some 1e-15, would have to meet a threshold: about 1e-12 a unit
            assert_same_counts(nodes, x, 8, s, f"seed {seed}, depth {depth}")
            differ.append(s.units_that_differ_last)
            spike.append((s.counts[f"act{depth - 1}"] != 0).mean())
        shares[depth] = np.mean(differ)
        assert np.mean(spike) > 0.05, "the last layer is dead, nothing is compared"
    assert shares[1] == 0, "T1: one layer under a constant current is exact (float64, no tie behind Gaussian weights)"
    assert 0 < shares[2] < shares[4] < shares[8], shares
    line = ", ".join(f"{100 * share:.0f} % at depth {depth}" for depth, share in shares.items())
    seen(f"N1 {impl.name}: streaming, T = L = 8, last layer's units that differ: {line}")
