"""Random networks of every operation: exact on every schedule and arithmetic, alone and in a batch, on every engine."""

import time
import zlib

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

import accelerated as acc
from accelerated.engines import engine_named
from accelerated.graph.operations import KIND

from .random_modules import NOT_DRAWN, draw, drawn_names, shorter
from .whole_numbers import LEVELS, whole_form


def differences(network, shape):
    """(what is not as it should be, None if all is well; the least share of levels that are not 0)."""
    torch.manual_seed(1)
    x = torch.rand(5, *shape, dtype=torch.float64)
    try:
        q = acc.fold_batch_norms(acc.quantise(network, "qcfs", LEVELS, "max", x))
        unrelated(q)
    except acc.InputError as error:
        return f"refused: {error}", 0.0
    least = 1.0
    for batch in (x[:3], x[:1]):
        y = acc.answer(q, batch)
        if len(batch) == 1 and not torch.allclose(y, acc.answer(q, x)[:1], rtol=1e-9, atol=1e-9):
            return "an image's answer depends on the batch", least
        for schedule in ("integrate-then-fire", "signed", acc.halving(), drawn_worths(network)):
            spiking = acc.convert(q, schedule)
            where, steps = spiking.schedule.name, spiking.schedule.exact_at(spiking.latency_depth, LEVELS, -LEVELS)
            s = acc.simulate(spiking, batch, steps)
            least = min(least, *s.nonzero_share.values())
            if not torch.equal(s.logits[-1], y):
                return f"{where} on totals is off by {(s.logits[-1] - y).abs().max():.3g}", least
            s = acc.simulate(spiking, batch, steps + 8 * spiking.schedule.settles, "increments")
            if not torch.allclose(s.logits[-1], y, rtol=1e-9, atol=1e-9):  # float64, sums in another order
                return f"{where} on increments is off by {(s.logits[-1] - y).abs().max():.3g}", least
    return streaming_differs(q, x), least


def drawn_worths(network):
    """A halving schedule whose worths and span depend on the network alone."""
    random = np.random.default_rng(zlib.crc32(repr(network).encode()))
    return acc.halving((*random.integers(1, 2 * LEVELS + 2, random.integers(5)).tolist(), 1), int(random.integers(5)))


def unrelated(q):
    """Scale each threshold by a number of its own: multiples of each other would make ties, which rounding decides."""
    for module in q.modules():
        if isinstance(module, acc.QCFS):
            module.parameter.data *= 0.7 + 0.3 * torch.rand(())


def streaming_differs(q, x):
    """Whether an engine counts other spikes than one step after another."""
    spiking = acc.convert(q, "streaming")
    stepped = acc.simulate(spiking, x, 6, record=list(spiking.layers))
    for engine in ("dense", "event", "auto"):
        s = acc.simulate(spiking, x, 6, engine=engine)
        for name, count in s.counts.items():
            if not torch.equal(count, stepped.counts[name]):
                return f"engine {engine}: {int((count != stepped.counts[name]).sum())} units of {name} differ"
        if not torch.allclose(s.logits[-1], stepped.logits[-1], rtol=1e-9, atol=1e-9):
            return f"engine {engine}: logits differ from those of single steps"
    return None


def smallest(network, shape, found):
    """The shortest network found that still goes wrong, and how."""
    for other in shorter(network):
        again, _ = differences(other, shape)
        if again is not None:
            return smallest(other, shape, again)
    return network, found


def tried(seed, name=None):
    """Draw, run, and report a difference with the smallest network that shows it."""
    torch.manual_seed(seed)
    network, shape = draw(np.random.default_rng(seed), name=name)
    found, least = differences(network, shape)
    if found is not None:
        network, found = smallest(network, shape, found)
        pytest.fail(f"seed {seed}, {network!r}: {found}")
    return least


def test_every_operation_of_the_table_is_drawn_or_has_its_reason():
    known = {name for names in NOT_DRAWN for name in names.split()}
    assert set(KIND) - drawn_names() - known == set()
    assert drawn_names() & known == set()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", sorted(drawn_names()))
def test_an_operation_is_exact_wherever_it_stands(name):
    tried(zlib.crc32(name.encode()), name)


NO_ERROR = {  # operations that may as well be called linear
    "relu", "relu6",  # neurons take their place
    "addcdiv", "addcmul", "addmm", "baddbmm", "cosine_similarity", "lerp", "maximum", "minimum", "where", "written",
    # of two values that change: the table's rule for linear operations makes them functions again
}  # fmt: skip
PLANTED = sorted(name for name in drawn_names() - NO_ERROR if KIND.get(name) in ("affine", "monotone", "function"))
IN_SHORT = ("batch_norm", "max_pool2d", "sigmoid", "softmax", "clamp", "layer_norm")


@pytest.mark.parametrize("name", [n if n in IN_SHORT else pytest.param(n, marks=pytest.mark.long) for n in PLANTED])
def test_an_operation_that_is_called_linear_by_mistake_is_caught(name, monkeypatch):
    monkeypatch.setitem(KIND, name, "linear")
    for seed in range(30):
        torch.manual_seed(seed)
        network, shape = draw(np.random.default_rng(seed), name=name)
        try:
            found, _ = differences(network, shape)
        except acc.InputError:
            return
        if found is not None:
            return
    pytest.fail(f"nothing shows that {name} is not linear")


@pytest.mark.parametrize("seed", range(20))
def test_random_networks(seed):
    tried(seed)


def whole_differs(network, shape, by_events):
    """How a network in whole numbers differs from itself in another format, schedule or engine, or from the given one.

    `by_events` receives whether events served each.
    """
    q, z, x = whole_form(network, shape, 256)
    if z is None:
        return None, False
    wanted = acc.answer(q, x)
    off = float((acc.answer(z, x) - wanted).square().mean().sqrt() / wanted.std())
    if wanted.std() > 1e-6 and off > 0.2:  # 8 bits move a weight by 0.4 % of the largest
        return f"logits are off by {off:.2f} of their spread", True
    _, z, x = whole_form(network, shape, LEVELS)
    if z is None:
        return None, False
    y = acc.answer(z, x)
    narrow = max(acc.largest_sums(z).values()) * LEVELS < 2**24  # else float32 is refused
    for format in (torch.float32, torch.float64) if narrow else (torch.float64,):
        same = acc.fold_batch_norms(z).to(format)
        for schedule in ("integrate-then-fire", "signed", drawn_worths(network)):
            spiking, runs = acc.convert(same, schedule), {}
            for way in ("totals", "increments", "events"):
                arithmetic, engine = (None, "event") if way == "events" else (way, None)
                s = acc.simulate(spiking, x.to(format), None, arithmetic, engine=engine)
                if not torch.equal(s.logits[-1].double(), y):
                    return f"{format}, {schedule}, {way}: not the same bits", True
                runs[way] = s.logits, s.emitted, s.settled_at
            for way, found in runs.items():
                if not equal(found, runs["increments"]):
                    return f"{format}, {schedule}, {way}: not the same bits in each step", True
            engine = engine_named("event", spiking.schedule)
            by_events.append(engine is not None and engine(spiking, x.to(format)).foldable)
    return None, True


def equal(a, b):
    """Whether the tensors in two structures are equal in every bit."""
    pairs = list(zip(tree_leaves(a), tree_leaves(b), strict=True))
    return all(torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two for one, two in pairs)


@pytest.mark.sampled(2)
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seeds", [range(150), range(150, 3000)], ids=["short", "long"])
def test_random_networks_in_whole_numbers(seeds, record_property):
    found: list = []
    by_events: list = []
    for seed in seeds:
        torch.manual_seed(seed)
        network, shape = draw(np.random.default_rng(seed), length=5 + seed % 4)
        difference, has_form = whole_differs(network, shape, by_events)
        assert difference is None, f"seed {seed}, {network!r}: {difference}"
        found.append(has_form)
    assert np.mean(found) > 0.05
    record_property("seen", f"random networks in whole numbers: {sum(found)} of {len(found)} have that form, "
                    f"{np.mean(by_events):.0%} of them run on events")  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(4000)
def test_random_networks_for_an_hour(record_property):
    end, seed, shares = time.monotonic() + 3600, 10**6, []
    while time.monotonic() < end:
        shares.append(tried(seed))
        seed += 1
    record_property("seen", f"random networks: {len(shares)} in an hour, no difference; "
                    f"{np.mean(np.array(shares) > 0.02):.0%} of them with no dead layer")  # fmt: skip
