"""G1: the derivatives are those of the straight-through surrogate, inside, outside and on the bounds.

The surrogate holds the fraction r = u - floor(u) fixed: f~ = (theta / L)(u(z, theta) - r) inside, theta above, 0 below.
It is smooth where no bound is crossed, so a finite difference of it is an independent check.
"""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from . import random_networks as nets
from .strategies import LEVELS, POWERS


def surrogate(z, theta, levels, at_z, at_theta):
    """The straight-through surrogate around (at_z, at_theta), as a smooth function of z and theta."""
    u0 = at_z * levels / at_theta + 0.5
    if u0 < 0:
        return 0.0
    if u0 >= levels:
        return theta
    return theta / levels * (z * levels / theta + 0.5 - (u0 - np.floor(u0)))


def difference(f, x, h=1e-6):
    """Central difference."""
    return (f(x + h) - f(x - h)) / (2 * h)


def test_G1_derivatives_against_finite_differences(impl, rounds):
    @rounds(150)
    @given(z=st.floats(-2, 6), theta=st.floats(0.2, 4), levels=LEVELS)
    def check(z, theta, levels):
        u = z * levels / theta + 0.5
        assume(min(abs(u), abs(u - levels)) > 1e-3)  # never across a bound; steps inside are bridged by the surrogate
        by_z, by_theta = impl.qcfs_grad(np.array([z]), np.array(theta), levels)
        expected_z = difference(lambda x: surrogate(x, theta, levels, z, theta), z)
        expected_theta = difference(lambda x: surrogate(z, x, levels, z, theta), theta)
        # a central difference of width 1e-6 loses 1e-16 / 1e-6 to rounding and h^2 f''' to curvature; 1e-6 covers both
        assert abs(by_z[0] - expected_z) < 1e-6, (
            f"d/dz at z={z}, theta={theta}, L={levels}: {by_z[0]}, not {expected_z}"
        )
        assert abs(by_theta[0] - expected_theta) < 1e-6, (
            f"d/dtheta at z={z}, theta={theta}, L={levels}: {by_theta[0]}, not {expected_theta}"
        )

    check()


def test_G1_on_the_bounds(impl, rounds):
    """0 <= u < L: u = 0 is inside, u = L is not; exact for dyadic theta."""

    @rounds(40)
    @given(theta=st.sampled_from([0.5, 1.0, 2.0, 4.0]), levels=POWERS)
    def check(theta, levels):
        low, high = -theta / (2 * levels), theta - theta / (2 * levels)
        by_z, by_theta = impl.qcfs_grad(np.array([[low, high]]), np.array(theta), levels)
        assert by_z.tolist() == [[1, 0]], f"d/dz at u = 0 and u = L, theta={theta}, L={levels}: {by_z}"
        assert by_theta.tolist() == [[0.5 / levels, 1]], f"d/dtheta at u = 0 and u = L: {by_theta}"

    check()


@pytest.mark.parametrize("positivity", ["raw", "softplus", "exp"])
def test_G1_parameter(impl, rounds, positivity):
    """d loss / d lambda, summed over batch and block, against a finite difference of the surrogate in lambda."""

    @rounds(40)
    @given(seed=st.integers(0, 10_000), levels=LEVELS)
    def check(seed, levels):
        random = np.random.default_rng(seed)
        z, upstream = random.uniform(-1, 3, (3, 2, 2, 2)), random.normal(size=(3, 2, 2, 2))
        lam = random.uniform(0.5, 2, (2, 1, 1))
        theta_of = {"softplus": lambda x: np.log1p(np.exp(x)), "raw": lambda x: x, "exp": np.exp}[positivity]
        theta = np.broadcast_to(theta_of(lam), z.shape)
        u = z * levels / theta + 0.5
        assume(min(np.abs(u).min(), np.abs(u - levels).min()) > 1e-3)
        got = impl.qcfs_parameter_grad(z, lam, levels, positivity, upstream)
        expected = np.zeros_like(lam)
        for n, c, i, j in np.ndindex(*z.shape):
            at = z[n, c, i, j], theta[n, c, i, j]
            f = lambda x, at=at: surrogate(at[0], theta_of(x), levels, *at)  # noqa: E731
            expected[c] += upstream[n, c, i, j] * difference(f, lam[c, 0, 0])
        assert got.shape == lam.shape
        # 12 central differences, each within 1e-6, times upstream of size 1
        assert np.allclose(got, expected, rtol=0, atol=3e-5), f"{positivity}, L={levels}, lambda={lam.ravel()}: {got}"

    check()


def gradients(impl, nodes, x, upstream):
    """{(node, part): d loss / d part} in training mode, by the implementation's own backward pass."""
    if impl.torch:
        network = impl.native("build")(impl.encode(nodes)).train()
        network(impl.encode(x)).backward(impl.encode(upstream))
        parts = {"weight": "gamma", "bias": "beta"}
        norms = {node["name"] for node in nodes if node["op"] in ("batch_norm", "layer_norm")}
        found = {
            tuple(name.rsplit(".", 1)): p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None
        }
        return {(node, parts[part] if node in norms else part): g for (node, part), g in found.items()}
    training = __import__(impl.module.__name__ + ".network", fromlist=["backward"])
    network = impl.native("build")(nodes)
    return training.backward(network, training.forward(network, x, training=True), upstream)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_G1_through_whole_networks(impl, partner, rounds, kind, seen):
    """The backward pass written out equals autograd's, thresholds included, batch norm in training mode."""
    if not (impl.has("build") and (impl.torch or hasattr(impl.module, "network"))):
        impl.native("build")
        pytest.skip("the file has no network.backward")  # a student's file need not have network-level names
    share = []

    @rounds(25)
    @given(
        seed=st.integers(0, 10_000), levels=st.sampled_from([2, 4, 8]), activation=st.sampled_from(["qcfs", "cs-qcfs"])
    )
    def check(seed, levels, activation):
        import reference

        random = np.random.default_rng(seed)
        nodes = nets.mlp(random, 3, residual=True) if kind == "mlp" else nets.cnn(random, 5)
        x = nets.images(random, kind, 8)
        nodes = reference.quantise(nodes, activation, levels, 0.8, sample=x)  # 1 would hide a division
        upstream = random.normal(size=(8, 5))
        ours, theirs = (gradients(side, nodes, x, upstream) for side in (impl, partner))
        assert set(ours) == set(theirs), f"gradients are missing: {set(ours) ^ set(theirs)}"
        for key, expected in theirs.items():
            # sums of a few hundred terms in another order; batch norm divides by a deviation of about 1
            assert np.allclose(ours[key], expected, rtol=0, atol=1e-9 * max(1, np.abs(expected).max())), key
        share.append(np.mean([np.any(g != 0) for (_, part), g in theirs.items() if part == "parameter"]))

    check()
    seen(f"G1 {impl.name}: whole {kind}s, thresholds with a gradient other than 0: {100 * np.mean(share):.0f} %")
