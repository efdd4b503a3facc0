"""A3, conversion of a CNN. What you may import is in README.md, under Rules.

A network is a list of nodes in order. Each is a dict with "name", "op", "inputs" (names of earlier nodes, or "image") and

    linear      weight [G, F], bias [G] or None              conv2d   weight [O, C, k, k], bias or None, stride, padding
    avg_pool2d  size                                         add      (two inputs)            flatten
    qcfs        parameter, levels, positivity: theta is the parameter ("raw") or softplus(parameter) ("softplus")

Its answer is the value of the last node. A *spiking layer* is a qcfs node in the spiking network.
"""

import numpy as np  # noqa: F401


def linear(x, weight, bias=None):
    """[..., F] -> [..., G]."""


def conv2d(x, weight, bias=None, stride=1, padding=0):
    """[n, C, H, W] -> [n, O, H', W'], without flipping the kernel; padded with zeros on all four sides."""


def avg_pool2d(x, size):
    """[n, C, H, W] -> [n, C, H // size, W // size]; values that do not fill a window are left out."""


def fold_batch_norm(weight, bias, gamma, beta, mean, var, eps=1e-5):
    """(weight, bias) of one layer that computes the layer and the batch norm after it (Eq. 2-27)."""


def build(nodes):
    """The network in any form of your choice; it is passed to `answer` and `convert`."""


def answer(network, x):
    """The logits [batch, classes] of the quantised network for images x."""


def convert(network, schedule):
    """The spiking network: "streaming", "integrate-then-fire" or "signed"; in any form of your choice."""


def simulate(network, x, steps, arithmetic=None):
    """Run it for T = `steps` (integrate-then-fire: (D + 1) T steps, D spiking layers on the longest path).

    You may carry totals (each layer's operator applied to what the layers before have sent so far), whatever `arithmetic`
    says. Return an object (a dataclass) with

    logits                 [T, batch, classes]: the last operators applied to what has been sent up to each step
    counts                 {name of the spiking layer: spikes sent [batch, ...]}; a spike taken back counts -1
    latency                T, (D + 1) T, or (signed) the last step in which anything fired
    spikes_per_neuron      mean over images and neurons; a spike taken back counts as one more
    settled                signed: whether nothing fired in the last step; else None
    units_that_differ      share of counts that are not the quantised network's level; None where T is not L (unless signed)
    units_that_differ_last the same for the last spiking layer
    nonzero_share          {name: share of counts that are not 0}

    A layer has sent theta N / t after step t (streaming), theta N / T (integrate-then-fire) or theta N / L (signed).
    """
