"""M1: max pooling of spikes is made of spikes, and networks with it are exact without an average in its place."""

import numpy as np
import pytest
import z3

from . import random_networks as nets


def of(impl, name, *arguments):
    return impl.decode(impl.native(name)(*map(impl.encode, arguments[:1]), *arguments[1:]))


def in_turn(levels, steps):
    """Trains under integrate-then-fire: each neuron fires in the first steps of its phase."""
    return (np.arange(steps).reshape(-1, 1, 1, 1, 1) < levels).astype(float)


def test_M1_the_or_of_spikes_in_turn_counts_the_largest_level(impl):
    random = np.random.default_rng(0)
    for _ in range(20):
        levels = random.integers(0, 9, (2, 3, 6, 6))
        spikes = in_turn(levels, 8)
        out = of(impl, "max_pool2d_run", spikes, 2)
        windows = spikes.reshape(8, 2, 3, 3, 2, 3, 2)
        assert (out == windows.max(axis=(4, 6))).all()
        assert (out.sum(axis=0) == levels.reshape(2, 3, 3, 2, 3, 2).max(axis=(3, 5))).all()


def test_M1_signed_trains_stay_signed(impl):
    random = np.random.default_rng(1)
    for _ in range(20):
        counts = np.zeros((1, 2, 4, 4))
        spikes = []
        for _ in range(12):
            step = np.clip(counts + random.integers(-1, 2, counts.shape), 0, 5) - counts
            counts = counts + step
            spikes.append(step)
        out = of(impl, "max_pool2d_run", np.stack(spikes), 2)
        assert set(np.unique(out)) == {-1, 0, 1}
        assert (out.sum(axis=0) == counts.reshape(1, 2, 2, 2, 2, 2).max(axis=(3, 5))).all()


def test_M1_the_or_of_spikes_that_pause_counts_too_much(impl):
    spikes = np.zeros((2, 1, 1, 2, 2))
    spikes[0, 0, 0, 0, 0] = spikes[1, 0, 0, 1, 1] = 1
    assert spikes.max(axis=(3, 4)).sum() == 2
    assert of(impl, "max_pool2d_run", spikes, 2).sum() == 1


@pytest.mark.parametrize("neurons", [2, 4])
def test_M1_for_all_counts(neurons):
    """(7.5) for every count: no model in which the maximum moves by more than 1."""
    before, after = ([z3.Int(f"{name}{i}") for i in range(neurons)] for name in ("before", "after"))

    def largest(counts):
        found = counts[0]
        for count in counts[1:]:
            found = z3.If(count > found, count, found)
        return found

    solver = z3.Solver()
    solver.add(*(z3.And(b >= 0, a >= 0, a - b <= 1, b - a <= 1) for b, a in zip(before, after, strict=True)))
    solver.add(z3.Or(largest(after) - largest(before) > 1, largest(before) - largest(after) > 1))
    assert solver.check() == z3.unsat


@pytest.mark.parametrize("arithmetic", ["totals", "increments"])
@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed"])
def test_M1_networks_with_max_pooling_are_exact(impl, schedule, arithmetic, seen):
    random, shares = np.random.default_rng(2), []
    for _ in range(5):
        nodes = nets.integer_cnn(random, 3, 4)
        nodes = [node | {"op": "max_pool2d"} if node["op"] == "avg_pool2d" else node for node in nodes]
        x = random.integers(0, 16, (4, 1, 4, 4)) / 16
        network = impl.native("build")(impl.encode(nodes))
        spiking = impl.native("convert")(network, schedule)
        steps = 4 if schedule == "integrate-then-fire" else 2 + 3 * 3 + 4
        s = impl.decode(impl.native("simulate")(spiking, impl.encode(x), steps, arithmetic))
        assert (s.logits[-1] == impl.decode(impl.native("answer")(network, impl.encode(x)))).all()
        shares.append(np.mean(list(s.nonzero_share.values())))
    assert np.mean(shares) > 0.1
    seen(f"M1 {impl.name}, {schedule} on {arithmetic}: equal, levels other than 0: {100 * np.mean(shares):.0f} %")
