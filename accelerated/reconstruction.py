"""Reconstruction: without labels, a quantised network learns to answer as the original does.

After quantised distillation (Polino, Pascanu and Alistarh, Model compression via distillation and quantization, ICLR
2018), with activations in place of weights as what is quantised, and squares of the difference of logits as the loss.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from .activation import QCFS
from .checks import InputError, positive, whole
from .conversion import SpikingNetwork, fold_batch_norms
from .graph.trace import evaluating
from .network import answer, batches_of


def reconstruct(
    network: fx.GraphModule,
    original: nn.Module,
    sample: torch.Tensor | np.ndarray | Sequence | DataLoader,
    steps: int = 500,
    rate: float = 5e-4,
    batch: int = 64,
    seed: int = 0,
) -> fx.GraphModule:
    """A copy of a quantised network, batch norm folded, that answers images [n, ...] of `sample` more as `original`.

    `steps` steps of Adam on weights, biases and thresholds, each on `batch` images in an order drawn with `seed`, with
    the mean of (network(x) - original(x))^2 as loss and a learning rate that falls from `rate` to 0 as a cosine. Both
    networks answer as in evaluation. Its levels must be those that it will run at; `correct_biases` before it helps.
    InputError if the network is not quantised, answers in another shape, or a threshold is no longer positive.
    """
    if isinstance(network, SpikingNetwork) or not any(isinstance(m, QCFS) for m in network.modules()):
        raise InputError("a quantised network is reconstructed, before it is converted")
    steps, batch, rate = whole(steps, "steps"), whole(batch, "batch"), float(positive(rate, "rate"))
    network, x = fold_batch_norms(network), torch.cat(batches_of(network, sample))
    _same_shapes(answer(network, x[:1]), answer(original, x[:1]))
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    orders = _rows(len(x), min(batch, len(x)), seed)
    with evaluating(network), torch.enable_grad():
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = 0.5 * rate * (1 + math.cos(math.pi * step / steps))
            images = x[next(orders)]
            wanted = _tensors(answer(original, images))
            optimiser.zero_grad()
            pairs = zip(_tensors(network.forward(images)), wanted, strict=True)
            torch.stack([F.mse_loss(ours, theirs) for ours, theirs in pairs]).sum().backward()
            optimiser.step()
    for name, module in network.named_modules():
        if isinstance(module, QCFS):
            positive(module.threshold, f"the reconstructed threshold of {name!r} (a lower rate moves it less)")
    return network


def _tensors(outputs):
    """The real-valued tensors among a network's outputs."""
    return [y for y in tree_leaves(outputs) if isinstance(y, torch.Tensor) and y.is_floating_point()]


def _same_shapes(ours, theirs):
    shapes = [[tuple(y.shape[1:]) for y in _tensors(outputs)] for outputs in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise InputError(f"the networks answer in different shapes, {shapes[0]} and {shapes[1]}: give the original one")


def _rows(count, batch, seed):
    """Rows of batches without end: each pass over the sample in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from (rows for rows in torch.randperm(count, generator=generator).split(batch) if len(rows) == batch)
