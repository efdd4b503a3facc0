"""The reference trains like torch, step by step, and its two stages learn digits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import accelerated
import reference
from accelerated.runs.learning import optimiser
from reference import network, tokens, training

from . import random_networks as nets
from .implementations import load


def test_three_steps_of_sgd_equal_torchs():
    """Momentum, weight decay on weights alone, running statistics, thresholds and all, in float64."""
    random = np.random.default_rng(0)
    x, labels = nets.images(random, "cnn", 8), np.arange(8) % 5
    ours = reference.quantise(nets.cnn(random, 4), "cs-qcfs", 4, 1.0)
    theirs = accelerated.build(load("accelerated").encode(ours)).train()
    sgd, velocity = optimiser(theirs, 0.1), {}
    for _ in range(3):
        values = network.forward(ours, x, training=True)
        loss, upstream = training.cross_entropy(values[ours[-1]["name"]], labels)
        gradients = network.backward(ours, values, upstream)
        ours, velocity = training.sgd(training.with_statistics(ours, values), gradients, velocity, 0.1)
        expected = F.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(labels))
        sgd.zero_grad()
        expected.backward()
        sgd.step()
        assert loss == pytest.approx(expected.item(), rel=1e-9)  # rounding of a few hundred operations
    state = theirs.state_dict()
    names = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
    moved = 0
    for node in ours:
        for part in (p for p in network.ARRAYS if node.get(p) is not None):
            got, expected = node[part], state[f"{node['name']}.{names.get(part, part)}"].numpy()
            assert np.allclose(got, expected, rtol=0, atol=1e-9), (node["name"], part)
            moved += part == "parameter" and not np.allclose(got, 0.541324854612918)  # where theta = 1 starts
    assert moved == 4, "every layer's thresholds were trained"


def test_both_sides_train_alike():
    """Two stages of two epochs from the same weights, in the same order: losses, thresholds and answers in float64."""
    random = np.random.default_rng(4)
    nodes, x, labels = nets.cnn(random, 3), nets.images(random, "cnn", 48), np.arange(48) % 5
    settings = {"levels": 4, "initial_threshold": "max"}
    ours, losses = training.two_stage(nodes, x, labels, (2, 2), 0.02, **settings)
    network_ = accelerated.build(load("accelerated").encode(nodes))
    tensors = torch.from_numpy(x), torch.from_numpy(labels)
    theirs, others = accelerated.training.two_stage(network_, *tensors, (2, 2), 0.02, **settings)
    # sums in another order; what that moves is multiplied by the steps of training, of which there are six a stage
    assert np.allclose(losses, others, rtol=0, atol=1e-9)
    assert np.allclose(reference.answer(ours, x), accelerated.answer(theirs, tensors[0]).numpy(), rtol=0, atol=1e-7)
    for node in (node for node in ours if node["op"] == "qcfs"):
        parameter = theirs.get_submodule(node["name"]).parameter.detach().numpy()
        assert np.allclose(node["parameter"], parameter, rtol=0, atol=1e-9), node["name"]
    assert losses[-1] < losses[0]


def test_learning_rates_are_a_cosine_and_a_tenth_of_it():
    """One batch an epoch, two epochs a stage: 1 and 1/2 of lr, then a tenth of both."""
    node = {"name": "fc", "op": "linear", "inputs": ["image"], "weight": np.zeros((2, 1)), "bias": np.zeros(2)}
    rates = []

    def sgd(network, gradients, velocity, lr):
        rates.append(lr)
        return network, velocity

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "sgd", sgd)
        nodes = [node, {"name": "act", "op": "relu", "inputs": ["fc"]}]
        training.two_stage(nodes, np.ones((4, 1)), np.array([0, 1, 0, 1]), (2, 2), 1.0)
    assert rates == pytest.approx([1, 0.5, 0.1, 0.05])


def test_two_stages_learn_digits_in_numpy():
    """Algorithm 1 on 600 digits: far above chance (10 %), one threshold per channel, converted without loss."""
    digits = load_digits()
    x, y = (digits.images / 16)[:900, None], digits.target[:900]
    nodes = nets.cnn(np.random.default_rng(1), 3, image=8, classes=10)
    nodes, losses = training.two_stage(nodes, x[:600], y[:600], (4, 2), 0.05, levels=4, initial_threshold="max")
    assert losses[-1] < losses[0] / 2
    shapes = [node["parameter"].shape for node in nodes if node["op"] == "qcfs"]
    assert shapes == [(4, 1, 1)] * 3
    folded = reference.fold_batch_norms(nodes)
    logits = reference.answer(folded, x[600:])
    assert (logits.argmax(1) == y[600:]).mean() > 0.6
    s = reference.simulate(reference.convert(nodes, "integrate-then-fire"), x[600:], 4)
    assert (s.logits[-1] == logits).all()
    assert min(s.nonzero_share.values()) > 0.05


@pytest.mark.parametrize("op", ["layer_norm", "softmax"])
def test_derivatives_of_layer_norm_and_softmax_equal_autograds(op):
    random = np.random.default_rng(2)
    x, gamma, beta, g = (random.normal(size=shape) for shape in ((2, 3, 5), 5, 5, (2, 3, 5)))
    tensors = [torch.from_numpy(a).requires_grad_() for a in ((x, gamma, beta) if op == "layer_norm" else (x,))]
    y = F.layer_norm(tensors[0], (5,), *tensors[1:], 1e-3) if op == "layer_norm" else F.softmax(tensors[0], -1)
    y.backward(torch.from_numpy(g))
    ours = tokens.layer_norm_grad(x, gamma, g, 1e-3) if op == "layer_norm" else (tokens.softmax_grad(x, g),)
    for got, tensor in zip(ours, tensors, strict=True):
        assert np.allclose(got, tensor.grad.numpy(), rtol=0, atol=1e-12)  # a few dozen roundings of numbers of size 1


@pytest.mark.parametrize("side", ["reference", "accelerated"])
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_a_folded_network_answers_as_before(side, kind):
    """Folding changes rounding only: the network with its batch norms against the one without."""
    impl, random = load(side), np.random.default_rng(3)
    nodes, x = getattr(nets, kind)(random, 4), nets.images(random, kind, 5)
    if kind == "mlp":
        norm = {"name": "norm", "op": "batch_norm", "inputs": ["fc0"], **nets._batch_norm(random, 16), "eps": 1e-2}
        nodes = [nodes[0], norm, nodes[1] | {"inputs": ["norm"]}, *nodes[2:]]
    network_ = impl.build(nodes)
    before, after = impl.answer(network_, x), impl.answer(impl.fold_batch_norms(network_), x)
    assert not any(node["op"] == "batch_norm" for node in reference.fold_batch_norms(nodes))
    assert np.allclose(before, after, rtol=0, atol=1e-10)  # float64, a few hundred roundings of numbers below 100
    assert np.abs(before).max() > 0.1
