"""Answers at any time: the functions of `reference.anytime` on tensors, and the choice of worths on a sample."""

from dataclasses import replace

import torch
from torch.utils._pytree import tree_leaves, tree_map

from .checks import InputError


def read_out_early(logits: torch.Tensor, margin: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(answer, step) of each sample: read out in the first step in which the best class leads by `margin` in softmax.

    logits [T, batch, classes] of a simulation; a sample that never reaches the margin is read out at T.
    """
    best = logits.softmax(-1).topk(2, dim=-1).values
    sure = best[..., 0] - best[..., 1] >= margin
    sure[-1] = True
    step = sure.int().argmax(dim=0)
    return logits.argmax(-1).gather(0, step[None])[0], step + 1


def begun(network, x, start):
    """{layer: levels} with which a settling network begins: N L / T where a streaming one sent N in T steps."""
    if start is None:
        return {}
    if not network.schedule.settles or start.settled is not None:
        raise InputError("a run starts from a streaming network's, under a schedule that settles")
    first = next(value for value in tree_leaves(start.logits) if isinstance(value, torch.Tensor))  # [T, batch, ...]
    time, sent = len(first), {}
    for name, neuron in network.layers.items():
        if name not in start.counts or first.shape[1] != len(x):
            raise InputError(f"the start is of another network or batch: it has no counts of {name!r}")
        if neuron.levels % time:
            raise InputError(f"{name}: a start of T steps needs a T that divides L = {neuron.levels}, got {time}")
        sent[name] = (start.counts[name] * (neuron.levels // time)).to(x.dtype)
    return sent


def _one_after_another(first, then):
    return torch.cat([first, then]) if isinstance(then, torch.Tensor) else then


def joined(start, found):
    """The `Simulation` of a streaming run and of the settling one that went on from it: steps and spikes of both."""
    settled_at = start.latency + found.settled_at
    return replace(
        found,
        logits=tree_map(_one_after_another, start.logits, found.logits),
        emitted={name: spikes + found.emitted[name] for name, spikes in start.emitted.items()},
        latency=int(settled_at.max()),
        spikes_per_neuron=start.spikes_per_neuron + found.spikes_per_neuron,
        settled_at=settled_at,
    )
