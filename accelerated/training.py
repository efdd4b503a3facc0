"""Training in memory by plain SGD, and the two-stage algorithm (Algorithm 1): `reference.training` with autograd.

`reconstruct` needs no labels. Runs on disk, with all their settings, are in runs/learning.py.
"""

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from .activation import QCFS
from .checks import InputError, one_of, positive, whole
from .conversion import SpikingNetwork, fold_batch_norms
from .graph.trace import evaluating, unwrapped
from .network import answer, batches_of
from .quantisation import AT_ONCE, expand, quantise

DECAYS = ("weights", "all")


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean of -log softmax(logits)[label]; logits [batch, classes]. Its gradient comes from autograd."""
    return F.cross_entropy(logits, labels)


def parameter_groups(network: nn.Module, weight_decay: float = 5e-4, decay: str = "weights") -> list[dict]:
    """Parameter groups for an optimiser: only the weights of layers decay (docs/conventions.md).

    With decay="all", so do thresholds, biases, norms and position embeddings, as in the published code of QCFS.
    """
    everything = one_of(decay, DECAYS, "decay") == "all"
    thresholds = {id(m.parameter) for m in network.modules() if isinstance(m, QCFS)}

    def decays(name, p):
        return everything or (id(p) not in thresholds and p.ndim > 1 and name.endswith("weight"))

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
    After quantised distillation (Polino, Pascanu and Alistarh, Model compression via distillation and quantization,
    ICLR 2018), with activations in place of weights as what is quantised.
    InputError if the network is not quantised, answers in another shape, has a threshold that is no longer positive
    in the end, or answers the sample no better than before.
    """
    if isinstance(network, SpikingNetwork) or not any(isinstance(m, QCFS) for m in network.modules()):
        raise InputError("a quantised network is reconstructed, before it is converted")
    if torch.is_inference_mode_enabled():
        raise InputError("reconstruction learns from gradients: call it outside torch.inference_mode")
    steps, batch, seed = whole(steps, "steps"), whole(batch, "batch"), whole(seed, "seed", 0)
    if not isinstance(rate, Real):
        raise InputError(f"rate must be a positive number, got {rate!r}")
    rate, original = float(positive(float(rate), "rate")), unwrapped(original)
    network, x = fold_batch_norms(network), torch.cat(batches_of(network, sample))
    if torch.finfo(x.dtype).bits < 32:
        raise InputError(f"reconstruction learns in float32 or float64, got {x.dtype}: convert the result afterwards")
    _same_shapes(answer(network, x[:1]), answer(original, x[:1]))
    before = _off(network, original, x)
    _learn(network, original, x, steps, rate, _rows(len(x), min(batch, len(x)), seed))
    for name, module in network.named_modules():
        if isinstance(module, QCFS):
            positive(module.threshold, f"the reconstructed threshold of {name!r} (a lower rate moves it less)")
    after = _off(network, original, x)
    if not after < before:
        raise InputError(f"reconstruction did not help: the mean square was {before:.3g} and is {after:.3g}; "
                         "give more images, or a lower rate")  # fmt: skip
    return network


def _learn(network, original, x, steps, rate, rows):
    """Adam on the squares of the difference of answers, in place."""
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    with evaluating(network), torch.enable_grad():
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = 0.5 * rate * (1 + math.cos(math.pi * step / steps))
            images = x[next(rows)]
            wanted = _tensors(answer(original, images))
            optimiser.zero_grad()
            pairs = zip(_tensors(network.forward(images)), wanted, strict=True)
            loss = torch.stack([_squares(ours, theirs) for ours, theirs in pairs]).sum()
            if not loss.requires_grad:
                raise InputError("the answer has no gradient: the network detaches it from its weights")
            loss.backward()
            optimiser.step()


def _off(network, original, x):
    """The mean square of the difference between two networks' answers."""
    total = 0.0
    for images in x.split(AT_ONCE):
        ours, theirs = (_tensors(answer(n, images)) for n in (network, original))
        total += len(images) * float(sum(map(_squares, ours, theirs)))
    return total / len(x)


def _squares(ours, theirs):
    """The mean square of the difference, but for classes that a mask makes infinite."""
    finite = theirs.isfinite()
    return F.mse_loss(ours.where(finite, 0), theirs.where(finite, 0))


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
