"""A quantised network learns to answer as the original one, without labels, and stays one that converts exactly."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import accelerated as acc

from .test_capture import IMAGES, Several


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
    learned = acc.reconstruct(q, original, IMAGES, steps=100, rate=1e-2)
    wanted, before, after = (acc.answer(network, IMAGES) for network in (original, q, learned))
    for read in (lambda y: y["out"], lambda y: y["more"][0]):
        assert (read(after) - read(wanted)).pow(2).mean() < 0.7 * (read(before) - read(wanted)).pow(2).mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": small()}, "a quantised network is reconstructed, before it is converted"),
        ({"original": small(4)}, r"answer in different shapes, \[\(3,\)\] and \[\(4,\)\]: give the original one"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"rate": -1.0}, "rate must be positive and finite, got -1"),
        ({"rate": 1e3}, r"threshold of '2' \(a lower rate moves it less\) must be positive and finite, got"),
        ({"sample": torch.zeros(0, 3, 8, 8)}, "the sample must be a batch"),
    ],
)
def test_wrong_usage_gets_one_line(change, message):
    original, x = small(), images(8)
    q = acc.quantise(original, "c-qcfs", 4, sample=x)
    with pytest.raises(acc.InputError, match=message):
        acc.reconstruct(**{"network": q, "original": original, "sample": x, "steps": 3, **change})
