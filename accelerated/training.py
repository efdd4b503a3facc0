"""Training: a plain loop of mini-batches, and the three stages of a run (ReLU, Algorithm 1's stages 1 and 2)."""

import math

import torch
import torch.nn.functional as F

from .activation import QCFS, variant
from .checks import InputError
from .quantisation import expand, quantise

STAGES = ("relu", "stage 1", "stage 2")


def optimiser(network, lr, momentum=0.9, weight_decay=5e-4):
    """SGD in which only weights decay: thresholds, biases and batch norm do not (docs/conventions.md)."""
    thresholds = {id(m.parameter) for m in network.modules() if isinstance(m, QCFS)}
    decayed = [p for p in network.parameters() if p.ndim > 1 and id(p) not in thresholds]
    others = [p for p in network.parameters() if p.ndim <= 1 or id(p) in thresholds]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)


def first_stage(activation):
    """The layer-wise activation that stage 1 trains: the variant itself if it is one, S-QCFS otherwise."""
    return activation if variant(activation)[0] == "layer" else "s-qcfs"


def enter(stage, network, activation, stage1, levels, initial_threshold, sample):
    """The network as `stage` begins: as it is, quantised with layer thresholds, or these expanded."""
    if stage == "stage 1":
        return quantise(network, stage1, levels, initial_threshold, sample)
    return expand(network, activation, sample) if stage == "stage 2" else network


@torch.no_grad()
def accuracy(network, x, y, batch=256):
    """Share of images whose largest logit is their label, in evaluation mode."""
    network.eval()
    right = sum(int((network(a).argmax(1) == b).sum()) for a, b in zip(x.split(batch), y.split(batch), strict=True))
    return right / len(y)


def train_epoch(network, sgd, x, y, batch, generator, rate):
    """One epoch in an order drawn from `generator`; `rate(p)` is the learning rate at share p of it. Mean loss.

    InputError if the loss is no longer a number: nothing that was saved before is touched.
    """
    network.train()
    order = torch.randperm(len(x), generator=generator).to(x.device)
    batches = order.split(batch)
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches = batches[:-1]  # batch norm cannot train on a single image
    total = torch.zeros((), device=x.device)
    for i, rows in enumerate(batches):
        for group in sgd.param_groups:
            group["lr"] = rate(i / len(batches))
        loss = F.cross_entropy(network(x[rows]), y[rows])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        total += loss.detach() * len(rows)
    mean = total.item() / len(x)
    if not math.isfinite(mean):
        raise InputError(f"the loss became {mean}: try a smaller learning rate than {rate(0):.3g}")
    return mean


def cosine(lr, epoch, epochs):
    """The learning rate within an epoch, annealed to 0 over all: share of the epoch -> rate."""
    return lambda share: 0.5 * lr * (1 + math.cos(math.pi * (epoch + share) / epochs))
