"""T6, from any state, and coarse before fine: spikes of halving worth settle early, on the network's answer."""

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference

from . import random_networks as nets
from .equality import assert_equal
from .strategies import POWERS, dyadic_neuron, level_of, rational, rational_array
from .test_t2 import assert_exact
from .test_t5 import longest_path, needs_networks, same_bits

WORTHS = st.lists(st.integers(1, 20), max_size=5).map(lambda worths: (*worths, 1))  # any sequence that ends in 1


def halves(levels):
    """L, L/2, ..., 1, or the powers of two below L."""
    return tuple(w for w in (32, 16, 8, 4, 2, 1) if w <= levels)


def expected_step(total, sent, theta, levels, worth, lowest=0):
    """The rule, once more in plain NumPy, for dyadic inputs."""
    away = total * levels / theta - sent
    step = np.clip(np.floor(away / worth + 0.5), -1, 1)
    after = sent + worth * step
    return np.where((after >= lowest) & (after <= levels), step, 0)


def test_T6_the_default_worths_halve(impl):
    """What an early spike is worth shows in what is sent: with an input beyond all levels, L at once."""
    for levels in (1, 2, 3, 5, 8, 12, 16, 32):
        spikes, sent = impl.halving_run(np.full((8, 1, 1), 100.0), 1.0, levels)
        assert sent == levels
        assert np.abs(spikes).sum() == 1 + bin(levels - halves(levels)[0]).count("1")


def test_T6_each_step_is_the_rule(impl, rounds):
    """Both forms agree in exact arithmetic; no spike leaves 0..L; at half a worth it fires, at minus half it waits."""

    @rounds(80)
    @given(neuron=dyadic_neuron(), levels=POWERS, worths=WORTHS)
    def check(neuron, levels, worths):
        currents, theta, _ = neuron
        spikes, last = impl.halving_run(currents, theta, levels, worths)
        sent = np.zeros(currents.shape[1:])
        given = {"currents": currents, "theta": theta, "L": levels, "worths": worths}
        for t, (total, spike) in enumerate(zip(accumulate(currents), spikes, strict=True)):
            worth = worths[min(t, len(worths) - 1)]
            where = given | {"step": t + 1, "worth": worth, "sent before": sent}
            expected = expected_step(total, sent, theta, levels, worth)
            assert_equal("the spike of halving_run", spike, expected, "clip(floor((u - N) / w + 1/2), -1, 1)", **where)
            step = impl.halving_step(total, sent, theta, levels, worth)
            assert_equal("halving_step", step, expected, "clip(floor((u - N) / w + 1/2), -1, 1)", **where)
            sent = sent + worth * spike
            assert ((sent >= 0) & (sent <= levels)).all(), f"more than 0..L was sent: {where}"
        assert_equal("what halving_run has sent", last, sent, "the sum of w s", **given)

    check()


def test_T6_with_worth_1_it_is_the_signed_neuron(impl, rounds):
    @rounds(40)
    @given(neuron=dyadic_neuron(), levels=POWERS)
    def check(neuron, levels):
        currents, theta, _ = neuron
        for ours, theirs in zip(
            impl.halving_run(currents, theta, levels, (1,)), impl.st_bif_run(currents, theta, levels), strict=True
        ):
            assert np.array_equal(ours, theirs)

    check()


def test_T6_settles_from_any_state_and_for_any_worths(impl, rounds, seen):
    """Whatever was sent, in whatever worths: L steps of worth 1 end at the level of the total input."""
    shares = []

    @rounds(80)
    @given(neuron=dyadic_neuron(), levels=POWERS, worths=WORTHS, data=st.data())
    def check(neuron, levels, worths, data):
        currents, theta, _ = neuron
        total = currents.sum(axis=0)
        counts = st.lists(st.integers(0, levels), min_size=total.size, max_size=total.size)
        sent = np.array(data.draw(counts), dtype=float).reshape(total.shape)
        level = level_of(total, theta, levels)
        for worth in (*worths, *[1] * levels):
            sent = sent + worth * impl.halving_step(total, sent, theta, levels, worth)
        given = {"total": total, "theta": theta, "L": levels, "worths": worths}
        assert_equal("what was sent", sent, level, "T6: the level of all input", **given)
        quiet = np.zeros((len(worths) + levels, *currents.shape[1:]))
        _, sent = impl.halving_run(np.concatenate([currents, quiet]), theta, levels, worths)
        assert_equal("what halving_run has sent", sent, level, "T6: the level of all input", **given)
        shares.append((level != 0).mean())

    check()
    seen(f"T6 {impl.name}: settled from any state, any worths; levels other than 0: {100 * np.mean(shares):.0f} %")


def test_T6_a_constant_input_is_coded_in_one_pass(impl, rounds):
    """With L a power of two and the input there from step 1: the level after log2 L + 1 steps, whatever the input."""

    @rounds(60)
    @given(neuron=dyadic_neuron(steps=1), levels=POWERS)
    def check(neuron, levels):
        currents, theta, _ = neuron
        held = np.concatenate([currents, np.zeros((levels.bit_length() - 1, *currents.shape[1:]))])
        spikes, sent = impl.halving_run(held, theta, levels)
        given = {"input": currents, "theta": theta, "L": levels}
        assert_equal("what halving_run has sent", sent, level_of(currents[0], theta, levels), "(14.3)", **given)
        assert (np.abs(spikes).sum(axis=0) <= levels.bit_length()).all()

    check()


def test_T6_in_exact_arithmetic(impl, rounds):
    if not impl.exact:
        pytest.skip("the contract asks Fractions of the reference alone")

    @rounds(50)
    @given(theta=rational(low=1, high=4), levels=st.integers(1, 7), worths=WORTHS, data=st.data())
    def check(theta, levels, worths, data):
        currents = data.draw(rational_array((4, 1, 3)))
        quiet = currents[:1] * 0
        _, sent = impl.halving_run(np.concatenate([currents, *[quiet] * (len(worths) + levels)]), theta, levels, worths)
        assert (sent == impl.qcfs_level(currents.sum(axis=0), theta, levels)).all(), (currents, theta, levels, worths)

    check()


def halving_of(impl, worths, span, wait=0):
    """The schedule, of our packages and of a file alike."""
    return impl.native("halving")(worths, span, wait)


@pytest.mark.parametrize("arithmetic", ["totals", "increments"])
def test_T6_whole_networks_in_exact_arithmetic(impl, rounds, arithmetic, seen):
    """Random graphs, mixed L, any worths and span: equal in every bit within K + 1 + the longest sum of (L - 1)."""
    needs_networks(impl)
    shares = []

    @rounds(25)
    @given(seed=st.integers(0, 10_000), worths=st.none() | WORTHS, span=st.integers(0, 5),
           wait=st.integers(0, 5))  # fmt: skip
    def check(seed, worths, span, wait):
        random = np.random.default_rng(seed)
        nodes, x = nets.graph(random, exact=True), random.integers(-8, 17, (3, 4)) / 16
        network, schedule = impl.native("build")(impl.encode(nodes)), halving_of(impl, worths, span, wait)
        depth, levels = longest_path(nodes), max(node["levels"] for node in nodes if node["op"] == "qcfs")
        coarse = schedule.coarse(depth, levels)
        spiking = impl.native("convert")(network, schedule)
        steps = coarse + nets.settling_bound(nodes) + 1
        s = impl.decode(impl.native("simulate")(spiking, impl.encode(x), steps, arithmetic))
        ann = impl.decode(impl.native("answer")(network, impl.encode(x)))
        assert s.settled, (seed, worths, span, wait)
        where = f"seed {seed}, worths {worths}, span {span}, wait {wait}"
        shares.append(assert_exact(nodes, x, s, ann, reference.halving(worths, span, wait), where))

    check()
    alive = f"neurons that spike: {100 * np.mean(shares):.0f} %"
    seen(f"T6 {impl.name}: random graphs, any worths, {arithmetic}: equal, {alive}")


@pytest.mark.parametrize("kind", ["mlp", "cnn", "transformer"])
@pytest.mark.parametrize("format", ["float16", "bfloat16", "float32", "float64"])
def test_T6_logits_bit_for_bit(impl, rounds, seen, kind, format):
    """Random networks with batch norm, residuals, pooling, layer norm, softmax and products, in any format."""
    needs_networks(impl)
    if format not in impl.formats:
        pytest.skip("NumPy has no bfloat16")
    shares, ratio = [], []

    @rounds(5)
    @given(seed=st.integers(0, 10_000), depth=st.sampled_from([1, 3, 8]), levels=st.sampled_from([3, 8, 16]),
           worths=st.none() | WORTHS, span=st.integers(0, 6))  # fmt: skip
    def check(seed, depth, levels, worths, span):
        random = np.random.default_rng(seed)
        depth = min(depth, 2) if kind == "transformer" else depth
        x = nets.images(random, kind, 4)
        activation = "hn-qcfs" if kind == "transformer" else "cs-qcfs"
        nodes = nets.quantised(nets.MADE[kind](random, depth), x, activation, levels)
        network, native = impl.native("build")(impl.encode(nodes, format)), impl.encode(x, format)
        ann, steps = impl.decode(impl.native("answer")(network, native)), {}
        for schedule in ("signed", halving_of(impl, worths, span)):
            spiking = impl.native("convert")(network, schedule)
            bound = spiking.schedule.exact_at(longest_path(nodes), levels)
            s = impl.decode(impl.native("simulate")(spiking, native, bound))
            where = f"{kind}, seed {seed}, depth {depth}, L = {levels}, worths {worths}, span {span}"
            assert s.settled, f"{where}: a sample still fires after the bound"
            assert s.units_that_differ == 0, where
            assert same_bits(s.logits[-1], ann), f"{where}: logits differ in some bit"
            steps[isinstance(schedule, str)] = s.latency
        ratio.append(steps[False] / steps[True])
        shares.append(np.mean(list(s.nonzero_share.values())))

    check()
    assert np.mean(shares) > 0.05, "the layers are dead, equality is free"
    seen(f"T6 {impl.name}: {kind}, {format}: {len(shares)} networks, 0 bits differ, neurons that spike: "
         f"{100 * np.mean(shares):.0f} %, {np.mean(ratio):.2f} of the signed network's steps")  # fmt: skip


@pytest.mark.parametrize(("depth", "levels"), [(1, 8), (3, 4), (5, 8), (2, 16)])
def test_T6_the_bound_on_settling_is_attained(impl, depth, levels):
    """Layer 1 takes a level back at worth 1, and layer 2 waits for that; then each waits until the one before is full.

    K + 1 + (D - 1)(L - 1) steps, K = log2 L.
    """
    nodes, x = nets.attaining_bound(depth, levels), np.array([[1 - 1 / levels]])
    if depth > 1:
        nodes[2] |= {"weight": -nodes[2]["weight"], "bias": np.array([2.0 * levels - 1])}
    network, bound = impl.build(nodes), levels.bit_length() + (depth - 1) * (levels - 1)
    for steps in (bound, bound + 1):
        s = impl.simulate(impl.convert(network, "halving"), x, steps)
        assert s.latency == bound
        assert (s.logits[-1] == impl.answer(network, x)).all()
        assert s.settled == (steps > bound), "one silent step of worth 1 proves it, and the last firing step does not"


def test_T6_a_silent_coarse_step_proves_nothing(impl):
    """One level of eight is half of no worth above 2: the network is silent for two steps, and then fires."""
    act = {"op": "qcfs", "levels": 8, "positivity": "raw", "parameter": np.array(1.0)}
    nodes = [
        {"name": "fc", "op": "linear", "inputs": ["image"], "weight": np.eye(1)},
        {"name": "act", "inputs": ["fc"], **act},
        {"name": "logits", "op": "linear", "inputs": ["act"], "weight": np.eye(1)},
    ]
    network, x = impl.build(nodes), np.array([[1 / 16]])
    for steps, settled in ((2, False), (3, False), (4, False), (5, True)):
        s = impl.simulate(impl.convert(network, "halving"), x, steps)
        assert s.settled is settled, steps
        assert (s.counts["act"] == (steps >= 4)).all()


def test_T6_deeper_layers_keep_their_worth_for_longer(impl):
    """Two layers, L = 4, a half as input: both send 4 and take 2 back, the second floor(span / 2) steps later."""
    needs_networks(impl)
    act = {"op": "qcfs", "levels": 4, "positivity": "raw", "parameter": np.array(1.0)}
    one = {"op": "linear", "weight": np.eye(1)}
    nodes = [
        {"name": "fc0", "inputs": ["image"], **one}, {"name": "act0", "inputs": ["fc0"], **act},
        {"name": "fc1", "inputs": ["act0"], **one}, {"name": "act1", "inputs": ["fc1"], **act},
        {"name": "logits", "inputs": ["act1"], **one},
    ]  # fmt: skip
    network, x = impl.native("build")(impl.encode(nodes)), impl.encode(np.array([[0.5]]))
    for span, later in ((0, 0), (1, 0), (2, 1), (3, 1), (4, 2)):
        spiking = impl.native("convert")(network, halving_of(impl, (4, 2, 1), span))
        for steps in range(1, 7):
            counts = impl.decode(impl.native("simulate")(spiking, x, steps)).counts
            assert (counts["act0"] == (4 if steps < 2 else 2)).all(), (span, steps)
            assert (counts["act1"] == (4 if steps < 2 + later else 2)).all(), (span, steps)
        waiting = impl.native("convert")(network, halving_of(impl, (4, 2, 1), 0, span))
        for steps in range(1, 6):
            counts = impl.decode(impl.native("simulate")(waiting, x, steps)).counts
            assert (counts["act0"] == (4 if steps < 2 else 2)).all(), (span, steps)
            sent = 0 if steps < 1 + later else 4 if steps == 1 + later else 2
            assert (counts["act1"] == sent).all(), ("wait", span, steps, counts["act1"])


@pytest.mark.parametrize("arithmetic", ["totals", "increments"])
def test_T6_goes_on_from_a_streaming_run(impl, arithmetic, seen):
    """From what a published network sent in T steps, T = L or a divisor, plain or calibrated, to the exact answer."""
    needs_networks(impl)
    shares, steps = [], {}
    for seed in range(3):
        random = np.random.default_rng(seed)
        nodes, x = nets.integer_cnn(random, 3, 8), random.integers(0, 17, (3, 1, 4, 4)) / 16
        network, x = impl.native("build")(impl.encode(nodes)), impl.encode(x)
        ann = impl.decode(impl.native("answer")(network, x))
        for time in (8, 4, 1):
            streaming = impl.native("convert")(network, "streaming")
            for method in (None, "srp", "cos"):
                ready = streaming if method is None else impl.native("calibrate")(streaming, x, method, 2)
                start = impl.native("simulate")(ready, x, time)
                for schedule in ("signed", "halving"):
                    spiking = impl.native("convert")(network, schedule)
                    s = impl.native("simulate")(spiking, x, None, arithmetic, start=start)
                    first, s = impl.decode(start), impl.decode(s)
                    where = f"seed {seed}, T = {time}, {method}, {schedule}"
                    assert s.settled, where
                    assert (s.logits[-1] == ann).all(), where
                    assert (s.logits[:time] == first.logits).all(), where
                    assert s.latency >= first.latency, where
                    assert s.spikes_per_neuron >= first.spikes_per_neuron, where
                    assert s.latency == s.settled_at.max(), where
                    steps.setdefault((time, method, schedule), []).append(s.latency)
        shares.append(np.mean(list(s.nonzero_share.values())))
    assert np.mean(shares) > 0.1
    latencies = {key: np.mean(found) for key, found in steps.items()}
    after = f"exact after {latencies[8, None, 'signed']:.1f} steps in all"
    alive = f"neurons that spike: {100 * np.mean(shares):.0f} %"
    seen(f"T6 {impl.name}: streaming at T = L, then signed, on {arithmetic}: {after}, {alive}")


def test_T6_a_start_that_is_none_is_refused(impl):
    if not impl.ours:
        pytest.skip("the wording is that of our packages")
    nodes, x = nets.integer_cnn(np.random.default_rng(0), 2, 4), np.ones((2, 1, 4, 4))
    other = nets.integer_cnn(np.random.default_rng(0), 1, 4)
    build, convert, simulate = (impl.native(name) for name in ("build", "convert", "simulate"))
    network, x = build(impl.encode(nodes)), impl.encode(x)
    streaming, signed = convert(network, "streaming"), convert(network, "signed")
    starts = {
        "needs a T that divides L = 4, got 3": (signed, simulate(streaming, x, 3)),
        "a run starts from a streaming network's, under": (streaming, simulate(streaming, x, 4)),
        "a run starts from a streaming network's,": (signed, simulate(signed, x, 4)),
        "no counts of 'act1'": (signed, simulate(convert(build(impl.encode(other)), "streaming"), x, 4)),
        "of another network or batch": (signed, simulate(streaming, x[:1], 4)),
    }
    for message, (spiking, start) in starts.items():
        with pytest.raises(ValueError, match=message):
            simulate(spiking, x, 4, start=start)


def test_T6_steps_are_as_many_as_are_needed_by_default(impl):
    """Every exact schedule gives the network's answer without a number of steps; streaming takes L."""
    needs_networks(impl)
    nodes, x = (
        nets.integer_cnn(np.random.default_rng(1), 3, 4),
        np.random.default_rng(2).integers(0, 17, (3, 1, 4, 4)) / 16,
    )
    network = impl.build(nodes)
    for schedule in ("integrate-then-fire", "signed", "halving"):
        s = impl.simulate(impl.convert(network, schedule), x)
        assert (s.logits[-1] == impl.answer(network, x)).all(), schedule
        assert s.settled is not False
    assert len(impl.simulate(impl.convert(network, "streaming"), x).logits) == 4


def test_T6_worths_are_chosen_on_a_sample(impl, partner):
    """Both sides choose the same, it is no worse than the default there, and it does not change the answer."""
    needs_networks(impl)
    for seed in range(3):
        random = np.random.default_rng(seed)
        nodes, x = nets.integer_cnn(random, 4, 8), random.integers(0, 17, (8, 1, 4, 4)) / 16
        network, native = impl.native("build")(impl.encode(nodes)), impl.encode(x)
        chosen = impl.native("choose_halving")(network, native, 6)
        theirs = partner.native("choose_halving")(partner.native("build")(partner.encode(nodes)), partner.encode(x), 6)
        assert (chosen.worths, chosen.span) == (theirs.worths, theirs.span)
        products = []
        for schedule in (chosen, "halving"):
            s = impl.decode(impl.native("simulate")(impl.native("convert")(network, schedule), impl.encode(x[:6])))
            assert (s.logits[-1] == impl.decode(impl.native("answer")(network, impl.encode(x[:6])))).all()
            other = (s.logits.argmax(-1) != s.logits[-1].argmax(-1)).T
            late = [np.flatnonzero(row)[-1] + 2 if row.any() else 1 for row in other]
            products.append(np.mean(late) * s.spikes_per_neuron)
        assert products[0] <= products[1]


def test_T6_refuses_worths_that_cannot_be_exact(impl):
    wrong = {
        (4, 2): "worths must end in 1",
        (0, 1): "a worth must be a whole number of at least 1, got 0",
        (1.5, 1): "a worth must be a whole number of at least 1, got 1.5",
        (): "worths must end in 1",
    }
    for worths, message in wrong.items():
        with pytest.raises(ValueError, match=message if impl.ours else None):
            impl.halving_run(np.ones((4, 1, 1)), 1.0, 4, worths)
    if impl.ours:
        schedule = halving_of(impl, {"act0": (2, 1)}, 0)
        nodes = nets.integer_cnn(np.random.default_rng(0), 2, 4)
        with pytest.raises(ValueError, match="worths by layer name each spiking layer of act0, act1; 'act1' differs"):
            impl.native("convert")(impl.native("build")(impl.encode(nodes)), schedule)
