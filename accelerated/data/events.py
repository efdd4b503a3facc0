"""Recordings of event cameras as frames over time, in the layout of N-MNIST (Orchard et al. 2015), as tonic keeps it.

FOLDER/Train and FOLDER/Test have a folder for each class, 0, 1, ..., of files .bin. An event has five bytes: x, y, and
a bit for its sign before 23 bits of time in microseconds. A y of 240 is no event: from there on times are 2^13 later.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..checks import InputError, one_of, whole

BYTES, LATER, NO_EVENT = 5, 2**13, 240
PARTS = {"train": "Train", "test": "Test"}
SIDE = 34  # pixels of N-MNIST


class Events(NamedTuple):
    """Events of a recording, in order: where, when (microseconds) and whether it became brighter (1) or darker (0)."""

    x: np.ndarray
    y: np.ndarray
    time: np.ndarray
    brighter: np.ndarray


def read_events(path: str | Path) -> Events:
    """The events of a file; InputError for one that is not of events."""
    try:
        raw = np.frombuffer(Path(path).read_bytes(), np.uint8).astype(np.int64)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if not len(raw) or len(raw) % BYTES:
        raise InputError(f"{path} is not of events: it has {len(raw)} bytes, and {BYTES} are an event")
    x, y, high, middle, low = raw.reshape(-1, BYTES).T
    time = ((high & 127) << 16) + (middle << 8) + low + LATER * np.cumsum(y == NO_EVENT)
    events = y != NO_EVENT
    return Events(x[events], y[events], time[events], (high >> 7)[events])


def frames_of(events: Events, steps: int, side: int = SIDE) -> np.ndarray:
    """How many events of either sign each pixel has in each of `steps` equal parts of the time [steps, 2, side, side].

    InputError for events outside of side x side.
    """
    side = whole(side, "side")
    frames = np.zeros((whole(steps, "steps"), 2, side, side), np.float32)
    if not len(events.x):
        return frames
    if max(events.x.max(), events.y.max()) >= side:
        raise InputError(f"events reach pixel ({events.x.max()}, {events.y.max()}): {side} x {side} are expected")
    since = events.time - events.time.min()
    np.add.at(frames, (since * steps // (since.max() + 1), events.brighter, events.y, events.x), 1)
    return frames


def nmnist(
    folder: str | Path, part: str = "test", steps: int = 8, images: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(frames [steps, n, 2, 34, 34] of N-MNIST, labels [n]), of the first `images` files of each class if given.

    `simulate(network, frames, frames=True)` takes them; their mean over the steps is what a network is trained on.
    """
    images = None if images is None else whole(images, "images")
    place = Path(folder) / PARTS[one_of(part, PARTS, "part")]
    classes = sorted(path for path in place.glob("*") if path.is_dir() and path.name.isdecimal())
    files = [(path, int(kind.name)) for kind in classes for path in sorted(kind.glob("*.bin"))[:images]]
    if not files:
        raise InputError(f"{place} holds no recordings: folders 0, 1, ... of files .bin are expected")
    frames = np.stack([frames_of(read_events(path), steps) for path, _ in files], 1)
    return torch.from_numpy(frames), torch.tensor([label for _, label in files])
