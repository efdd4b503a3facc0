"""State: who owns it, what does not change, and that stepping by hand equals simulating."""

from importlib import import_module

import numpy as np
import pytest
import torch

import accelerated
import reference

from . import random_networks as nets

SCHEDULES = list(accelerated.schedules.SCHEDULES)
WAYS = [(name, way) for name, s in accelerated.schedules.SCHEDULES.items() for way in s.arithmetics if way != "theorem"]


def network(kind, seed=0, dtype=torch.float64):
    """(a quantised network with batch norm, skips, or layer norm and softmax; images)."""
    random = np.random.default_rng(seed)
    nodes, x = nets.MADE[kind](random, 2), nets.images(random, kind, 4)
    quantised = accelerated.quantise(accelerated.build(nodes), "cs-qcfs", 4, "max", torch.from_numpy(x))
    return accelerated.fold_batch_norms(quantised).to(dtype), torch.from_numpy(x).to(dtype)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "transformer"])
@pytest.mark.parametrize(("schedule", "arithmetic"), WAYS)
def test_stepped_by_hand_a_fresh_network_gives_what_simulate_gives(kind, schedule, arithmetic, seen):
    """In every step and bit, from a fresh network in the schedule's own arithmetic, and after reset in either."""
    quantised, x = network(kind)
    spiking = accelerated.convert(quantised, schedule)
    steps = 30 if spiking.schedule.settles else 4
    simulated = accelerated.simulate(accelerated.convert(quantised, schedule), x, steps, arithmetic)
    if arithmetic != spiking.schedule.arithmetics[0]:
        spiking.reset(steps, arithmetic)
    for _ in range(2):
        rows = [spiking(x) for _ in range(spiking.phases * steps)]
        ours = torch.stack(rows[-steps:])
        if spiking.schedule.streams:  # simulate takes several steps at once: sums of them are those of one
            assert torch.allclose(ours, simulated.logits, rtol=0, atol=1e-13 * simulated.logits.abs().max())
        else:
            assert torch.equal(ours, simulated.logits)
        counts = {name: neuron.sent.int() for name, neuron in spiking.layers.items()}
        assert all(torch.equal(counts[name], simulated.counts[name]) for name in counts)
        spiking.reset(steps, arithmetic)
    least = min(simulated.nonzero_share.values())
    seen(f"by hand, {kind}, {schedule}, {arithmetic}: as simulated; least active {100 * least:.0f} %")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_two_runs_of_one_network_share_no_state(schedule):
    """One is stepped by hand while others are simulated, one of them in the middle of another."""
    quantised, x = network("cnn")
    spiking, other = accelerated.convert(quantised, schedule), torch.rand_like(x)
    steps = 20 if spiking.schedule.settles else 4
    alone = [accelerated.simulate(accelerated.convert(quantised, schedule), images, steps) for images in (x, other)]
    by_hand = [spiking(x) for _ in range(2)]
    outer = accelerated.simulation.simulate_at(spiking, x, [2, steps] if not spiking.schedule.waits else [steps])
    first = next(outer)
    inner = accelerated.simulate(spiking, other, steps)
    last = dict([first, *outer])[steps]
    assert torch.equal(inner.logits, alone[1].logits)
    assert torch.equal(last.logits, alone[0].logits)
    by_hand += [spiking(x) for _ in range(spiking.phases * steps - 2)]
    tolerance = 1e-13 * alone[0].logits.abs().max()
    assert torch.allclose(torch.stack(by_hand[-steps:]), alone[0].logits, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("schedule", "arithmetic"), WAYS)
def test_images_may_change_between_steps_by_hand(schedule, arithmetic):
    """Another tensor, or the same one written over, counts from then on: a settling network forgets the first ones."""
    quantised, x = network("cnn")
    spiking = accelerated.convert(quantised, schedule)
    other = x.flip(0)
    if spiking.schedule.settles:
        for written_over in (False, True):
            spiking.reset(None, arithmetic)
            shown = x.clone()
            for _ in range(5):
                spiking(shown)
            if written_over:
                shown.copy_(other)
            for _ in range(40):
                logits = spiking(shown if written_over else other)
            expected = accelerated.answer(quantised, other)
            tolerance = 0 if arithmetic == "totals" else 1e-9 * expected.abs().max()  # increments drift in floats
            assert torch.allclose(logits, expected, rtol=0, atol=tolerance)
    else:
        spiking.reset(4, arithmetic)
        first = [spiking(x), spiking(other)]
        spiking.reset(4, arithmetic)
        assert torch.equal(spiking(x), first[0])
        shown = other.clone()
        assert torch.equal(spiking(shown), first[1])


def test_asking_leaves_a_network_in_the_mode_it_was_in():
    """Each module in its own: a network in training mode with a batch norm in evaluation mode stays so."""
    torch.manual_seed(0)
    layers = (
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Flatten(),
    )
    net, x = torch.nn.Sequential(*layers, torch.nn.Linear(64, 3)), torch.rand(5, 1, 6, 6)
    quantised = accelerated.quantise(net, levels=4, initial_threshold="max", sample=x).train()
    quantised.get_submodule("1").eval()
    spiking = accelerated.convert(quantised, "signed").train()
    before = [[module.training for module in each.modules()] for each in (quantised, spiking)]
    expected = accelerated.answer(quantised, x)
    for _ in range(2):
        assert torch.equal(accelerated.answer(quantised, x), expected), "dropout was at work"
    accelerated.simulate(spiking, x, 3)
    spiking(x)
    with pytest.raises(accelerated.InputError):
        accelerated.answer(quantised, x[:, :, :4])
    assert [[module.training for module in each.modules()] for each in (quantised, spiking)] == before
    assert True in before[0]
    assert False in before[0]


@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed"])
@pytest.mark.parametrize("engine", ["event", "auto", "graph"])
def test_an_engine_that_a_schedule_does_not_use_is_refused(schedule, engine):
    quantised, x = network("mlp")
    with pytest.raises(accelerated.InputError, match=f"engine .*{schedule!r}"):
        accelerated.simulate(accelerated.convert(quantised, schedule), x, 4, engine=engine)


@pytest.mark.parametrize(("schedule", "arithmetic"), WAYS)
def test_what_is_recorded_is_what_was_done(schedule, arithmetic):
    """Spikes, each with its worth, add up to counts; membranes are the neuron's; both sides record the same."""
    random = np.random.default_rng(0)
    nodes, x = nets.integer_cnn(random, 3, 4), random.integers(0, 17, (3, 1, 4, 4)) / 16
    steps, found = (20 if reference.schedules.SCHEDULES[schedule].settles else 4), []
    for side, array in ((reference, lambda v: v), (accelerated, torch.from_numpy)):
        spiking = side.convert(side.build(nodes), schedule)
        s = side.simulate(spiking, array(x), steps, arithmetic, record=["act0", "act2"])
        assert list(s.recorded) == ["act0", "act2"]
        for name, (spikes, membranes) in s.recorded.items():
            assert len(spikes) == spiking.phases * steps
            worths = spiking.schedule.worths_of(name, 4, 1, 1)
            worths = np.array([*worths, *[1] * (len(spikes) - len(worths))])
            assert (np.tensordot(worths, np.asarray(spikes), 1) == np.asarray(s.counts[name])).all()
            assert (membranes is None) == (arithmetic == "totals")
        found.append(s.recorded)
        with pytest.raises(ValueError, match="unknown layer to record 'act9'"):
            side.simulate(spiking, array(x), 4, record=["act9"])
    for name in found[0]:
        for ours, theirs in zip(found[0][name], found[1][name], strict=True):
            assert (ours is None and theirs is None) or (ours == theirs.numpy()).all(), name


def test_tables_that_stand_twice_are_the_same():
    """Each package has its tables where its reader expects them; nothing in them differs."""
    for module, name in (("activation", "VARIANTS"), ("thresholds", "GRANULARITIES"), ("quantisation", "SITES"),
                         ("quantisation", "ELSEWHERE"), ("calibration", "METHODS"), ("tokens", "FORMS"),
                         ("energy", "MAC"), ("energy", "AC"), ("operators", "TWO_INPUTS")):  # fmt: skip
        ours, theirs = (getattr(import_module(f"{side}.{module}"), name) for side in ("reference", "accelerated"))
        assert ours == theirs, f"{module}.{name}"
    assert list(reference.thresholds.POSITIVITY) == list(accelerated.thresholds.POSITIVITY)
    assert {*reference.operators.FORWARD} == {*accelerated.operators.MODULES, *accelerated.operators.FUNCTIONS, "add"}
    both = reference.schedules.SCHEDULES, accelerated.schedules.SCHEDULES
    assert list(both[0]) == list(both[1])
    for name in both[0]:
        ours, theirs = (side[name] for side in both)
        for field in ("name", "description", "waits", "settles"):
            assert getattr(ours, field) == getattr(theirs, field), (name, field)
        assert [*ours.arithmetics] == [way for way in theirs.arithmetics if way != "theorem"]
        for depth in (1, 5):
            for levels in (1, 8):
                for lowest in (0, -levels):
                    assert ours.exact_at(depth, levels, lowest) == theirs.exact_at(depth, levels, lowest)
                    assert ours.worths_of("a", levels, depth, 5) == theirs.worths_of("a", levels, depth, 5)
    assert reference.InputError is accelerated.InputError


def test_no_file_compares_a_schedule_by_its_name():
    """A new schedule is one table entry: code with `== "signed"` would miss it."""
    import ast
    from pathlib import Path

    names, root = set(SCHEDULES), Path(__file__).parent.parent
    found = []
    for package in ("reference", "accelerated"):
        for path in (root / package).rglob("*.py"):
            if "tests" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Compare):
                    for part in ast.walk(node):
                        if isinstance(part, ast.Constant) and part.value in names:
                            found.append(f"{path.relative_to(root)}:{node.lineno}")
    assert found == []
