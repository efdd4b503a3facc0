"""Inputs where errors show: on the edge of a step and a few units in the last place next to it, dyadic and rational.

Plain random floats found no tie in 2,000 examples; `near_step` finds one in a few.
"""

from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

LEVELS = st.integers(1, 32)
POWERS = st.sampled_from([1, 2, 4, 8, 16, 32])  # L for which theta / L stays dyadic
SCALES = st.integers(1, 4096).map(lambda k: k / 256)  # dyadic thresholds: exact with dyadic multiples of themselves
FORMATS = st.sampled_from([np.float32, np.float64])


def nudged(value, ulps):
    """`value` moved by that many units in the last place."""
    for _ in range(abs(ulps)):
        value = np.nextafter(value, value.dtype.type(np.inf if ulps > 0 else -np.inf))
    return value


@st.composite
def thresholds(draw, dtype=np.float64):
    """A positive threshold between 2^-6 and 2^6 with any significand."""
    return dtype(draw(st.floats(1 / 64, 64, width=32)))


@st.composite
def near_step(draw, size=8, lowest=0):
    """(z [1, size], theta (), L): each z on the edge of a step of level(), or up to 3 ulp either side, or anywhere."""
    dtype = draw(FORMATS)
    theta, levels = draw(thresholds(dtype)), draw(LEVELS)
    z = []
    for _ in range(size):
        edge = dtype(theta * dtype(draw(st.integers(lowest - 1, levels + 1)) + 0.5) / dtype(levels))
        anywhere = dtype(draw(st.floats(-2, 3))) * theta
        z.append(nudged(edge, draw(st.integers(-3, 3))) if draw(st.booleans()) else anywhere)
    return np.array([z], dtype=dtype), np.array(theta), levels


@st.composite
def dyadic(draw, low=-64, high=64, denominator=16):
    """k / denominator as a float: sums and products of a few of them are exact in float64."""
    return draw(st.integers(low, high)) / denominator


def dyadic_array(shape, low=-64, high=64, denominator=16):
    """An array of dyadic numbers."""
    size = int(np.prod(shape))
    return st.lists(dyadic(low, high, denominator), min_size=size, max_size=size).map(
        lambda values: np.array(values, dtype=float).reshape(shape)
    )


@st.composite
def dyadic_neuron(draw, steps=None, size=6, low=-64, high=96):
    """(currents [T, 1, size], theta (), L = T): all exact in float64, ties common (theta / 2 L divides many inputs)."""
    steps = draw(POWERS) if steps is None else steps
    theta = draw(st.sampled_from([0.5, 1.0, 2.0]))
    unit = theta / (2 * steps)
    ints = st.integers(-2 * steps, 3 * steps)
    z = draw(st.lists(st.lists(ints, min_size=size, max_size=size), min_size=steps, max_size=steps))
    return np.array(z, dtype=float)[:, None] * unit, np.array(theta), steps


@st.composite
def rational(draw, low=-3, high=3, denominators=(1, 2, 3, 5, 6, 7, 12)):
    """A Fraction with a small denominator, so that ties happen."""
    d = draw(st.sampled_from(denominators))
    return Fraction(draw(st.integers(low * d, high * d)), d)


def rational_array(shape, **bounds):
    """An object array of Fractions."""
    size = int(np.prod(shape))

    def pack(values):
        flat = np.empty(size, dtype=object)
        flat[:] = values
        return flat.reshape(shape)

    return st.lists(rational(**bounds), min_size=size, max_size=size).map(pack)


def level_of(z, theta, levels, phi=0.5, lowest=0):
    """clip(floor(z L / theta + phi), lowest, L) in plain NumPy, for dyadic inputs: what a file is judged by."""
    return np.clip(np.floor(z * levels / theta + phi), lowest, levels)


def all_fractions(x):
    """Whether every element of an object array is a Fraction: an int divided by an int would be a float."""
    return all(isinstance(v, Fraction) for v in np.asarray(x, dtype=object).ravel())
