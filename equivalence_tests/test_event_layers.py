"""A layer of events is the convolution and the neuron, in every bit, on integer weights; every way of computing it."""

import pytest
import torch
import torch.nn.functional as F

build = pytest.importorskip("accelerated.kernels.build", reason="the kernels' folder is not there")
events = pytest.importorskip("accelerated.kernels.events")
pytestmark = pytest.mark.skipif(build.library() is None, reason="there is no C compiler: PyTorch does the work")

LAYERS = [  # channels in and out, height, width, kernel, stride, padding, pooled
    (16, 16, 6, 5, 3, 1, 1, False), (3, 16, 5, 5, 5, 2, 2, False), (8, 20, 8, 6, 3, 1, 0, True),
    (24, 32, 4, 6, 1, 2, 0, False), (5, 48, 4, 4, 2, 2, 1, False), (32, 32, 4, 4, 3, 1, 1, False),
    (20, 64, 5, 5, 3, 2, 1, False), (64, 64, 4, 4, 3, 1, 1, False), (64, 16, 4, 4, 3, 1, 1, True),
    (70, 130, 3, 3, 3, 1, 1, False), (130, 128, 1, 1, 1, 1, 0, False), (64, 128, 4, 4, 3, 1, 1, True),
]  # fmt: skip


def layer(shape, dtype, random):
    """Integer weights, bias and thresholds, and spikes of a layer before that are worth 4 each, [T, batch, ...]."""
    into, out, height, width, kernel, *_ = shape
    weight = torch.randint(-3, 4, (out, into, kernel, kernel), generator=random).to(dtype)
    bias = torch.randint(-3, 4, (out,), generator=random).to(dtype)
    theta = 4.0 * torch.randint(1, 9, (out,), generator=random).to(dtype)
    spikes = torch.rand(11, 3, into, height, width, generator=random) < torch.rand(into, 1, 1, generator=random) * 0.6
    return weight, bias, theta, spikes


def as_bits(spikes):
    """[T, batch, channels, height, width] as words of 64 channels."""
    spikes = spikes.permute(0, 1, 3, 4, 2).long()
    spikes = F.pad(spikes, (0, -spikes.shape[-1] % 64)).unflatten(-1, (-1, 64))
    return (spikes << torch.arange(64)).sum(-1)


def expected(shape, weight, bias, theta, spikes, dense):
    """Spikes and the last membrane, in integers."""
    _, _, _, _, _, stride, padding, pooled = shape
    v, sent, theta = None, [], theta.double()[:, None, None]
    for now, step in enumerate(spikes):
        x = F.avg_pool2d(step.double(), 2) if pooled else step.double()
        z = F.conv2d(4 * x, weight.double(), bias.double(), stride, padding)
        z = z if dense is None else z + dense[now if len(dense) > 1 else 0]
        v = z + (theta / 2 if v is None else v)
        sent.append(v >= theta)
        v = v - theta * sent[-1]
    return torch.stack(sent), v


@pytest.mark.parametrize("chunks", [(11,), (4, 4, 3), (1, 2, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", LAYERS, ids=str)
def test_a_layer_of_events_is_the_convolution_and_the_neuron(shape, dtype, chunks, monkeypatch, record_property):
    """Numbers are halves and integers far below 2^24: all sums are exact, in any order."""
    random = torch.Generator().manual_seed(sum(shape))
    weight, bias, theta, spikes = layer(shape, dtype, random)
    into, out, *_, stride, padding, pooled = shape
    sent, _ = expected(shape, weight, bias, theta, spikes, None)
    currents = {"none": None, "still": torch.randint(-9, 9, sent[:1].shape, generator=random).to(dtype),
                "moving": torch.randint(-9, 9, sent.shape, generator=random).to(dtype)}  # fmt: skip
    worth, seen = torch.full((into,), 4.0, dtype=dtype), []
    for (name, dense), tables in ((item, tables) for item in currents.items() for tables in (True, False)):
        sent, membrane = expected(shape, weight, bias, theta, spikes, dense)
        state = events.State((3, out, *sent.shape[-2:]), theta, bias)
        weights = events.Weights(weight, worth, stride, padding, state.tile, pooled)
        if tables and state.tile == events.WORD:
            continue
        monkeypatch.setattr(events, "by_tables", lambda *_, tables=tables: tables)
        at, answers = 0, []
        for count in chunks:
            bits = events.Spikes(as_bits(spikes[at : at + count]), worth)
            more = dense[at : at + count] if name == "moving" else dense
            answers.append(state.fire(count, [(weights, bits)], more))
            at += count
            assert torch.equal(state.sent(), sent[:at].sum(0).to(dtype)), (name, tables)
        assert torch.equal(torch.cat(answers), as_bits(sent)), (name, tables)
        assert torch.equal(state.membrane[..., :out].permute(0, 3, 1, 2).double(), membrane), (name, tables)
        assert torch.equal(events.Spikes(answers[-1], theta).dense().unflatten(0, (-1, 3)) != 0, sent[-count:])
        seen.append(sent.double().mean().item())
    record_property(
        "seen", f"a layer of events {shape}: all bits; {100 * min(seen):.0f} % of neurons and steps fire at least"
    )
    assert 0.1 < min(seen) <= max(seen) < 0.9


@pytest.mark.parametrize("tables", [True, False])
def test_any_number_of_sources_and_no_source(tables, monkeypatch):
    """A skip beside two convolutions; and a neuron on currents alone."""
    random = torch.Generator().manual_seed(0)
    shape = (16, 16, 5, 5, 3, 1, 1, False)
    weight, bias, theta, spikes = layer(shape, torch.float32, random)
    other, _, _, more = layer(shape, torch.float32, random)
    monkeypatch.setattr(events, "by_tables", lambda *_: tables)
    worth = torch.full((16,), 4.0)
    skip = events.Weights(torch.eye(16)[:, :, None, None], worth, 1, 0, 16)
    pairs = [
        (events.Weights(weight, worth, 1, 1, 16), spikes),
        (events.Weights(other, worth, 1, 1, 16), more),
        (skip, more),
    ]
    state = events.State((3, 16, 5, 5), theta, bias)
    bits = state.fire(11, [(weights, events.Spikes(as_bits(fired), worth)) for weights, fired in pairs], None)
    z = torch.stack([F.conv2d(4.0 * b.float(), other, None, 1, 1) + 4 * b for b in more])
    assert torch.equal(bits, as_bits(expected(shape, weight, bias, theta, spikes, z)[0]))
    alone = events.State((3, 16, 5, 5), theta, None)
    bits = torch.cat([alone.fire(4, [], z[:4]), alone.fire(7, [], z[4:])])
    none = torch.zeros_like(weight), torch.zeros_like(bias)
    assert torch.equal(bits, as_bits(expected(shape, *none, theta, spikes, z)[0]))


def test_few_channels_are_looked_up_and_many_are_added():
    def chosen(into, out, kernel):
        state = events.State((1, out, 8, 8), torch.ones(out), None)
        return events.by_tables(
            state.tile, [events.Weights(torch.ones(out, into, kernel, kernel), torch.ones(into), 1, 1, state.tile)]
        )

    assert [chosen(*sizes) for sizes in ((16, 16, 3), (8, 32, 3), (64, 64, 3), (16, 64, 3), (512, 16, 3))] == [
        True, True, False, False, False]  # fmt: skip


@pytest.mark.parametrize("shape", [LAYERS[0], LAYERS[5], LAYERS[9], LAYERS[11]], ids=str)
def test_threads_share_the_work_and_change_nothing(shape):
    random, before = torch.Generator().manual_seed(1), torch.get_num_threads()
    weight, bias, theta, spikes = layer(shape, torch.float32, random)
    *_, stride, padding, pooled = shape
    sent, _ = expected(shape, weight, bias, theta, spikes, None)
    worth = torch.full((shape[0],), 4.0)
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            state = events.State((3, shape[1], *sent.shape[-2:]), theta, bias)
            weights = events.Weights(weight, worth, stride, padding, state.tile, pooled)
            bits = state.fire(11, [(weights, events.Spikes(as_bits(spikes), worth))], None)
            assert torch.equal(bits, as_bits(sent)), threads
    finally:
        torch.set_num_threads(before)
