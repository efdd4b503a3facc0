"""Accumulates of operators without weights of their own, against a count synapse by synapse on random geometry."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accelerated as acc


def _pool(random, **more):
    kernel = int(random.integers(1, 4))
    settings = {"stride": int(random.integers(1, 4)), "padding": int(random.integers(0, kernel // 2 + 1))}
    return settings | {"kernel_size": kernel, "ceil_mode": bool(random.random() < 0.5)} | more


OPERATORS: dict = {
    "avg_pool2d": lambda r: nn.AvgPool2d(**_pool(r)),
    "avg_pool2d without padding": lambda r: nn.AvgPool2d(**_pool(r, count_include_pad=False)),
    "avg_pool2d with a divisor": lambda r: nn.AvgPool2d(**_pool(r, divisor_override=3)),
    "avg_pool2d as a function": lambda r: (lambda settings: lambda x: F.avg_pool2d(x, **settings))(_pool(r)),
    "adaptive_avg_pool2d": lambda r: nn.AdaptiveAvgPool2d(tuple(r.integers(1, 8, 2).tolist())),
    "bilinear": lambda r: nn.Upsample(size=tuple(r.integers(2, 9, 2).tolist()), mode="bilinear"),
    "nearest": lambda r: nn.Upsample(scale_factor=2),
    "mean": lambda r: lambda x: x.mean((2, 3), keepdim=True),
    "transposed": lambda r: nn.ConvTranspose2d(2, 2, int(r.integers(1, 4)), int(r.integers(1, 3)), bias=False),
    "grouped and dilated": lambda r: nn.Conv2d(2, 4, 2, dilation=2, padding=2, groups=2, bias=False),
    "batch norm": lambda r: nn.BatchNorm2d(2),
    "scaled": lambda r: lambda x: x * 0.5,
    "padded": lambda r: nn.ConstantPad2d(1, 2.0),
    "shuffled": lambda r: lambda x: F.pixel_unshuffle(F.pad(x, (0, 1, 0, 0)), 2),
    "joined": lambda r: lambda x: torch.cat([x, 2 * x], 1),
    "subtracted": lambda r: lambda x: x - x.roll(1, 3),
}  # fmt: skip


class Between(nn.Module):
    def __init__(self, operator, functional):
        super().__init__()
        self.first, self.operator, self.functional = nn.Conv2d(1, 2, 3, padding=1), operator, functional
        with torch.no_grad():
            channels = operator(torch.rand(2, 2, 6, 7)).shape[1]
        self.second, self.out = nn.Conv2d(channels, 3, 2, padding=1), nn.Linear(3, 2)

    def forward(self, x):
        y = self.operator(F.relu(self.first(x)))
        y = F.conv2d(y, self.second.weight, self.second.bias, padding=1) if self.functional else self.second(y)
        return self.out(F.relu(y).mean((2, 3)))


def synapses(function, shape):
    """[outputs, inputs]: whether an output depends on an input."""
    x = torch.rand(1, *shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(function, x)
    return (jacobian.reshape(-1, x.numel()) != 0).double()


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("name", OPERATORS)
def test_every_spike_costs_its_synapses(name, functional):
    for seed in range(6):
        torch.manual_seed(seed)
        operator = OPERATORS[name](np.random.default_rng(seed))
        network = Between(operator, functional).double().eval()
        x = torch.rand(3, 1, 6, 7, dtype=torch.float64)
        spiking = acc.convert(acc.quantise(network, "s-qcfs", 4, "max", x), "integrate-then-fire")
        s = acc.simulate(spiking, x, 4)
        spikes = s.emitted["relu"].double()
        first = synapses(operator, (2, 6, 7))
        second = synapses(network.second, tuple(operator(spikes).shape[1:]))
        expected = float((spikes.flatten(1).mean(0) * (second @ first).sum(0)).sum())
        cost = acc.energy(spiking, x, s).acs
        own = cost.get("operator", 0.0)  # of a convolution: what it costs itself, and its values are no spikes
        if name in ("transposed", "grouped and dilated"):
            assert own == pytest.approx(float((spikes.flatten(1).mean(0) * first.sum(0)).sum()))
        else:
            layer = "conv2d" if functional else "second"
            assert cost[layer] == pytest.approx(expected), f"seed {seed}"
            assert expected > 0
