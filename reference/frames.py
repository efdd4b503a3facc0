"""Frames over time: a sequence [T, batch, ...], and the mean of it (derivations 16)."""

import numpy as np

from .checks import InputError
from .network import images


def mean_frame(frames):
    """The mean of frames [T, batch, ...]; of equal ones it is that frame."""
    return frames[0] if len(frames) == 1 else frames[0] + (frames - frames[0]).sum(axis=0) / len(frames)


def sequence(network, frames):
    """Frames [T, batch, ...] in the network's arithmetic, or the one that is their mean; InputError if none."""
    frames = np.asarray(frames)
    if frames.ndim < 3 or not frames.size:
        raise InputError(f"frames must be a sequence [T, batch, ...], got shape {frames.shape}")
    shown = images(network.nodes, frames.reshape(-1, *frames.shape[2:])).reshape(frames.shape)
    return shown if network.schedule.streams else images(network.nodes, mean_frame(shown))[None]
