"""Training: a plain loop of mini-batches, and the three stages of a run (ReLU, Algorithm 1's stages 1 and 2)."""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import nn

from .activation import QCFS, variant
from .distributed import gather, refuse, same_buffers, world
from .quantisation import expand, quantise

STAGES = ("relu", "stage 1", "stage 2")
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def optimiser(network, lr, momentum=0.9, weight_decay=5e-4, decay_thresholds=False):
    """SGD in which only weights decay: biases and batch norm do not, thresholds on request (docs/conventions.md)."""
    thresholds = {id(m.parameter) for m in network.modules() if isinstance(m, QCFS)}
    decays = lambda p: decay_thresholds if id(p) in thresholds else p.ndim > 1  # noqa: E731
    groups = [
        {"params": [p for p in network.parameters() if decays(p)], "weight_decay": weight_decay},
        {"params": [p for p in network.parameters() if not decays(p)], "weight_decay": 0.0},
    ]
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
def accuracy(network, batches):
    """Share of images whose largest logit is their label, in evaluation mode; over all processes, each image once.

    InputError where answers are not finite: what was saved before is then still good.
    """
    network.eval()
    counts = torch.tensor([0, 0, 0])
    for x, y in batches:
        logits = network(x)
        lost = int((~torch.isfinite(logits).all(dim=1)).sum())
        counts += torch.tensor([int((logits.argmax(1) == y).sum()), lost, len(y)])
    right, lost, total = torch.stack(gather(counts)).sum(0).tolist()
    if lost:
        refuse(f"the network's answers to {lost} of {total} images are not finite: try a smaller learning rate")
    return right / total


def order(count, batch, generator):
    """The rows of each training step, in an order drawn from `generator`: a list of index tensors, the same everywhere.

    The last one is left out if it holds fewer than two images a process: batch norm cannot train on one.
    """
    steps = list(torch.randperm(count, generator=generator).split(batch))
    return steps[:-1] if len(steps) > 1 and len(steps[-1]) < 2 * world() else steps


def train_epoch(network, sgd, batches, rate, sizes, precision="float32", accumulate=1, scaler=None):
    """One epoch over `batches` of (x, y), this process's shares of batches of `sizes` images; returns the mean loss.

    `rate(p)` is the learning rate at share p of the epoch. Each batch is worked on in `accumulate` parts; the gradient
    is that of the mean loss over all its images, in all parts and processes. InputError if the loss is no longer a
    number.
    """
    network.train()
    device, seen = next(network.parameters()).device, 0
    total = torch.zeros((), device=device)
    last_good = torch.zeros((), dtype=torch.long, device=device)
    for i, (x, y) in enumerate(batches):
        for group in sgd.param_groups:
            group["lr"] = rate(i / len(sizes))
        sgd.zero_grad()
        parts = list(zip(x.chunk(accumulate), y.chunk(accumulate), strict=True))
        for j, (part_x, part_y) in enumerate(parts):
            waits = isinstance(network, nn.parallel.DistributedDataParallel) and j < len(parts) - 1
            with network.no_sync() if waits else contextlib.nullcontext():
                with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32"):
                    loss = F.cross_entropy(network(part_x), part_y) * (len(part_y) * world() / sizes[i])
                (scaler.scale(loss) if scaler else loss).backward()
            total += loss.detach() * (sizes[i] / world())
        last_good += torch.isfinite(total).long()
        if scaler:
            scaler.step(sgd)
            scaler.update()
        else:
            sgd.step()
        seen += len(y)
    same_buffers(network)
    mean = sum(gather(float(total))) / sum(gather(seen))
    if not math.isfinite(mean):
        step = min(gather(int(last_good))) + 1
        refuse(
            f"the loss became {mean} at step {step} of {len(sizes)} in this epoch: try a smaller learning rate than "
            f"{rate(0):.3g}; what was saved after the epoch before is kept"
        )
    return mean


def cosine(lr, epoch, epochs):
    """The learning rate within an epoch, annealed to 0 over all: share of the epoch -> rate."""
    return lambda share: 0.5 * lr * (1 + math.cos(math.pi * (epoch + share) / epochs))
