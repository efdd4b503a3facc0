"""T4, in expectation: T1's neuron has no error on average for any T and L (Bu et al. 2022, Theorem 2).

Count and level are piecewise constant in z, so the integral is a finite sum, exact in fractions: on each piece the
implementation says what its count and its level are, asked in the middle, far from any tie.
"""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


def mean_error(impl, steps, levels, low=Fraction(0), high=Fraction(1)):
    """The mean of theta N / T - qcfs(z) over z uniform on [low, high], theta = 1, as a Fraction."""
    edges = {low, high}
    for n in (steps, levels):
        edges |= {e for k in range(n + 1) if low < (e := Fraction(2 * k - 1, 2 * n)) < high}
    edges = sorted(edges)
    middle = [(a + b) / 2 for a, b in pairwise(edges)]
    z = np.array([float(m) for m in middle])
    counts = impl.if_run(np.stack([z[None]] * steps), np.array(1.0))[0].sum(axis=0)[0]
    level = impl.qcfs_level(z, 1.0, levels)
    widths = [b - a for a, b in pairwise(edges)]
    pieces = zip(widths, counts, level, strict=True)
    total = sum(w * (Fraction(int(n), steps) - Fraction(int(k), levels)) for w, n, k in pieces)
    return total / (high - low), counts


def test_T4_no_error_in_expectation(impl, rounds, seen):
    shares = []

    @rounds(60)
    @given(steps=st.integers(1, 24), levels=st.integers(1, 24))
    def check(steps, levels):
        error, counts = mean_error(impl, steps, levels)
        assert error == 0, f"T = {steps}, L = {levels}: mean error {error}"
        shares.append((counts != 0).mean())

    check()
    seen(f"T4 {impl.name}: mean error exactly 0 for T, L up to 24, counts other than 0: {100 * np.mean(shares):.0f} %")


@pytest.mark.parametrize(
    ("low", "high", "zero"), [("1/4", "3/4", True), ("-2", "3/2", True), ("-1/3", "7/5", True), ("0", "1/2", False)]
)
def test_T4_on_other_intervals(impl, low, high, zero):
    """Also on every interval symmetric about theta / 2 or containing [0, theta]; not on [0, theta / 2]."""
    error, _ = mean_error(impl, 1, 2, Fraction(low), Fraction(high))
    assert error == (0 if zero else Fraction(-1, 4)), f"on [{low}, {high}]: {error}"


def test_T4_is_not_claimed_on_a_grid(impl):
    """On z in {0, 1/2, 1}, T = 1, L = 2, the mean error is 1/6."""
    z = np.arange(3) / 2
    counts = impl.if_run(z[None, None], np.array(1.0))[0][0, 0]
    assert (counts - impl.qcfs(z, 1.0, 2)).sum() == 0.5
