"""Bias correction: a layer is shifted only where that moves the mean it was measured at, and no other."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accelerated as acc

X = torch.randn(400, 20, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """Some layers and a body."""

    def __init__(self, body, **layers):
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.body(self, x)


def made(body, seed=0, **sizes):
    """A network of linear layers with these sizes."""
    torch.manual_seed(seed)
    return Net(body, **{name: nn.Linear(*size) for name, size in sizes.items()}).eval()


def offsets(network, levels=4):
    """(largest offset of a mean answer before, after), both relative to the original network."""
    q = acc.quantise(network, "cs-qcfs", levels, sample=X)
    wanted = acc.answer(network, X).mean(0)
    return [float((acc.answer(n, X).mean(0) - wanted).abs().max()) for n in (q, acc.correct_biases(q, X))]


def _before_the_sum(self, x):
    y = self.stem(x)
    for block in (self.a, self.b, self.c, self.d):
        y = y + block(F.relu(y))
    return self.out(F.relu(y))


def _behind_the_sum(self, x):
    y = self.stem(x)
    for block in (self.a, self.b, self.c, self.d):
        y = block(F.relu(y)) + y
    return self.out(F.relu(y))


def test_the_order_of_a_sum_does_not_matter():
    """A block's own layer is shifted, not an earlier one whose sum others read as well."""
    sizes = {"stem": (20, 32), **dict.fromkeys("abcd", (32, 32)), "out": (32, 5)}
    found = [offsets(made(body, **sizes)) for body in (_before_the_sum, _behind_the_sum)]
    for before, after in found:
        assert after < 1e-5 < before  # means of 400 numbers in float32


def test_an_activation_that_is_called_twice_keeps_its_bound():
    for relu in (nn.ReLU(), nn.ReLU6()):
        network = made(
            lambda self, x: self.out(self.relu(self.b(self.relu(self.a(x))))), a=(20, 40), b=(40, 40), out=(40, 5)
        )
        network.relu = relu
        q = acc.quantise(network, "cs-qcfs", 8, sample=X)
        assert len(set(q.meta["bounds"].values())) == 1
        before, after = offsets(network)
        assert after < 1e-5 < before


TWICE = {
    "its value": lambda self, x: (lambda y: y + y)(self.b(F.relu(self.a(x)))),
    "its sum": lambda self, x: (lambda y: y + y)(self.b(F.relu(self.a(x))) + x),
    "its bias": lambda self, x: F.linear(F.relu(self.b(F.relu(self.a(x)))), self.b.weight, 10 * self.b.bias),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_layer_that_is_read_twice_is_left_as_it_is(name):
    q = acc.quantise(made(TWICE[name], a=(20, 20), b=(20, 20)), "s-qcfs", 2, "mse", X)
    before, after = (net.get_parameter("b.bias") for net in (q, acc.correct_biases(q, X)))
    assert torch.equal(before, after)


def test_a_frozen_layer_stays_frozen():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    network[0].requires_grad_(False)
    folded = acc.fold_batch_norms(acc.quantise(network, "s-qcfs", 4, sample=X))
    assert not any(parameter.requires_grad for parameter in folded.get_submodule("0").parameters())
    learned = acc.reconstruct(folded, network, X, steps=20, rate=1e-2)
    assert torch.equal(learned.get_parameter("0.weight"), folded.get_parameter("0.weight"))
