"""A quantised network learns to answer as the original one, without labels, and stays one that converts exactly."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import accelerated as acc

from .plain import IMAGES, Several


def small(classes=3):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GELU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(128, classes)).eval()


def off(network, original, x):
    return float((acc.answer(network, x) - acc.answer(original, x)).pow(2).mean())


def images(count, seed=0):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_answers_come_closer_on_images_never_seen():
    original, x, others = small(), images(512), images(200, seed=1)
    q = acc.quantise(original, "cs-qcfs", 4, 2.0, x)  # thresholds far too high
    before = {name: value.clone() for network in (q, original) for name, value in network.state_dict().items()}
    learned = acc.reconstruct(q, original, x, steps=200, rate=1e-2)
    assert off(learned, original, others) < 0.5 * off(q, original, others)
    assert all(torch.equal(v, before[n]) for network in (q, original) for n, v in network.state_dict().items())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in learned.modules())
    for schedule in ("integrate-then-fire", "signed"):
        spiking = acc.convert(learned, schedule)
        s = acc.simulate(spiking, others, spiking.schedule.exact_at(spiking.latency_depth, 4, -4))
        assert torch.equal(s.logits[-1], acc.answer(learned, others))
        assert min(s.nonzero_share.values()) > 0.05
    again = acc.reconstruct(q, original, DataLoader(TensorDataset(x, x), 100), steps=200, rate=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), learned.parameters(), strict=True))


def test_each_of_several_outputs_comes_closer():
    original = Several().eval()
    q = acc.quantise(original, "cs-qcfs", 4, 2.0, IMAGES)
    learned = acc.reconstruct(q, original, IMAGES, steps=300, rate=5e-3)
    wanted, before, after = (acc.answer(network, IMAGES) for network in (original, q, learned))
    for read in (lambda y: y["out"], lambda y: y["more"][0]):
        assert (read(after) - read(wanted)).pow(2).mean() < 0.7 * (read(before) - read(wanted)).pow(2).mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": small()}, "a quantised network is reconstructed, before it is converted"),
        ({"original": small(4)}, r"answer in different shapes, \[\(3,\)\] and \[\(4,\)\]: give the original one"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"rate": "a"}, "rate must be a positive number, got 'a'"),
        ({"seed": None}, "seed must be a whole number of at least 0, got None"),
        ({"original": None}, "a network must be an nn.Module that runs in Python, got NoneType"),
        ({"rate": -1.0}, "rate must be positive and finite, got -1"),
        ({"rate": 1e3}, r"threshold of '2' \(a lower rate moves it less\) must be positive and finite, got"),
        (
            {"rate": 1e-30},
            "reconstruction did not help: the mean square was .* and is .*; give more images, or a lower",
        ),
        ({"sample": torch.zeros(0, 3, 8, 8)}, "the sample must be a batch"),
    ],
)
def test_wrong_usage_gets_one_line(change, message):
    original, x = small(), images(8)
    q = acc.quantise(original, "c-qcfs", 4, sample=x)
    with pytest.raises(acc.InputError, match=message):
        acc.reconstruct(**{"network": q, "original": original, "sample": x, "steps": 3, **change})


def test_what_cannot_learn_is_refused():
    original, x = small(), images(8)
    q = acc.quantise(original, "cs-qcfs", 4, sample=x)
    with torch.inference_mode(), pytest.raises(acc.InputError, match="learns from gradients"):
        acc.reconstruct(q, original, x)
    with pytest.raises(acc.InputError, match="the answer has no gradient"):
        acc.reconstruct(acc.quantise(Cut().eval(), sample=x), Cut().eval(), x)


class Cut(nn.Module):
    """Its answer is detached from its weights."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 3)

    def forward(self, x):
        return nn.functional.relu(self.fc(x.flatten(1))).detach() + 1


class Masked(nn.Module):
    """A class that is never the answer, and a channel that is always at its bound."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(192, 4), nn.Linear(4, 3)
        self.register_buffer("bound", torch.tensor([0, 0, 0, torch.inf]))
        self.register_buffer("mask", torch.tensor([0, 0, -torch.inf]))

    def forward(self, x):
        return self.b(nn.functional.relu6(4 * self.a(x.flatten(1)) + self.bound)) + self.mask


def test_infinities_shift_nothing():
    network, x = Masked().eval(), images(64)
    for method in ("max", "mse", "p99.9"):
        q = acc.quantise(network, "cs-qcfs", 2, method, x)
        theta = q.get_parameter("relu6.parameter")
        assert acc.softplus(theta.detach()).flatten()[3] == 6, method
    wanted = acc.answer(network, x)[:, :2]
    means = [(acc.answer(other, x)[:, :2] - wanted).mean(0).abs().max() for other in (q, acc.correct_biases(q, x))]
    assert means[1] < 1e-3 * means[0]
    learned = acc.answer(acc.reconstruct(q, network, x), x)
    assert (learned[:, 2] == -torch.inf).all()
    assert (learned[:, :2] - wanted).pow(2).mean() < (acc.answer(q, x)[:, :2] - wanted).pow(2).mean()


def test_biases_behind_a_scaled_sum_are_left():
    """x - y, written as torch.add(x, y, alpha=-1): more bias makes the answer less."""

    class Less(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(192, 16), nn.Linear(16, 3)

        def forward(self, x):
            return torch.add(x.flatten(1)[:, :3], self.b(nn.functional.relu(self.a(x.flatten(1)))), alpha=-1)

    x = images(64)
    q = acc.quantise(Less().eval(), "cs-qcfs", 2, sample=x)
    assert torch.equal(acc.correct_biases(q, x).get_parameter("b.bias"), q.get_parameter("b.bias"))
