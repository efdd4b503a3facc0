"""Benchmarks of the IF layer, of QCFS forward and backward, and of a training step."""

import torch
from torch import nn

from .._native import elementwise
from ..activation import QCFS
from ..models import make
from ..neuron import if_run
from ..quantisation import quantise
from ..runs.compiling import compiled, works
from . import peers
from .timing import Case

LEVELS = 8


def neuron(options):
    """The IF layer on [T, batch, 64, 32, 32] currents, some 15 % of the neurons firing; the limit is a copy."""
    shape = (options.steps, options.batch, 64, 32, 32)
    z, theta = torch.randn(shape, device=options.device) * 0.3 + 0.15, torch.tensor(1.0, device=options.device)
    target = torch.empty_like(z)
    rate = if_run(z, theta)[0].mean().item()

    def kernel():
        if elementwise.if_run(z, options.steps, theta, out=target) is None:
            if_run(z, theta)

    def run(layer):
        return torch.no_grad()(lambda: layer(z))

    others = {name: kind(1.0) for name, kind in peers.neurons(options.peers, options.device).items()}
    if options.compile and works(options.device):
        others |= {f"{name}, compiled": compiled(layer, options.device) for name, layer in others.items()}
    candidates = {"copy": lambda: target.copy_(z), "this": kernel, "if_run, public": lambda: if_run(z, theta)}
    candidates |= {name: run(layer) for name, layer in others.items()}
    return Case(candidates, "copy", f"rate {rate:.2f}", tuple(others))


def composed(threshold, levels=LEVELS):
    """QCFS from PyTorch's operators with a straight-through floor: the formula under autograd."""

    def function(z):
        level = z * levels / threshold + 0.5
        floor = level + (level.floor() - level).detach()
        return floor.clamp(0, levels) * threshold / levels

    return function


def activation(options):
    """QCFS forward and backward on [4 batch, 64, 32, 32], one threshold per channel; limit: 20 bytes per element."""
    z = torch.randn(4 * options.batch, 64, 32, 32, device=options.device).requires_grad_()
    layer, upstream = QCFS((64, 1, 1), LEVELS, "raw", 1.0).to(options.device), torch.randn_like(z)
    values, gradients = torch.empty_like(z), torch.empty_like(z)

    def limit():  # reads z and writes the value; reads z and the gradient, and writes a gradient
        values.copy_(z.detach())
        torch.add(z.detach(), upstream, out=gradients)

    def kernels():  # without autograd, and without Python's overhead
        detached, theta = z.detach(), layer.parameter.detach()
        if elementwise.qcfs(detached, theta, LEVELS, 0.5) is None:
            layer(detached)
        elementwise.qcfs_backward(detached, theta, upstream, LEVELS, 0.5)

    def both(function):
        def run():
            z.grad = layer.parameter.grad = None
            function(z).backward(upstream)

        return run

    candidates = {"limit": limit, "this": both(layer), "kernels alone": kernels,
                  "composed": both(composed(layer.parameter)), "ReLU": both(torch.relu)}  # fmt: skip
    if options.compile and works(options.device):
        candidates |= {f"{name}, compiled": both(compiled(function, options.device)) for name, function in
                       (("this", layer), ("composed", composed(layer.parameter)), ("ReLU", torch.relu))}  # fmt: skip
    return Case(candidates, "limit", f"L = {LEVELS}")


class Composed(nn.Module):
    """A QCFS layer from PyTorch's operators, as a replacement."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, z):
        return composed(self.layer.threshold, self.layer.levels)(z)


def step_of(network, x, labels):
    """A training step of plain SGD."""
    optimiser = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)

    def step():
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(network(x), labels).backward()
        optimiser.step()

    return step


def training(options):
    """A training step of ResNet-20 on 4 batch images: ReLU (the limit) against CS-QCFS."""
    torch.manual_seed(0)
    x = torch.rand(4 * options.batch, 3, 32, 32).to(options.device, memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (len(x),)).to(options.device)

    def relu():
        torch.manual_seed(0)
        return make("resnet20", (3, 32, 32), 10).to(options.device, memory_format=torch.channels_last).train()

    def ours():
        return quantise(relu(), "cs-qcfs", LEVELS, "max", x[:4]).train()

    networks = {"ReLU": relu(), "this": ours(), "composed": peers.replaced(ours(), Composed)}
    if options.compile and works(options.device):
        networks |= {
            "ReLU, compiled": compiled(relu(), options.device),
            "this, compiled": compiled(ours(), options.device),
        }
    return Case({name: step_of(network, x, labels) for name, network in networks.items()}, "ReLU", f"L = {LEVELS}")
