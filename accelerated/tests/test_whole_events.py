"""Exact schedules on events: what they compute, and what they refuse."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accelerated as acc
from accelerated.engines import engine_named
from accelerated.models import make

from .whole_numbers import MEAN, STD, images


@pytest.mark.parametrize("schedule", ["halving", "signed", "integrate-then-fire"])
def test_events_are_the_steps(whole, schedule):
    """Each step's logits, each neuron's levels and spikes, when each image settles; one thread and two, any batch."""
    spiking, x = acc.convert(whole, schedule), images(14, seed=1)
    engine = engine_named("event", spiking.schedule)
    if engine is None or not engine(spiking, x).foldable:
        pytest.skip("there are no compiled kernels: the engine would step, too")
    wanted, threads = acc.simulate(spiking, x, None, "increments"), torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        found = acc.simulate(spiking, x, engine="event")
        torch.set_num_threads(threads)
        assert torch.equal(found.logits, wanted.logits)
        for name in wanted.counts:
            assert torch.equal(found.counts[name], wanted.counts[name]), name
            assert torch.equal(found.emitted[name], wanted.emitted[name]), name
        same = (found.latency, found.settled, found.spikes_per_neuron, found.nonzero_share)
        assert same == (wanted.latency, wanted.settled, wanted.spikes_per_neuron, wanted.nonzero_share)
        if found.settled_at is not None and wanted.settled_at is not None:
            assert found.settled_at.tolist() == wanted.settled_at.tolist()
    for size in (1, 7):
        parts = [acc.simulate(spiking, part, engine="event").logits for part in x.split(size)]
        assert torch.equal(torch.cat(parts, 1), wanted.logits), size
    for steps in (1, 5, 17) if spiking.schedule.settles else ():  # fewer, and no multiple of those taken at once
        found = acc.simulate(spiking, x, steps, engine="event")
        assert torch.equal(found.logits, acc.simulate(spiking, x, steps, "increments").logits), steps


class Twice(nn.Module):
    """Sums of two groups; levels that a convolution and a maximum share."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.first, self.groups, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=3), nn.Linear(24, 4)
        self.point = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        y = F.relu(self.point(x))
        z = F.relu(torch.add(self.groups(y), self.groups(x)))
        u = F.relu(self.point(z) + self.point(F.max_pool2d(x, 3, 1)))
        v = F.relu(u + z)
        return self.last(F.max_pool2d(v, 2).flatten(1))


@pytest.mark.parametrize("schedule", ["halving", "integrate-then-fire", "worths that never fit"])
def test_sums_that_are_no_plain_sums_of_two(schedule):
    schedule, x = acc.halving((10**12, 3, 1), 1, 1) if "never" in schedule else schedule, images(8)
    quantised = acc.fold_batch_norms(acc.quantise(Twice().eval(), "cs-qcfs", 8, sample=x))
    whole = acc.integers(quantised, x, 8, MEAN, STD)
    spiking = acc.convert(whole, schedule)
    s, wanted = acc.simulate(spiking, x, engine="event"), acc.simulate(spiking, x, None, "increments")
    assert torch.equal(s.logits, wanted.logits)
    assert all(torch.equal(s.counts[name], count) for name, count in wanted.counts.items())
    assert min(s.nonzero_share.values()) > 0.1


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "vgg16"])
def test_every_layer_of_our_networks_runs_on_events(name):
    """But for the first, which reads pixels. What PyTorch computes in place of spikes is exact, too, and slow."""
    torch.manual_seed(0)
    x = torch.randint(0, 256, (4, 3, 32, 32)) / 255
    network = make(name, (3, 32, 32), 10, 0.25).train()
    with torch.no_grad():
        network(x)
    whole = acc.integers(acc.quantise(network.eval(), "s-qcfs", 4, sample=x), x)
    for schedule in ("halving", "integrate-then-fire"):
        spiking = acc.convert(whole, schedule)
        engine = engine_named("event", spiking.schedule)
        if engine is None or not (run := engine(spiking, x)).foldable:
            pytest.skip("there are no compiled kernels: the engine would step, too")
        _, *others = run.terms.values()
        assert all(term.source in run.neurons for terms in others for term in terms), schedule
        assert sum(node in run.neurons for node in run.needed) == 1, "only the read-out needs values in each step"
        s = acc.simulate(spiking, x, engine="event")
        assert torch.equal(s.logits[-1], acc.answer(whole, x))
        assert sum(s.nonzero_share.values()) / len(s.nonzero_share) > 0.1


def test_counts_beyond_16_bits_are_refused(whole):
    spiking = acc.convert(whole, acc.halving((*[2] * 2**15, 1)))
    with pytest.raises(
        acc.InputError, match=r"counts up to 32767 spikes, .* may take 32\d+ steps: choose fewer levels"
    ):
        acc.simulate(spiking, images(2), 4, engine="event")


def test_what_events_cannot_run_exactly_is_refused(whole, quantised):
    x = images(2)
    with pytest.raises(acc.InputError, match=r"runs 'signed' in whole numbers alone: .* integers\(network, sample\)"):
        acc.simulate(acc.convert(quantised, "signed"), x, engine="event")
    waiting = acc.convert(whole, "integrate-then-fire")
    with pytest.raises(acc.InputError, match="at T = L, the same in all layers, got T = 4"):
        acc.simulate(waiting, x, 4, engine="event")
    with pytest.raises(acc.InputError, match="runs on increments: choose no other arithmetic, got 'theorem'"):
        acc.simulate(waiting, x, 8, "theorem", engine="event")
    with pytest.raises(acc.InputError, match="engine of schedule 'signed': 'auto': choose from dense, event"):
        acc.simulate(acc.convert(whole, "signed"), x, engine="auto")
    streamed = acc.simulate(acc.convert(whole, "streaming"), x, 8)
    with pytest.raises(acc.InputError, match="no engine goes on from another run"):
        acc.simulate(acc.convert(whole, "signed"), x, start=streamed, engine="event")
