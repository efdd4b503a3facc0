"""Training in memory by plain SGD, and the two-stage algorithm (Algorithm 1): `reference.training` with autograd.

Runs on disk, with all their settings, are in runs/learning.py.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .activation import QCFS
from .checks import positive, whole
from .quantisation import expand, quantise


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean of -log softmax(logits)[label]; logits [batch, classes]. Its gradient comes from autograd."""
    return F.cross_entropy(logits, labels)


def parameter_groups(network: nn.Module, weight_decay: float = 5e-4, decay_thresholds: bool = False) -> list[dict]:
    """Parameter groups for an optimiser: only the weights of layers decay (docs/conventions.md).

    Biases, norms and position embeddings do not; thresholds decay on request.
    """
    thresholds = {id(m.parameter) for m in network.modules() if isinstance(m, QCFS)}

    def decays(name, p):
        return decay_thresholds if id(p) in thresholds else p.ndim > 1 and name.endswith("weight")

    named = list(network.named_parameters())
    return [
        {"params": [p for name, p in named if decays(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]


def sgd(network: nn.Module, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4) -> torch.optim.SGD:
    """v <- momentum v + g + decay w; w <- w - lr v, as an optimiser; only weights decay."""
    return torch.optim.SGD(parameter_groups(network, weight_decay), lr=lr, momentum=momentum)


def train(
    network: nn.Module, x: torch.Tensor, labels: torch.Tensor, epochs: int, lr: float, batch: int = 32, seed: int = 0
) -> tuple[nn.Module, list[float]]:
    """Mini-batch SGD with a cosine schedule, in place; returns (network, mean loss of each epoch).

    The order of the images is that of `reference.train` with the same seed.
    """
    random, losses, optimiser = np.random.default_rng(seed), [], sgd(network, positive(lr, "lr"))
    batch = min(whole(batch, "batch"), len(x))
    network.train()
    for epoch in range(epochs):
        order, total = torch.from_numpy(random.permutation(len(x))), 0.0
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            for group in optimiser.param_groups:
                group["lr"] = 0.5 * lr * (1 + math.cos(math.pi * (epoch + start / len(x)) / epochs))
            optimiser.zero_grad()
            loss = cross_entropy(network(x[rows]), labels[rows])
            loss.backward()
            optimiser.step()
            total += loss.item() * batch / len(x)
        losses.append(total)
    return network.eval(), losses


def two_stage(
    network: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    epochs: tuple[int, int],
    lr: float,
    levels: int = 8,
    initial_threshold: float | str = 4.0,
    stage1: str = "s-qcfs",
    stage2: str = "cs-qcfs",
) -> tuple[nn.Module, list[float]]:
    """Algorithm 1: quantise with layer thresholds and train; expand and fine-tune at a tenth of the learning rate.

    `epochs` is (stage 1, stage 2). Returns (a quantised network, losses of both stages).
    """
    network = quantise(network, stage1, levels, initial_threshold, sample=x[:256])
    network, first = train(network, x, labels, epochs[0], lr)
    network = expand(network, stage2, sample=x[:1])
    network, second = train(network, x, labels, epochs[1], lr / 10)
    return network, first + second
