"""T7, integers: every sum is exact, so totals, increments, formats, batches and orders agree in every bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from reference.integers import integer_level, integer_step, integer_values
from reference.sums import held, is_whole, largest_sums
from reference.units import largest_step

from . import random_networks as nets
from .test_t5 import needs_networks, same_bits

MEAN, STD = 0.4, 0.25


def pixels(random, kind, count):
    """Images of whole pixels, as a network reads them."""
    whole = random.integers(0, 256, nets.images(random, kind, count).shape)
    return (whole / 255 - MEAN) / STD


def quantised(random, kind, levels, activation="cs-qcfs", depth=6):
    """(a random network of levels, its sample of images)."""
    x = pixels(random, kind, 32)
    return nets.quantised(nets.MADE[kind](random, depth), x, activation, levels), x


def whole_network(impl, nodes, x, bits=8, format="float64"):
    network = impl.native("build")(impl.encode(nodes, format))
    return impl.native("integers")(network, impl.encode(x, format), bits, MEAN, STD)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_T7_every_way_gives_the_same_bits(impl, rounds, seen, kind):
    """Schedules, totals, increments and events, float32 and float64, batches of 1, 7 and all, images in any order."""
    needs_networks(impl)
    shares = []

    @rounds(6)
    @given(seed=st.integers(0, 10_000), levels=st.sampled_from([3, 4, 8, 16]), bits=st.integers(2, 8))
    def check(seed, levels, bits):
        random = np.random.default_rng(seed)
        nodes, x = quantised(random, kind, levels)
        wanted = impl.decode(impl.native("answer")(whole_network(impl, nodes, x, bits), impl.encode(x)))
        order = random.permutation(len(x))
        for format in ("float32", "float64"):
            whole = whole_network(impl, nodes, x, bits)
            whole = whole.to(impl.encode(x, format).dtype) if impl.torch else in_format(whole, format)
            for schedule in ("halving", "signed", "integrate-then-fire"):
                spiking = impl.native("convert")(whole, schedule)
                for way in ({}, {"arithmetic": "increments"}, *([{"engine": "event"}] if impl.torch else [])):
                    where = f"{kind}, seed {seed}, L = {levels}, {bits} bits, {format}, {schedule}, {way}"
                    s = impl.decode(impl.native("simulate")(spiking, impl.encode(x[order], format), **way))
                    assert s.units_that_differ == 0, where
                    assert same_bits(s.logits[-1].astype(float), wanted[order]), where
                    shares.append(np.mean(list(s.nonzero_share.values())))
            for size in (1, 7):
                part = impl.decode(impl.native("answer")(whole, impl.encode(x[:size], format)))
                assert same_bits(part.astype(float), wanted[:size]), f"seed {seed}, {format}, a batch of {size}"

    check()
    assert np.mean(shares) > 0.05, "the layers are dead, equality is free"
    seen(f"T7 {impl.name}: {kind}, any way, equal in every bit, neurons that spike: {100 * np.mean(shares):.0f} %")


def in_format(nodes, format):
    return [{k: v.astype(format) if isinstance(v, np.ndarray) else v for k, v in node.items()} for node in nodes]


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_T7_is_what_whole_numbers_compute(impl, rounds, kind):
    """The reference in int64 alone, from images to the undivided answer."""
    needs_networks(impl)

    @rounds(10)
    @given(seed=st.integers(0, 10_000), levels=st.sampled_from([3, 8, 16]), bits=st.integers(2, 8))
    def check(seed, levels, bits):
        nodes, x = quantised(np.random.default_rng(seed), kind, levels)
        whole = reference.integers(nodes, x, bits, MEAN, STD)
        wanted = integer_values(whole, x)["answer"] / whole[-1]["by"].ravel()
        got = impl.decode(impl.native("answer")(whole_network(impl, nodes, x, bits), impl.encode(x)))
        assert same_bits(got, wanted), f"{kind}, seed {seed}, L = {levels}, {bits} bits"

    check()


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_T7_stays_near_the_quantised_network(impl, kind, seen):
    """8 bits move logits by less than an eighth of their spread (levels near a tie change); 4 bits by more."""
    needs_networks(impl)
    off: dict = {4: [], 8: []}
    for seed in range(8):
        nodes, x = quantised(np.random.default_rng(seed), kind, 8, depth=3)  # deeper ones are more chaotic
        network = impl.native("build")(impl.encode(nodes))
        wanted = impl.decode(impl.native("answer")(network, impl.encode(x)))
        for bits, found in off.items():
            got = impl.decode(impl.native("answer")(whole_network(impl, nodes, x, bits), impl.encode(x)))
            found.append(np.sqrt(np.mean((got - wanted) ** 2)) / wanted.std())
    assert np.mean(off[8]) < 1 / 8 < np.mean(off[4]), off
    seen(f"T7 {impl.name}: {kind}, logits move by {np.mean(off[8]):.3f} of their spread at 8 bits, "
         f"{np.mean(off[4]):.3f} at 4")  # fmt: skip


def test_T7_levels_are_found_by_comparing(impl):
    """At each edge of a level, and one on either side, float32 gives the level of whole numbers, to the largest D."""
    random = np.random.default_rng(0)
    for levels in (1, 2, 3, 5, 7, 8, 12, 16, 31, 32, 64, 100, 255, 256, 1000, 1024):
        most = largest_step(levels) // 2
        for half in {1, 2, 3, most, *random.integers(1, most + 1, 30).tolist()} - {*range(most + 1, 4)}:
            step = 2 * half
            edges = (2 * np.arange(levels + 2) - 1) * half
            z = np.concatenate([edges + nudge for nudge in (-1, 0, 1, 2)])
            found = impl.qcfs_level(z[None].astype(np.float32), np.float32(levels * step), levels)[0]
            assert (found == integer_level(z, step, levels)).all(), (levels, step)
            value = impl.qcfs(z[None].astype(np.float32), np.float32(levels * step), levels)[0]
            assert (value / np.float32(step) == found).all(), f"L = {levels}, D = {step}: a level is not its number"


def test_T7_the_neuron_adds_and_compares(impl, rounds):
    """On increments, in float32: spike by spike what whole numbers give, for any worths."""

    @rounds(60)
    @given(step=st.integers(1, 999), levels=st.sampled_from([1, 2, 4, 8, 16]), seed=st.integers(0, 10_000),
           worths=st.lists(st.integers(1, 20), max_size=4))  # fmt: skip
    def check(step, levels, seed, worths):
        currents = np.random.default_rng(seed).integers(-3 * step - 1, 4 * step + 2, (12, 1, 5))
        worths = (*worths, 1)
        spikes, sent = impl.halving_run(currents.astype(np.float32), np.float32(levels * step), levels, worths)
        membrane, counts = np.zeros((1, 5), int), np.zeros((1, 5), int)
        for t, current in enumerate(currents):
            worth = worths[min(t, len(worths) - 1)]
            spike, membrane = integer_step(membrane, current, counts, step, levels, worth)
            counts = counts + worth * spike
            assert (spikes[t] == spike).all(), (step, levels, seed, worths, t)
        assert (sent == counts).all()

    check()


def test_T7_no_sum_exceeds_its_bound_and_one_reaches_it(impl, rounds):
    needs_networks(impl)
    weight = np.array([[1.0, -1.0, 1.0]])
    nodes = [{"name": "a", "op": "linear", "inputs": ["image"], "weight": weight, "bias": np.array([0.5])},
             {"name": "r", "op": "relu", "inputs": ["a"]},
             {"name": "out", "op": "linear", "inputs": ["r"], "weight": np.ones((2, 1)), "bias": None}]  # fmt: skip
    x = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    whole = reference.integers(nets.quantised(nodes, x, "cs-qcfs", 4), x)
    layer = next(node for node in whole if node["name"] == "a")
    assert largest_sums(whole)["a"] == np.abs(layer["weight"]).sum() * 255 + np.abs(layer["bias"]).sum()

    @rounds(10)
    @given(seed=st.integers(0, 10_000), bits=st.integers(2, 8), kind=st.sampled_from(["mlp", "cnn"]))
    def check(seed, bits, kind):
        nodes, x = quantised(np.random.default_rng(seed), kind, 8)
        whole = reference.integers(nodes, x, bits, MEAN, STD)
        steps = [node["parameter"] / node["levels"] for node in whole if node["op"] == "qcfs"]
        assert all((step % 2 == 0).all() for step in steps), "half of D is no whole number"
        bounds = largest_sums(whole)
        for name, value in integer_values(whole, x).items():
            assert name == "image" or np.abs(value).max() <= bounds[name], (name, seed, bits, kind)
        sums = impl.native("largest_sums")(whole_network(impl, nodes, x, bits))
        assert max(sums.values()) == max(bounds.values()), (seed, bits, kind)

    check()


def test_T7_what_cannot_be_whole_numbers_is_refused(impl):
    needs_networks(impl)
    random = np.random.default_rng(0)
    nodes, x = quantised(random, "mlp", 8)
    network, sample = impl.native("build")(impl.encode(nodes)), impl.encode(x)
    transformer, tokens = quantised(random, "transformer", 8, "hn-qcfs", 1)
    relu, (fine, _) = nets.mlp(random, 2), quantised(random, "mlp", 5000)
    wide = [nodes[0] | {"weight": np.repeat(nodes[0]["weight"], 4096, axis=1)}, *nodes[1:]]
    cases = [
        (lambda: impl.native("integers")(network, sample, 9, MEAN, STD), "bits must be 2 to 8, got 9"),
        (lambda: impl.native("integers")(network, sample, 1, MEAN, STD), "bits must be 2 to 8, got 1"),
        (lambda: impl.native("integers")(network, sample), "whole pixels 0..255"),
        (lambda: whole_network(impl, transformer, tokens), "whole numbers"),
        (lambda: whole_network(impl, relu, x), "quantise"),
        (lambda: whole_network(impl, fine, x), "5000 levels have no form in whole numbers: choose fewer"),
        (lambda: whole_network(impl, wide, np.repeat(x, 4096, axis=1), format="float32"), "sums reach"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_T7_a_format_that_cannot_hold_the_sums_is_refused(impl):
    """Integrate-then-fire on increments sums T images: refused in float32 where T times as much is not held."""
    needs_networks(impl)
    nodes, x = quantised(np.random.default_rng(0), "mlp", 8)
    whole = reference.integers(nodes, x, 8, MEAN, STD)
    assert is_whole(whole)
    assert not is_whole(nodes)
    most = max(largest_sums(whole).values())
    held(whole, np.dtype(np.float32), int(2**24 // most))
    with pytest.raises(ValueError, match="choose a wider format"):
        held(whole, np.dtype(np.float32), int(2**24 // most) + 1)
    held(nodes, np.dtype(np.float16), 10**9)
    native = whole_network(impl, nodes, x)
    with np.errstate(over="ignore"):
        half = native.half() if impl.torch else in_format(native, "float16")
    with pytest.raises(ValueError, match=r"wider format|must be positive and finite, got inf|must be finite, got inf"):
        impl.native("convert")(half, "halving")
    steps = int(2**24 // most) + 1
    single = whole_network(impl, nodes, x)
    single = single.float() if impl.torch else in_format(single, "float32")
    spiking = impl.native("convert")(single, "integrate-then-fire")
    answers = [refusal(lambda t=t: impl.native("simulate")(spiking, impl.encode(x[:1], "float32"), t, "increments"))
               for t in (steps - 1, steps)]  # fmt: skip
    assert answers[0] == ""
    assert "choose a wider format" in answers[1]


def refusal(call):
    """The message of the error that a call raises, "" if it raises none."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""
