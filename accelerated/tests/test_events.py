"""Recordings of events in the layout of N-MNIST, written here, and a network that sees them frame by frame."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import accelerated as acc
from accelerated.checks import InputError
from accelerated.data.events import SIDE, frames_of, nmnist, read_events

STEPS = LEVELS = 8


def as_bytes(x, y, time, brighter):
    """Events as a camera writes them; times beyond 2^13 need marks."""
    rows, later = [], 0
    for event in zip(x, y, time, brighter, strict=True):
        while event[2] - later >= 2**13:
            rows.append((0, 240, 0, 0, 0))
            later += 2**13
        t = event[2] - later
        rows.append((event[0], event[1], (event[3] << 7) | (t >> 16), (t >> 8) & 255, t & 255))
    return np.array(rows, np.uint8).tobytes()


def recording(label, random):
    """A bar that moves over 50 ms, upright or lying (label 0 or 1), brighter in front and darker behind."""
    time = np.sort(random.integers(0, 50_000, 400))
    front = 4 + time * 24 // 50_000
    across = random.integers(4, 30, 400)
    brighter = random.integers(0, 2, 400)
    along = front + brighter * 2
    x, y = (along, across) if label == 0 else (across, along)
    return x, y, time, brighter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """120 recordings to train on, 40 to test."""
    place, random = tmp_path_factory.mktemp("events"), np.random.default_rng(0)
    for part, count in (("Train", 60), ("Test", 20)):
        for label in (0, 1):
            (place / part / str(label)).mkdir(parents=True)
            for number in range(count):
                path = place / part / str(label) / f"{number:05}.bin"
                path.write_bytes(as_bytes(*recording(label, random)))
    return place


def test_events_come_back_as_they_were_written(tmp_path):
    written = recording(1, np.random.default_rng(1))
    (tmp_path / "x.bin").write_bytes(as_bytes(*written))
    for name, found, wanted in zip("xytp", read_events(tmp_path / "x.bin"), written, strict=True):
        assert (found == wanted).all(), name


def test_frames_hold_every_event_once():
    x, y, time, brighter = recording(0, np.random.default_rng(2))
    frames = frames_of(read_written(x, y, time, brighter), STEPS)
    assert frames.shape == (STEPS, 2, SIDE, SIDE)
    assert frames.sum() == len(x)
    part = (time - time.min()) * STEPS // (time.max() - time.min() + 1)
    for step in range(STEPS):
        here = part == step
        assert frames[step].sum() == here.sum() > 0
        assert (frames[step][brighter[here], y[here], x[here]] > 0).all()


def read_written(*events):
    """Events as `read_events` gives them."""
    from accelerated.data.events import Events

    return Events(*events)


def test_a_network_sees_a_recording_frame_by_frame(folder):
    """Trained on mean frames; exact schedules give its answer to them, streaming its answer in most cases."""
    (frames, labels), (shown, wanted) = nmnist(folder, "train", STEPS), nmnist(folder, "test", STEPS)
    assert frames.shape == (STEPS, 120, 2, SIDE, SIDE)
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 8, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)
    network = nn.Sequential(*layers)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(frames.mean(0)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    quantised = acc.quantise(network.eval(), "cs-qcfs", LEVELS, sample=frames.mean(0))
    answer = acc.answer(quantised, shown.mean(0))
    assert (answer.argmax(1) == wanted).float().mean() > 0.9
    for schedule in ("integrate-then-fire", "signed", "halving"):
        found = acc.simulate(acc.convert(quantised, schedule), shown, frames=True)
        assert torch.allclose(found.logits[-1], answer, rtol=0, atol=1e-5)  # two ways to the mean frame round apart
        assert found.units_that_differ == 0
        assert min(found.nonzero_share.values()) > 0.01
    streamed = acc.simulate(acc.convert(quantised, "streaming"), shown, frames=True)
    assert 0 < (streamed.units_that_differ or 0) < 0.5
    assert (streamed.logits[-1].argmax(1) == wanted).float().mean() > 0.8


def test_whole_pixels_stream_and_their_mean_is_refused():
    network, x = acc.load("digits"), acc.load("digits").images[:3]
    shown = torch.stack([x, x.flip(0)] * (STEPS // 2))  # T = L, at which counts are compared
    assert acc.simulate(acc.convert(network, "streaming"), shown, frames=True).units_that_differ is None
    with pytest.raises(InputError, match="of whole pixels"):
        acc.simulate(acc.convert(network, "signed"), shown, frames=True)


def test_what_is_no_recording_is_named(folder, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"1234567")
    with pytest.raises(InputError, match=r"x.bin is not of events: it has 7 bytes, and 5 are an event"):
        read_events(tmp_path / "x.bin")
    with pytest.raises(InputError, match="cannot read"):
        read_events(tmp_path / "y.bin")
    with pytest.raises(InputError, match="holds no recordings"):
        nmnist(tmp_path)
    with pytest.raises(InputError, match="unknown part 'all'"):
        nmnist(folder, "all")
    with pytest.raises(InputError, match="images must be a whole number of at least 1, got -1"):
        nmnist(folder, images=-1)
    events = read_written(np.array([40]), np.array([3]), np.array([0]), np.array([1]))
    with pytest.raises(InputError, match=r"events reach pixel \(40, 3\): 34 x 34 are expected"):
        frames_of(events, 4)


def test_n_mnist_itself():
    """Where it is: NMNIST names the folder that holds Train and Test."""
    place = os.environ.get("NMNIST")
    if not place:
        pytest.skip("NMNIST does not name a folder of N-MNIST")
    frames, labels = nmnist(Path(place), "test", STEPS, images=2)
    assert len(labels) == 20
    assert frames.sum(dim=(0, 2, 3, 4)).min() > 500
