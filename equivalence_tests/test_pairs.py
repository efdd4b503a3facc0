"""Every row of the table of pairs: the implementation under test against its partner."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import random_networks as nets
from .pairs import PAIRS, run_expanded, run_quantised


def arrays(value):
    """A flat list of arrays from an answer."""
    if isinstance(value, (list, tuple)) and not all(isinstance(v, (int, np.integer)) for v in value):
        return [array for part in value for array in arrays(part)]
    return [np.asarray(value)]


def compare(pair, ours, theirs, arguments):
    """Assert that two answers agree as the pair says; the message names the pair, the place and the arguments."""
    assert len(ours) == len(theirs), f"{pair.name}: {len(ours)} arrays instead of {len(theirs)}"
    for got, expected in zip(ours, theirs, strict=True):
        assert got.shape == expected.shape, f"{pair.name}: shape {got.shape}, expected {expected.shape} for {arguments}"
        if pair.tolerance == 0:
            assert got.dtype == expected.dtype, f"{pair.name}: format {got.dtype}, expected {expected.dtype}"
            wrong = ~((got == expected) | (np.isnan(got.astype(float)) & np.isnan(expected.astype(float))))
        else:
            scale = np.abs(expected).max(initial=0) if pair.name not in ELEMENTWISE else np.abs(expected)
            scale = np.maximum(scale, 1) if pair.name == "softplus_inverse" else scale  # it passes through 0 at ln 2
            wrong = ~(np.abs(got - expected) <= pair.tolerance * scale + 5e-324)
        where = np.argwhere(wrong)[:1]
        assert not wrong.any(), (
            f"{pair.name} at {where.tolist()}: {got[wrong].ravel()[0]!r}, expected {expected[wrong].ravel()[0]!r}, "
            f"allowed {pair.tolerance} ({pair.reason}); arguments {arguments}"
        )


ELEMENTWISE = ("softplus", "softplus_inverse", "softplus_slope")


def named(pairs):
    """Test names: the pair's own, numbered where a name has several rows."""
    names = [pair.name for pair in pairs]
    return [n if names.count(n) == 1 else f"{n}-{names[:i].count(n) + 1}" for i, n in enumerate(names)]


@pytest.mark.parametrize("pair", PAIRS, ids=named(PAIRS))
def test_pair(impl, partner, pair, rounds):
    call = pair.call or (lambda side, *arguments: getattr(side, pair.name)(*arguments))

    @rounds(pair.rounds)
    @given(pair.strategy)
    def check(arguments):
        compare(pair, arrays(call(impl, *arguments)), arrays(call(partner, *arguments)), arguments)

    check()


@pytest.mark.parametrize("run", [run_quantised, run_expanded])
@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), activation=st.sampled_from(["qcfs", "s-qcfs", "c-qcfs", "cs-qcfs"]))
def test_quantised_networks_agree(impl, partner, run, seed, activation):
    """quantise, expand: both sides give the same logits."""
    random = np.random.default_rng(seed)
    kind = ["mlp", "cnn"][seed % 2]
    nodes = getattr(nets, kind)(random, 1 + seed % 3)
    x = nets.images(random, kind, 6)
    ours, theirs = (run(side, nodes, x, activation, 8) for side in (impl, partner))
    same = np.abs(ours - theirs).max(axis=1) <= 1e-9 * np.abs(theirs).max()
    # in float64 a pre-activation lies within rounding (1e-15) of a step with a chance of about 1e-12 a unit;
    # calibration puts each block's largest activation exactly on z = theta, half a step away from any edge
    assert same.all(), f"logits of {int((~same).sum())} of {len(same)} images differ"
