"""Initial thresholds: both packages alike, the definitions by brute force, and what an outlier costs."""

import numpy as np
import pytest
import torch

import accelerated
import reference
from accelerated import initial as fast
from reference import initial
from reference.network import forward

from . import random_networks as nets

METHODS = ("max", "p99", "p50", "mse")
SHAPES = ((), (3, 1, 1), (4,))


def activations(seed):
    return np.random.default_rng(seed).normal(size=(20, 3, 5, 4)) ** 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_packages_choose_the_same(method, shape):
    for seed in range(10):
        z = activations(seed)
        largest = initial.block_maximum(initial.image_maxima(z, shape), method)
        theta = initial.initial_threshold(initial.histogram(z, largest), largest, 4, method)
        x = torch.from_numpy(z)
        most = fast.block_maximum(fast.image_maxima(x, shape), method)
        ours = fast.initial_threshold(fast.histogram(x, most), most, 4, method).numpy()
        assert theta.shape == ours.shape == shape
        assert (theta == ours).all(), "the same IEEE operations in the same order"
        assert (theta < largest).any() != (method == "max")


@pytest.mark.parametrize("levels", [1, 4, 15])
def test_least_squares_are_least(levels):
    """No candidate has smaller squares, counted exactly and not by histogram, but for what a bin's width can change."""
    z = activations(3)
    largest = initial.block_maximum(initial.image_maxima(z, (3, 1, 1)), "mse")
    theta = initial.initial_threshold(initial.histogram(z, largest), largest, levels, "mse")
    relu = np.clip(z, 0, largest)  # an outlier counts as the maximum

    def squares(threshold):
        return ((reference.qcfs(z, threshold, levels) - relu) ** 2).mean(axis=(0, 2, 3))

    found = squares(theta)
    every = np.array([squares(largest * share) for share in initial.CANDIDATES])
    # a value moves by half a bin, at most 1/256 of it: (e + d)^2 - e^2 <= 2 |e| d + d^2 for both sums that are compared
    bin = np.sqrt((relu**2).mean(axis=(0, 2, 3))) / 256
    assert (found <= every.min(axis=0) + 2 * (2 * np.sqrt(found) * bin + bin**2)).all()
    assert (found < 0.95 * squares(largest)).any()


def test_a_percentile_leaves_its_share_above():
    z = np.abs(activations(4))
    largest = initial.block_maximum(initial.image_maxima(z, ()), "p90")
    theta = initial.initial_threshold(initial.histogram(z, largest), largest, 4, "p90")
    assert (z <= theta).mean() >= 0.9
    assert (z <= theta * (1 - 1 / initial.PARTS)).mean() < 0.9, "an edge lower is too low"


def network():
    random = np.random.default_rng(0)
    return [
        {"name": "a", "op": "linear", "inputs": ["image"], "weight": random.normal(size=(16, 8)), "bias": np.zeros(16)},
        {"name": "s", "op": "relu", "inputs": ["a"]},
        {"name": "b", "op": "linear", "inputs": ["s"], "weight": random.normal(size=(4, 16))},
    ]


def test_an_outlier_costs_little_and_the_default_is_the_one_that_does():
    x = np.random.default_rng(1).uniform(size=(256, 8))
    with_outlier = np.concatenate([x, 1000 * x[:1]])
    wanted = reference.answer(reference.build(network()), x).argmax(1)
    right = {}
    for method in (None, "max", "mse", "p99"):
        q = reference.quantise(network(), "qcfs", 8, method, with_outlier)
        right[method] = (reference.answer(q, x).argmax(1) == wanted).mean()
    assert right[None] == right["mse"]
    silent = np.bincount(wanted).max() / len(wanted)  # what a network answers whose activations are all 0
    assert right["max"] <= silent
    assert right["mse"] > 0.9 > silent


def test_batches_add_up_to_the_whole():
    x = torch.rand(700, 8, dtype=torch.float64)
    net = accelerated.build(network())
    whole = accelerated.quantise(net, "qcfs", 4, "mse", x)
    parts = accelerated.quantise(net, "qcfs", 4, "mse", torch.utils.data.DataLoader(x, batch_size=33))  # type: ignore[arg-type]
    assert torch.equal(whole.get_submodule("s").parameter, parts.get_submodule("s").parameter)  # type: ignore[arg-type]
    ours = reference.quantise(network(), "qcfs", 4, "mse", x.numpy())[1]["parameter"]
    # activations are summed in another order: a value at the edge of a bin may fall into the next
    assert abs(ours - whole.get_submodule("s").parameter.item()) < 0.02 * ours  # type: ignore[operator]


def test_biases_are_corrected_alike_and_means_come_back():
    """Behind the correction, an activation's mean input is the original one; both packages add the same to biases."""
    nodes = nets.cnn(np.random.default_rng(5), 4)
    x = np.random.default_rng(6).uniform(size=(64, 1, 6, 6))
    q = reference.quantise(nodes, "qcfs", 2, "mse", x)
    ours = reference.correct_biases(q, x)
    sample = torch.from_numpy(x)
    theirs = accelerated.quantise(accelerated.build(nodes), "qcfs", 2, "mse", sample)
    theirs = accelerated.correct_biases(theirs, sample)
    moved = 0.0
    before = {node["name"]: node["bias"] for node in reference.fold_batch_norms(q) if "bias" in node}
    for node in ours:
        if "bias" in node:
            other = theirs.get_submodule(node["name"]).bias.detach().numpy()  # type: ignore[union-attr, operator]
            assert np.allclose(node["bias"], other, rtol=0, atol=1e-12)  # means of 2304 numbers, in another order
            moved = max(moved, np.abs(node["bias"] - before[node["name"]]).max())
    assert moved > 0.01
    wanted = forward(reference.fold_batch_norms(nodes), x)
    got = forward(ours, x)
    for name in ("conv1", "logits"):
        axes = (0, *range(2, wanted[name].ndim))
        assert np.allclose(wanted[name].mean(axes), got[name].mean(axes), rtol=0, atol=1e-12)
    with pytest.raises(reference.checks.InputError, match="biases are corrected in a quantised network"):
        reference.correct_biases(nodes, x)
    with pytest.raises(reference.checks.InputError, match="biases are corrected in a quantised network"):
        accelerated.correct_biases(accelerated.build(nodes), torch.from_numpy(x))


@pytest.mark.parametrize("given", ["min", "p0", "p101", "p", "percentile", ""])
def test_an_unknown_method_is_named(given):
    for side, x in ((reference, np.ones((2, 8))), (accelerated, torch.ones(2, 8, dtype=torch.float64))):
        with pytest.raises(
            reference.checks.InputError, match="initial_threshold must be a number, 'max', 'mse' or a perc"
        ):
            side.quantise(side.build(network()), "qcfs", 4, given, x)
