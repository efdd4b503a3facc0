"""Sequences of frames (derivations 16): what T1, T2, T3 and T6 say then, in exact arithmetic and in both packages."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import accelerated as acc
import reference as ref
from isospike import InputError

from .strategies import rational_array

STEPS, LEVELS = 4, 4
EXACT = ("integrate-then-fire", "signed", "halving")


def nodes(weights, of_image=False):
    """Two layers of QCFS and a read-out, without biases; `of_image`: it reads the image, too."""
    a, b, c = weights
    one = np.ones_like(a[0, 0])
    activation = {"op": "qcfs", "parameter": one * 3 / 2, "positivity": "raw", "levels": LEVELS}
    layers = [
        {"name": "a", "op": "linear", "inputs": ["image"], "weight": a, "bias": None},
        {"name": "s", "inputs": ["a"], **activation},
        {"name": "b", "op": "linear", "inputs": ["s"], "weight": b, "bias": None},
        {"name": "t", "inputs": ["b"], **activation},
        {"name": "c", "op": "linear", "inputs": ["t"], "weight": c, "bias": None},
    ]
    return [*layers, {"name": "d", "op": "add", "inputs": ["c", "image"]}] if of_image else layers


def drawn(seed):
    """(weights, frames [T, batch, 4]) of small dyadic numbers, whose sums are exact in any order."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-8, 9, (4, 4)) / 8 for _ in range(3)], rng.integers(-16, 17, (STEPS, 3, 4)) / 4


def network_of(package, weights, of_image=False):
    """The quantised network in a package."""
    return package.build(nodes(weights, of_image))


@given(rational_array((3, 2, 2)), rational_array((STEPS, 2, 2)))
def test_exact_schedules_answer_to_the_mean_frame(weights, frames):
    """In exact arithmetic, totals and increments; frames of both signs, far outside of what a step takes."""
    network = network_of(ref, weights)
    wanted = ref.answer(network, sum(frames) / STEPS)
    for schedule in EXACT:
        spiking = ref.convert(network, schedule)
        for arithmetic in ("totals", "increments"):
            found = ref.simulate(spiking, frames, arithmetic=arithmetic, frames=True)
            assert (found.logits[-1] == wanted).all(), (schedule, arithmetic)
            assert found.units_that_differ == 0


@given(st.permutations(range(STEPS)), rational_array((3, 2, 2)), rational_array((STEPS, 2, 2)))
def test_the_order_of_frames_does_not_matter(order, weights, frames):
    """To integrate-then-fire; streaming, it does."""
    network = ref.convert(network_of(ref, weights), "integrate-then-fire")
    first, second = (ref.simulate(network, frames[rows], frames=True) for rows in (list(range(STEPS)), list(order)))
    assert (first.logits == second.logits).all()


def test_streaming_loses_a_spike_that_it_should_not_have_sent():
    """Currents 2 theta and -2 theta: the mean is 0 and has level 0; one spike. Within [0, theta] the count is right."""
    theta = Fraction(1)
    spikes, _ = ref.if_run(np.array([[[Fraction(2)]], [[Fraction(-2)]]]), theta)
    assert spikes.sum() == 1
    rng = np.random.default_rng(0)
    for _ in range(200):
        currents = np.vectorize(lambda n: Fraction(int(n), 12))(rng.integers(0, 13, (STEPS, 1, 4)))
        spikes, _ = ref.if_run(currents, theta)
        assert (spikes.sum(0) == ref.qcfs_level(sum(currents) / STEPS, theta, STEPS)).all()


@pytest.mark.parametrize("of_image", [False, True])
@pytest.mark.parametrize("schedule", ["streaming", *EXACT])
def test_both_packages_are_equal_in_every_bit(schedule, of_image):
    weights, frames = drawn(1)
    one, two = (package.convert(network_of(package, weights, of_image), schedule) for package in (ref, acc))
    one, two = ref.simulate(one, frames, frames=True), acc.simulate(two, torch.from_numpy(frames), frames=True)
    rows = [0, 1, 3] if schedule == "streaming" else slice(None)  # theta N / 3 is not dyadic
    assert (one.logits[rows] == two.logits.numpy()[rows]).all()
    for name, counts in one.counts.items():
        assert (counts == two.counts[name].numpy()).all()
        assert (counts != 0).mean() > 0.1
    assert one.units_that_differ == two.units_that_differ
    assert one.units_that_differ == 0 or schedule == "streaming"


@pytest.mark.parametrize("schedule", ["streaming", *EXACT])
def test_equal_frames_are_the_image(schedule):
    weights, frames = drawn(2)
    network = acc.convert(network_of(acc, weights, True), schedule)
    x = torch.from_numpy(frames[0])
    steps = STEPS if schedule == "streaming" else None
    as_image, as_frames = acc.simulate(network, x, steps), acc.simulate(network, x.expand(STEPS, *x.shape), frames=True)
    assert torch.equal(as_image.logits, as_frames.logits)


def test_calls_that_show_other_frames_are_the_simulation():
    """Step by step, with a read-out that sees the image: its term is the mean of the frames so far."""
    weights, frames = drawn(3)
    network, shown = acc.convert(network_of(acc, weights, True), "streaming"), torch.from_numpy(frames)
    rows = torch.stack([network(frame) for frame in shown])
    assert torch.equal(rows, acc.simulate(network, shown, frames=True).logits)


@pytest.mark.parametrize("package", [ref, acc])
def test_what_is_no_sequence_is_named(package):
    weights, frames = drawn(4)
    shown = torch.from_numpy(frames) if package is acc else frames
    streaming = package.convert(network_of(package, weights), "streaming")
    with pytest.raises(InputError, match=r"frames must be a sequence \[T, batch, ...\], got shape \(3, 4\)"):
        package.simulate(streaming, shown[0], frames=True)
    with pytest.raises(InputError, match="each step has its frame: steps must be 4, got 7"):
        package.simulate(streaming, shown, 7, frames=True)


@pytest.mark.parametrize("package", [ref, acc])
def test_calibrated_networks_and_read_outs_of_whole_pixels_take_no_frames(package):
    """Frames whose mean is the calibration's image; an image in the read-out, whose mean is not of whole pixels."""
    weights, frames = drawn(5)
    x = frames[0]
    shown = np.stack([x - 2, x + 2] * 2)
    as_input = torch.from_numpy if package is acc else np.asarray
    network = package.convert(network_of(package, weights), "streaming")
    calibrated = package.calibrate(network, as_input(x), "cos", 4)
    with pytest.raises(InputError, match="a calibrated network simulates the images that it was calibrated on"):
        package.simulate(calibrated, as_input(shown), frames=True)


def test_a_read_out_of_whole_pixels_takes_one_image():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 4)) / 255
    layers = [*nodes(drawn(6)[0]), {"name": "e", "op": "linear", "inputs": ["image"], "weight": drawn(7)[0][0],
                                    "bias": None}, {"name": "d", "op": "add", "inputs": ["c", "e"]}]  # fmt: skip
    for package, shown in ((ref, pixels), (acc, torch.from_numpy(pixels))):
        network = package.integers(package.build(layers), shown[0])
        streaming = package.convert(network, "streaming")
        with pytest.raises(InputError, match="the read-out sees the image, and the mean of frames of whole pixels"):
            package.simulate(streaming, shown, frames=True)
        package.simulate(streaming, shown[:1], frames=True)


def test_a_list_of_tensors_is_a_sequence():
    weights, frames = drawn(8)
    network, shown = acc.convert(network_of(acc, weights), "streaming"), torch.from_numpy(frames)
    assert torch.equal(acc.simulate(network, [*shown], frames=True).logits,
                       acc.simulate(network, shown, frames=True).logits)  # fmt: skip
    for wrong in ([*shown[:2], shown[2][:1]], "frames", None):
        with pytest.raises(InputError, match=r"frames must be a tensor or an array \[T, batch, ...\], got"):
            acc.simulate(network, wrong, frames=True)
