"""Frames over time: a sequence [T, batch, ...], and the mean of it (derivations 16)."""

import torch

from .checks import InputError, first_line
from .network import images


class Mean:
    """The mean of the frames so far, added in this order, as in the reference; of equal ones it is that frame."""

    def __init__(self):
        self.first: torch.Tensor | None = None
        self.others = torch.zeros(())  # what all of them together differ from the first
        self.count = 0

    def add(self, frame):
        """The mean with one more frame."""
        if self.first is None:
            self.first, self.others = frame.clone(), torch.zeros_like(frame)
        self.others = self.others + (frame - self.first)
        self.count += 1
        return self.first + self.others / self.count


def mean_frame(frames):
    """The mean of frames [T, batch, ...]; a single one is it."""
    mean, value = Mean(), frames[0]
    for frame in frames if len(frames) > 1 else ():
        value = mean.add(frame)
    return value


def together(frames):
    """A sequence of frames as one tensor; InputError if it is none."""
    try:
        tensors = isinstance(frames, (list, tuple)) and all(isinstance(frame, torch.Tensor) for frame in frames)
        return torch.stack([*frames]) if tensors else torch.as_tensor(frames)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(frames).__name__
        raise InputError(
            f"frames must be a tensor or an array [T, batch, ...], got {kind}: {first_line(error)}"
        ) from error


def sequence(network, frames, times, engine):
    """Frames [T, batch, ...] in the network's format, or the one frame that is their mean; InputError if none."""
    if engine not in (None, "dense"):
        raise InputError(f"frames are stepped: choose no engine, got {engine!r}")
    if network.images is not None:
        raise InputError("a calibrated network simulates the images that it was calibrated on, and no frames")
    if frames.ndim < 3 or not frames.numel():
        raise InputError(f"frames must be a sequence [T, batch, ...], got shape {tuple(frames.shape)}")
    if network.schedule.streams and times != [len(frames)]:
        raise InputError(f"while streaming, each step has its frame: steps must be {len(frames)}, got {max(times)}")
    shown = images(network, frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    return shown if network.schedule.streams else images(network, mean_frame(shown))[None]
