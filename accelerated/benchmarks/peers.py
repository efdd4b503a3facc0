"""The IF neuron of other packages, if installed, set up as their documentation recommends for speed.

A neuron takes currents [T, batch, ...] and returns theta s_t. All start at theta / 2 and subtract theta, so they
compute the same as ours (but see `SnnTorch`); a `Network` of theirs folds time into the batch.
"""

import copy
import importlib.util

import torch
from torch import nn

from ..activation import QCFS


class Loop(nn.Module):
    """The loop of the QCFS authors' published code: step by step in PyTorch, spikes stacked."""

    def __init__(self, theta):
        super().__init__()
        self.theta = theta

    def forward(self, currents):
        membrane, spikes = torch.full_like(currents[0], self.theta / 2), []
        for current in currents:
            membrane = membrane + current
            spike = (membrane >= self.theta).to(current.dtype) * self.theta
            membrane = membrane - spike
            spikes.append(spike)
        return torch.stack(spikes)


class SpikingJelly(nn.Module):
    """spikingjelly's HalfThresholdIFNode; it keeps its state until `reset_net`, so it is reset here."""

    def __init__(self, theta):
        from spikingjelly.activation_based import neuron

        super().__init__()
        self.theta, self.neuron = theta, neuron.HalfThresholdIFNode(theta, step_mode="m")

    def forward(self, currents):
        self.neuron.reset()
        return self.neuron(currents) * self.theta


class OnKernels(nn.Module):
    """spikingjelly's IFNode, for which it has kernels on GPUs; its membrane is put at theta / 2."""

    def __init__(self, theta):
        from spikingjelly.activation_based import neuron

        super().__init__()
        self.theta, self.neuron = theta, neuron.IFNode(theta, v_reset=None, step_mode="m")

    def forward(self, currents):
        self.neuron.reset()
        self.neuron.v = self.theta / 2
        return self.neuron(currents) * self.theta


class SnnTorch(nn.Module):
    """snntorch's Leaky without a leak, reset in the step of the spike.

    Not quite the same neuron: what is left above theta after a spike fires again from 2 theta on only.
    """

    def __init__(self, theta):
        import snntorch

        super().__init__()
        self.theta, self.neuron = theta, snntorch.Leaky(beta=1.0, threshold=theta, reset_delay=False)

    def forward(self, currents):
        membrane, spikes = torch.full_like(currents[0], self.theta / 2), []
        for current in currents:
            spike, membrane = self.neuron(current, membrane)
            spikes.append(spike)
        return torch.stack(spikes) * self.theta


class Sinabs(nn.Module):
    """sinabs' IAF with single spikes; its input is [batch, T, ...]."""

    def __init__(self, theta):
        from sinabs.activation import SingleSpike
        from sinabs.layers import IAF

        super().__init__()
        self.theta, self.neuron = theta, IAF(spike_threshold=torch.tensor(theta), spike_fn=SingleSpike)

    def forward(self, currents):
        self.neuron.init_state_with_shape(currents[0].shape)
        self.neuron.v_mem.fill_(self.theta / 2)
        return self.neuron(currents.transpose(0, 1)).transpose(0, 1).to(currents.dtype) * self.theta


OTHERS = {"spikingjelly": SpikingJelly, "snntorch": SnnTorch, "sinabs": Sinabs}


def neurons(names, device="cpu"):
    """{name: neuron of theta, on a device}: the published loop and packages that are selected and installed."""
    installed = {name: kind for name, kind in OTHERS.items() if name in names and importlib.util.find_spec(name)}
    here: dict = ({"published loop": Loop} if "published loop" in names else {}) | installed
    if "spikingjelly" in here and device != "cpu":
        here["spikingjelly's IFNode"] = OnKernels
    return {name: lambda theta, kind=kind: kind(theta).to(device) for name, kind in here.items()}


class _Folded(nn.Module):
    """A neuron in a network whose batch holds T steps of each image."""

    def __init__(self, neuron, steps):
        super().__init__()
        self.neuron, self.steps = neuron, steps

    def forward(self, x):
        return self.neuron(x.unflatten(0, (self.steps, -1))).flatten(0, 1)


def replaced(network, made, kinds=QCFS):
    """`network` with made(layer) in place of each QCFS (of each layer of `kinds`); the network itself is changed."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, kinds):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, made(layer))
    return network


class _Once(nn.Module):
    """A layer on the increments of T steps, folded into the batch: its bias enters in the first step alone."""

    def __init__(self, layer, steps):
        super().__init__()
        self.layer, self.bias, self.steps = layer, layer.bias, steps
        layer.bias = None

    def forward(self, x):
        y = self.layer(x)
        if self.bias is not None:
            y[: len(y) // self.steps] += self.bias.reshape(-1, *(1,) * (y.ndim - 2))
        return y


class _Signed(nn.Module):
    """spikingjelly's STBIFNode, the signed neuron of SpikeZIP-TF, over all steps at once; reset before each run."""

    def __init__(self, layer):
        from spikingjelly.activation_based.neuron import STBIFNode

        super().__init__()
        value = layer.threshold.detach() / layer.levels
        self.neuron = STBIFNode(value, level=layer.levels + 1, pos_max=layer.levels, neg_min=0, step_mode="m")

    def forward(self, currents):
        self.neuron.reset()
        return self.neuron(currents)


class UntilQuiet(nn.Module):
    """A quantised network of spikingjelly's signed neurons, simulated until no neuron fires: the sum of its logits.

    The number of steps that takes is given, so that no time is spent on finding it. For layers and averages alone.
    """

    def __init__(self, quantised, steps):
        super().__init__()
        self.steps = steps
        once = replaced(copy.deepcopy(quantised), lambda layer: _Once(layer, steps), (nn.Conv2d, nn.Linear))
        self.graph = replaced(once, lambda layer: _Folded(_Signed(layer), steps))

    def forward(self, x):
        x = torch.cat([x, x.new_zeros((self.steps - 1) * len(x), *x.shape[1:])])
        return self.graph(x.contiguous(memory_format=torch.channels_last)).unflatten(0, (self.steps, -1)).sum(0)


class Network(nn.Module):
    """A quantised network with one threshold per layer, simulated with a package's neurons: logits of all T steps."""

    def __init__(self, quantised, kind, steps):
        super().__init__()
        self.steps = steps
        self.graph = replaced(copy.deepcopy(quantised), lambda layer: _Folded(kind(layer.threshold.item()), steps))

    def forward(self, x):
        x = x.repeat(self.steps, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        return self.graph(x).unflatten(0, (self.steps, -1))
