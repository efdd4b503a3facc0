"""A1, the neuron: a model solution."""

import numpy as np


def qcfs_level(z, threshold, levels, shift=0.5):
    with np.errstate(over="ignore"):
        return np.clip(np.floor(z * levels / threshold + shift), 0, levels)


def lif_run(currents, threshold, leak, v0=None):
    membrane = np.broadcast_to(threshold / 2 if v0 is None else v0, currents.shape[1:])
    spikes = []
    for current in currents:
        membrane = membrane * leak + current
        spike = (membrane >= threshold).astype(currents.dtype)
        membrane = membrane - threshold * spike
        spikes.append(spike)
    return np.stack(spikes), membrane


def if_run(currents, threshold, v0=None):
    return lif_run(currents, threshold, 1, v0)


def integrate_then_fire_run(currents, threshold):
    membrane = np.broadcast_to(threshold / 2, currents.shape[1:])
    for current in currents:
        membrane = membrane + current
    spikes = []
    for _ in currents:
        spike = (membrane >= threshold).astype(currents.dtype)
        membrane = membrane - threshold * spike
        spikes.append(spike)
    return np.stack(spikes), membrane


def signed_step(total, sent, threshold, levels):
    return np.clip(qcfs_level(total, threshold, levels) - sent, -1, 1)


def st_bif_run(currents, threshold, levels):
    membrane, sent, spikes = np.full_like(currents[0], 0.5), np.zeros_like(currents[0]), []
    for current in currents:
        membrane = membrane + current * levels / threshold
        spike = ((membrane >= 1) & (sent < levels)).astype(currents.dtype)
        spike -= (membrane < 0) & (sent > 0)
        membrane, sent = membrane - spike, sent + spike
        spikes.append(spike)
    return np.stack(spikes), sent
