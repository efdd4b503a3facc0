"""Answers at any time: read out early by margin, or go on from a streaming run until the answer is exact.

Formulas: docs/derivations.md (14.2), "from any state".
"""

from dataclasses import replace

import numpy as np

from .checks import InputError, array


def read_out_early(logits: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """(answer, step) of each sample: read out in the first step in which the best class leads by `margin` in softmax.

    logits [T, batch, classes] of a simulation; a sample that never reaches the margin is read out at T.
    """
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares = np.sort(shares / shares.sum(axis=-1, keepdims=True), axis=-1)
    sure = shares[..., -1] - shares[..., -2] >= margin
    sure[-1] = True
    step = sure.argmax(axis=0)
    return logits.argmax(axis=-1)[step, np.arange(len(step))], step + 1


def begun(network, x, start):
    """{layer: levels} with which a settling network begins: N L / T where a streaming one sent N in T steps."""
    if start is None:
        return {}
    if not network.schedule.settles or start.settled is not None:
        raise InputError("a run starts from a streaming network's, under a schedule that settles")
    time, sent = len(start.logits), {}
    for node in network.layers:
        name, levels = node["name"], node["levels"]
        if name not in start.counts or len(start.counts[name]) != len(x):
            raise InputError(
                f"the start is of another network or batch: it has no counts of {name!r} for {len(x)} images"
            )
        if levels % time:
            raise InputError(f"{name}: a start of T steps needs a T that divides L = {levels}, got {time}")
        sent[name] = array(start.counts[name] * (levels // time), like=x)
    return sent


def joined(start, found):
    """The `Simulation` of a streaming run and of the settling one that went on from it: steps and spikes of both."""
    settled_at = start.latency + found.settled_at
    return replace(
        found,
        logits=np.concatenate([start.logits, found.logits]),
        emitted={name: spikes + found.emitted[name] for name, spikes in start.emitted.items()},
        latency=int(settled_at.max()),
        spikes_per_neuron=start.spikes_per_neuron + found.spikes_per_neuron,
        settled_at=settled_at,
    )
