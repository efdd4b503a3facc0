"""Training on disk: epochs over batches, and the three stages of a run (ReLU, Algorithm 1's stages 1 and 2)."""

import contextlib
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..activation import PAPER, variant
from ..graph.timm import is_timm_transformer, with_sites
from ..quantisation import expand, quantise
from ..training import parameter_groups
from .distributed import gather, refuse, same_buffers, world

STAGES = ("relu", "stage 1", "stage 2")
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


OPTIMISERS = {
    "sgd": lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9),
    "adamw": lambda groups, lr: torch.optim.AdamW(groups, lr=lr),
}


def optimiser(network, lr, kind="sgd", weight_decay=5e-4, decay="weights"):
    """SGD (momentum 0.9) or AdamW in which only the weights of layers decay, or all parameters."""
    return OPTIMISERS[kind](parameter_groups(network, weight_decay, decay), lr)


def first_stage(activation):
    """The layer-wise activation that stage 1 trains: the variant itself if it is one, S-QCFS otherwise."""
    return activation if variant(activation)[0] == "layer" else "s-qcfs"


def enter(stage, network, activation, stage1, levels, initial_threshold, sample, form=None, derivative=PAPER):
    """The network at the start of `stage`: unchanged, quantised with layer thresholds, or with these expanded.

    `derivative` is one of `MASKS`; `form` holds the arguments of `with_sites`, which prepares a transformer of timm for
    quantisation.
    """
    if stage == "relu":
        return network
    if stage == "stage 1":
        network = with_sites(network, **form or {}) if is_timm_transformer(network) else network
        return quantise(network, stage1, levels, initial_threshold, sample, derivative)
    return expand(network, activation, sample) if stage == "stage 2" else network


class Seen(NamedTuple):
    """Mean loss, top-1 and top-5 accuracy over the images of an epoch or a test."""

    loss: float
    top1: float
    top5: float


def _hits(logits, labels):
    """The numbers of labels with the largest logit, and among the five largest."""
    among = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack([(logits.argmax(1) == labels).sum(), among.sum()])


@torch.no_grad()
def tested(network, batches):
    """Test the network in evaluation mode: `Seen`, over all processes, each image once.

    InputError if logits are not finite: the state saved before remains valid.
    """
    network.eval()
    counts = torch.zeros(5, dtype=torch.float64)
    for x, y in batches:
        logits = network(x)
        lost = (~torch.isfinite(logits).all(dim=1)).sum()
        counts += torch.stack([F.cross_entropy(logits, y) * len(y), *_hits(logits, y), lost, lost * 0 + len(y)]).cpu()
    loss, right, among, lost, total = torch.stack(gather(counts)).sum(0).tolist()
    if lost:
        refuse(f"the network's answers to {lost:.0f} of {total:.0f} images are not finite: try a smaller learning rate")
    return Seen(loss / total, right / total, among / total)


def order(count, batch, generator):
    """The rows of each training step, in an order drawn from `generator`: a list of index tensors, the same everywhere.

    The last batch is dropped if it has fewer than two images per process: batch norm cannot train on one.
    """
    steps = list(torch.randperm(count, generator=generator).split(batch))
    return steps[:-1] if len(steps) > 1 and len(steps[-1]) < 2 * world() else steps


def distilled(logits, labels, taught, weight):
    """(1 - weight) cross entropy + weight KL(teacher || student), means over the batch (Hinton et al. 2015, T = 1)."""
    hard = F.cross_entropy(logits, labels)
    if taught is None:
        return hard
    soft = F.kl_div(logits.log_softmax(-1), taught.log_softmax(-1), log_target=True, reduction="batchmean")
    return (1 - weight) * hard + weight * soft


def train_epoch(
    network, sgd, batches, rate, sizes, precision="float32", accumulate=1, scaler=None, teacher=None, watch=None
):
    """One epoch over `batches` of (x, y), this process's shares of batches of `sizes` images; returns `Seen`.

    `rate(p)` is the learning rate at share p of the epoch. Each batch is processed in `accumulate` parts; the gradient
    is that of the mean loss over all images, in all parts and processes. `teacher` is None or (network, weight):
    see `distilled`. `watch(i, total, seen)` is called after step i with the sum of all losses (on the device) and their
    number of images. InputError if the loss is not finite.
    """
    network.train()
    device, seen = next(network.parameters()).device, 0
    total = torch.zeros((), device=device)
    hits = torch.zeros(2, dtype=torch.long, device=device)
    last_good = torch.zeros((), dtype=torch.long, device=device)
    for i, (x, y) in enumerate(batches):
        for group in sgd.param_groups:
            group["lr"] = rate(i / len(sizes))
        sgd.zero_grad()
        parts = list(zip(x.chunk(accumulate), y.chunk(accumulate), strict=True))
        for j, part in enumerate(parts):
            waits = isinstance(network, nn.parallel.DistributedDataParallel) and j < len(parts) - 1
            with network.no_sync() if waits else contextlib.nullcontext():
                loss, logits = _backward(network, *part, world() / sizes[i], precision, scaler, teacher)
            total += loss * (sizes[i] / world())
            hits += _hits(logits, part[1])
        last_good += torch.isfinite(total).long()
        if scaler:
            scaler.step(sgd)
            scaler.update()
        else:
            sgd.step()
        seen += len(y)
        if watch:
            watch(i, total, seen)
    same_buffers(network)
    return _seen(total, hits, seen, last_good, rate(0), len(sizes))


def _backward(network, x, y, share, precision, scaler, teacher):
    """Add the gradient of a part of a batch, each image with weight `share`; returns (loss, logits), detached."""
    with torch.autocast(x.device.type, PRECISIONS[precision], enabled=precision != "float32"):
        with torch.no_grad():
            taught = teacher[0](x) if teacher else None
        logits = network(x)
        loss = distilled(logits, y, taught, teacher[1] if teacher else 0) * (len(y) * share)
    (scaler.scale(loss) if scaler else loss).backward()
    return loss.detach(), logits.detach()


def _seen(total, hits, seen, last_good, rate, steps):
    """The `Seen` of an epoch, over all processes; InputError if the loss is not finite."""
    images = sum(gather(seen))
    mean = sum(gather(float(total))) / images
    if not math.isfinite(mean):
        step = min(gather(int(last_good))) + 1
        refuse(
            f"the loss became {mean} at step {step} of {steps} in this epoch: try a smaller learning rate than "
            f"{rate:.3g}; what was saved after the epoch before is kept"
        )
    right, among = torch.stack(gather(hits.cpu())).sum(0).tolist()
    return Seen(mean, right / images, among / images)


def cosine(lr, epoch, epochs, warmup=0):
    """The learning rate within an epoch: share of the epoch -> rate.

    Grows from 0 to `lr` over the first `warmup` epochs; a cosine over all epochs anneals it to 0.
    """

    def rate(share):
        passed = epoch + share
        grown = min(1.0, passed / warmup) if warmup else 1.0
        return grown * 0.5 * lr * (1 + math.cos(math.pi * passed / epochs))

    return rate
