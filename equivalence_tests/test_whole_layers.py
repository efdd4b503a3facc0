"""A layer of events in whole numbers is the convolution and the settling neuron, in every bit."""

import pytest
import torch
import torch.nn.functional as F

build = pytest.importorskip("accelerated.kernels.build", reason="the kernels' folder is not there")
lists = pytest.importorskip("accelerated.kernels.lists")
pytestmark = pytest.mark.skipif(build.library() is None, reason="there is no C compiler: PyTorch does the work")

LAYERS = [  # channels in and out, height, width, kernel, stride, padding, window
    (16, 16, 6, 5, (3, 3), (1, 1), (1, 1), (1, 1)), (3, 16, 5, 5, (5, 3), (2, 1), (2, 0), (1, 1)),
    (24, 32, 4, 6, (1, 1), (2, 2), (0, 0), (1, 1)), (5, 48, 4, 4, (2, 2), (2, 2), (1, 1), (1, 1)),
    (64, 64, 4, 4, (3, 3), (1, 1), (1, 1), (1, 1)), (20, 64, 6, 6, (3, 3), (1, 1), (1, 1), (2, 3)),
    (70, 130, 3, 3, (3, 3), (1, 1), (1, 1), (1, 1)), (130, 96, 2, 2, (2, 2), (1, 1), (0, 0), (1, 1)),
    (64, 20, 4, 4, (1, 1), (1, 1), (0, 0), (4, 4)), (2, 7, 3, 3, (3, 3), (1, 1), (4, 4), (1, 1)),
]  # fmt: skip
WORTHS, LEVELS, BATCH = (17, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1), 8, 3  # 17: no spike of that worth fits


def layer(shape, lowest, random, largest=99):
    """Whole weights, biases and D, and spikes of either sign of a layer before, [T, batch, ...]."""
    into, out, height, width, kernel, *_ = shape
    weight = torch.randint(-largest, largest + 1, (out, into, *kernel), generator=random)
    bias = torch.randint(-largest, largest + 1, (out,), generator=random)
    step = torch.randint(1, 4 * largest, (out,), generator=random)
    draw = torch.rand(len(WORTHS), BATCH, into, height, width, generator=random)
    share = torch.rand(into, 1, 1, generator=random) * torch.linspace(0.6, 0, len(WORTHS)).view(-1, 1, 1, 1, 1)
    spikes = (draw < share).long() * torch.where(torch.rand(draw.shape, generator=random) < 0.6, 1, -1)
    return weight, bias, step, spikes


def as_planes(spikes):
    """Spikes -1, 0, 1 [T, batch, channels, height, width] as two planes of words of 64 channels."""
    planes = torch.stack([spikes == 1, spikes == -1]).permute(0, 1, 2, 4, 5, 3).long()
    planes = F.pad(planes, (0, -planes.shape[-1] % 64)).unflatten(-1, (-1, 64))
    return (planes << torch.arange(64)).sum(-1).contiguous()


def current(shape, weight, spikes):
    """A convolution of spikes in int64 (PyTorch's float64 holds all of its sums)."""
    *_, stride, padding, window = shape
    summed = F.avg_pool2d(spikes.double(), window, divisor_override=1)
    return F.conv2d(summed, weight.double(), None, stride, padding).long()


def expected(currents, bias, step, lowest, lag):
    """(spikes, levels sent, spikes emitted, membranes) of settling neurons, from the formulas of T6 alone."""
    step, membrane, sent, emitted, fired = step[:, None, None], bias[:, None, None], 0, 0, []
    membrane = membrane + (currents.sum(0) if lag else 0)
    for now, worth in enumerate(WORTHS):
        membrane = membrane + (0 if lag else currents[now])
        up = (2 * membrane >= worth * step) & (sent + torch.tensor(worth) <= LEVELS)
        down = (2 * membrane < -worth * step) & (sent - torch.tensor(worth) >= lowest)
        fired.append(up.long() - down.long())
        membrane = membrane - worth * step * fired[-1]
        sent, emitted = sent + worth * fired[-1], emitted + fired[-1].abs()
    return torch.stack(fired), sent, emitted, membrane


def run(rows, spikes, state, chunks, lag, window, dense=None):
    """Planes of all steps, in chunks; if `lag`, all input arrives before the first spike."""
    planes, at, worths = [], 0, torch.tensor(WORTHS, dtype=torch.int32)
    for count in chunks:
        part = slice(at, at + count)
        read = lists.Lists.of(as_planes(spikes[part]), spikes.shape[2], worths[part], window)
        planes.append(state.fire(rows.of(read), worths[part], count if lag else 0, None if dense is None
                                 else dense[part]))  # fmt: skip
        at += count
    return torch.cat(planes, 1)


@pytest.mark.parametrize("lowest", [0, -8])
@pytest.mark.parametrize(("chunks", "lag"), [((11,), 0), ((1, 2, 8), 0), ((11,), 1)])
@pytest.mark.parametrize("shape", LAYERS, ids=str)
def test_a_layer_is_the_convolution_and_the_neuron(shape, chunks, lag, lowest, record_property):
    random = torch.Generator().manual_seed(sum(shape[:4]))
    weight, bias, step, spikes = layer(shape, lowest, random)
    *_, stride, padding, window = shape
    currents = torch.stack([w * current(shape, weight, s) for w, s in zip(WORTHS, spikes, strict=True)])
    dense = torch.randint(-99, 99, currents.shape, generator=random)
    for beside in (None, dense):
        fired, *wanted = expected(currents + (0 if beside is None else beside), bias, step, lowest, lag)
        state = lists.WholeLayer(
            lists.Neurons((shape[1], *currents.shape[-2:]), step[None], lowest, LEVELS, bias), BATCH
        )
        planes = run(lists.Rows(weight, stride, padding), spikes, state, chunks, lag, window, beside)
        assert torch.equal(planes, as_planes(fired))
        for seen, value in zip((state.sent, state.emitted, state.membrane), wanted, strict=True):
            assert torch.equal(state.of_channels(seen), value.int())
    signs = [(fired == sign).double().mean().item() for sign in (1, -1)]
    record_property(
        "seen", f"whole layer {shape}: all bits; {signs[0]:.1%} of neurons and steps up, {signs[1]:.1%} down"
    )
    assert signs[0] > 0.05
    assert signs[1] > 0.001 or (lag and lowest == 0)  # of all input at once, too much was sent by rounding alone


@pytest.mark.parametrize("largest", [127, 2000, 2**15 - 1])
def test_sums_of_16_bits_are_widened_before_they_overflow(largest):
    """All weights at their bound, all spikes up: at 32767 every other sum of two would be wrong."""
    shape = (70, 20, 4, 4, (3, 3), (1, 1), (1, 1), (1, 1))
    weight, spikes = torch.full((20, 70, 3, 3), largest), torch.ones(len(WORTHS), BATCH, 70, 4, 4, dtype=torch.long)
    for sign in (1, -1):
        currents = torch.stack([w * current(shape, sign * weight, s) for w, s in zip(WORTHS, spikes, strict=True)])
        step, bias = torch.full((20,), 40 * largest), torch.zeros(20, dtype=torch.long)
        fired, sent, _, membrane = expected(currents, bias, step, -8, 0)
        state = lists.WholeLayer(lists.Neurons((20, 4, 4), step[None], -8, LEVELS), BATCH)
        planes = run(lists.Rows(sign * weight, (1, 1), (1, 1)), spikes, state, (11,), 0, (1, 1))
        assert torch.equal(planes, as_planes(fired))
        assert torch.equal(state.of_channels(state.membrane), membrane.int())
        assert sent.abs().min() > 0


def test_thresholds_of_single_neurons_and_several_sources():
    """D of each neuron; a convolution, a skip and changes of more than one level, sent as spikes."""
    random = torch.Generator().manual_seed(0)
    shape = (16, 16, 5, 5, (3, 3), (1, 1), (1, 1), (1, 1))
    weight, bias, _, spikes = layer(shape, 0, random)
    steps = torch.randint(1, 400, (16, 5, 5), generator=random)
    changes = 2 * torch.randint(-2, 3, spikes.shape, generator=random)
    worths, twos = torch.tensor(WORTHS, dtype=torch.int32), torch.full((len(WORTHS),), 2, dtype=torch.int32)
    units = (changes // 2).permute(0, 1, 3, 4, 2).int().contiguous()
    rows = lists.Rows(weight, (1, 1), (1, 1))
    skip = lists.Factors(torch.full((16,), 30))
    read = lists.Lists.of(as_planes(spikes), 16, worths)
    events = rows.of(read) + skip.of(read)
    for bound in (1, 2):
        events += rows.of(lists.Lists.of(lists.planes_of(units, bound), 16, twos))
    neurons = lists.Neurons((16, 5, 5), steps.permute(1, 2, 0).flatten(0, 1), 0, LEVELS, bias)
    state = lists.WholeLayer(neurons, BATCH)
    planes = state.fire(events, worths, 0)
    currents = torch.stack([w * (current(shape, weight, s) + 30 * s) + current(shape, weight, c)
                            for w, s, c in zip(WORTHS, spikes, changes, strict=True)])  # fmt: skip
    membrane, sent, fired = bias[:, None, None], torch.zeros(()), []
    for worth, z in zip(WORTHS, currents, strict=True):
        membrane = membrane + z
        up, down = 2 * membrane >= worth * steps, 2 * membrane < -worth * steps
        fired.append((up & (sent + worth <= LEVELS)).long() - (down & (sent - worth >= 0)).long())
        membrane, sent = membrane - worth * steps * fired[-1], sent + worth * fired[-1]
    assert torch.equal(planes, as_planes(torch.stack(fired)))
    assert 0.05 < torch.stack(fired).abs().double().mean() < 0.9


@pytest.mark.parametrize("channels", [7, 32, 48, 70, 130, 192])
def test_spikes_that_arrive_where_they_were_fired(channels):
    """Any number of channels, in tiles of 64, 32 or 16: factors of them are a convolution by a diagonal."""
    shape, random = (channels, channels, 3, 5, (1, 1), (1, 1), (0, 0), (1, 1)), torch.Generator().manual_seed(channels)
    _, bias, step, spikes = layer(shape, 0, random)
    factor = torch.randint(-2000, 2000, (channels,), generator=random)
    currents = torch.stack([w * factor[:, None, None] * s for w, s in zip(WORTHS, spikes, strict=True)])
    fired, *wanted = expected(currents, bias, step, 0, 0)
    neurons = lists.Neurons(shape[1:4], step[None], 0, LEVELS, bias)
    for weights in (lists.Factors(factor), lists.Rows(factor.diag()[:, :, None, None], (1, 1), (0, 0))):
        state = lists.WholeLayer(neurons, BATCH)
        assert torch.equal(run(weights, spikes, state, (4, 7), 0, (1, 1)), as_planes(fired))
        for seen, value in zip((state.sent, state.emitted, state.membrane), wanted, strict=True):
            assert torch.equal(state.of_channels(seen), value.int())
    assert fired.abs().double().mean() > 0.05


@pytest.mark.parametrize("shape", [LAYERS[0], LAYERS[6], LAYERS[8]], ids=str)
def test_threads_share_the_work_and_change_nothing(shape):
    random, before = torch.Generator().manual_seed(1), torch.get_num_threads()
    weight, bias, step, spikes = layer(shape, 0, random)
    *_, stride, padding, window = shape
    currents = torch.stack([w * current(shape, weight, s) for w, s in zip(WORTHS, spikes, strict=True)])
    fired, *_ = expected(currents, bias, step, 0, 0)
    neurons = lists.Neurons((shape[1], *currents.shape[-2:]), step[None], 0, LEVELS, bias)
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            state = lists.WholeLayer(neurons, BATCH)
            planes = run(lists.Rows(weight, stride, padding), spikes, state, (11,), 0, window)
            assert torch.equal(planes, as_planes(fired)), threads
    finally:
        torch.set_num_threads(before)
