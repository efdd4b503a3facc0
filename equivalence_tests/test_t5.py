"""T5, bit for bit: with state carried as totals, logits equal the quantised network's in every bit, in any format."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from . import random_networks as nets


def same_bits(a, b):
    """Whether two answers agree in every bit (a zero's sign included)."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def longest_path(nodes):
    """D, counted once more: spiking layers on the longest path."""
    depth = {"image": 0}
    for node in nodes:
        depth[node["name"]] = max(depth[i] for i in node["inputs"]) + (node["op"] == "qcfs")
    return max(depth[node["name"]] for node in nodes if node["op"] == "qcfs")


def claim(impl, nodes, x, schedule, steps, format):
    """(simulation, whether its logits are the ANN's in every bit), in a floating format."""
    network = impl.native("build")(impl.encode(nodes, format))
    native = impl.encode(x, format)
    spiking = impl.native("convert")(network, schedule)
    s = impl.native("simulate")(spiking, native, steps)
    ann = impl.native("answer")(network, native)
    return impl.decode(s), same_bits(impl.decode(s.logits)[-1], impl.decode(ann))


def needs_networks(impl):
    for name in ("build", "convert", "simulate", "answer"):
        getattr(impl, name)  # raises Missing for a file without it


@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed"])
@pytest.mark.parametrize("kind", ["mlp", "cnn", "transformer"])
@pytest.mark.parametrize("format", ["float16", "bfloat16", "float32", "float64"])
def test_T5_logits_bit_for_bit(impl, rounds, seen, kind, format, schedule):
    """Random MLPs and CNNs with residuals, average pooling, folded batch norm, up to depth 20; transformers of 24."""
    needs_networks(impl)
    if format not in impl.formats:
        pytest.skip("NumPy has no bfloat16")
    shares, least, settled, depths = [], [], [], []

    @rounds(5)
    @given(seed=st.integers(0, 10_000), depth=st.sampled_from([1, 2, 3, 5, 8, 20]),
           levels=st.sampled_from([1, 3, 4, 8, 16]),
           activation=st.sampled_from(["s-qcfs", "cs-qcfs"]))  # fmt: skip
    @example(seed=1, depth=20, levels=8, activation="cs-qcfs")
    def check(seed, depth, levels, activation):
        random = np.random.default_rng(seed)
        if kind == "transformer":
            depth, activation = min(-(-depth // 5), 4), {"s-qcfs": "qcfs", "cs-qcfs": "hn-qcfs"}[activation]
        nodes = nets.MADE[kind](random, depth)
        x = nets.images(random, kind, 4)
        nodes = nets.quantised(nodes, x, activation, levels)
        bound = 1 + longest_path(nodes) * (levels - 1)
        steps = bound + 1 if schedule == "signed" else levels
        s, equal = claim(impl, nodes, x, schedule, steps, format)
        where = f"{kind}, seed {seed}, depth {depth}, L = {levels}, {activation}"
        assert s.units_that_differ == 0, f"{where}: {s.units_that_differ:.2%} of units differ"
        assert equal, f"{where}: logits differ in some bit"
        if schedule == "signed":
            assert s.settled, f"{where}: a sample still fires after the bound of {bound} steps"
            assert s.latency <= bound
            settled.append(s.latency / bound)
        else:
            assert s.latency == (longest_path(nodes) + 1) * levels
        shares.append(np.mean(list(s.nonzero_share.values())))
        least.append(min(s.nonzero_share.values()))
        depths.append(depth)

    check()
    assert np.mean(shares) > 0.05, "the layers are dead, equality is free"
    assert np.mean(least) > 0.02, "some layer is dead in most networks, and with it the equality of what follows"
    assert max(depths) == (20 if kind != "transformer" else 4), "blocks of six spiking layers"
    end = f", settled at {100 * np.mean(settled):.0f} % of the bound on average" if settled else ""
    spiking = f"neurons that spike: {100 * np.mean(shares):.0f} % (least active layer {100 * np.mean(least):.0f} %)"
    seen(f"T5 {impl.name}: {kind}, {format}, {schedule}: {len(shares)} networks up to depth {max(depths)}, "
         f"0 bits differ, {spiking}{end}")  # fmt: skip


@pytest.mark.parametrize(("depth", "levels"), [(1, 8), (3, 4), (5, 8), (2, 16)])
def test_T5_the_bound_on_settling_is_attained(impl, depth, levels):
    """A chain in which each layer jumps when the one before is full: it settles after exactly 1 + D (L - 1) steps."""
    bound = 1 + depth * (levels - 1)
    for steps in (bound, bound + 1):
        s, equal = claim(impl, nets.attaining_bound(depth, levels), np.array([[1.0]]), "signed", steps, "float64")
        assert s.latency == bound
        assert equal
        assert s.settled == (steps > bound), "one silent step proves it, and the last firing step does not"


def test_T5_totals_see_early_spikes_through_a_skip(impl):
    """A skip from layer 1 over layers 2 and 3: spikes of phases 2 and 4 count alike, in both arithmetics."""
    needs_networks(impl)
    one = {"op": "qcfs", "levels": 4, "positivity": "raw", "parameter": np.array(4.0)}
    nodes, before = [], "image"
    for i in range(3):
        nodes.append({"name": f"fc{i}", "op": "linear", "inputs": [before], "weight": np.eye(2)})
        nodes.append({"name": f"act{i}", "inputs": [f"fc{i}"], **one})
        before = f"act{i}"
    nodes += [{"name": "sum", "op": "add", "inputs": ["act2", "act0"]}, {"name": "act3", "inputs": ["sum"], **one},
              {"name": "logits", "op": "linear", "inputs": ["act3"], "weight": np.eye(2)}]  # fmt: skip
    x = np.array([[1.0, 2.0], [0.5, 1.5]])
    for schedule in ("integrate-then-fire", "signed"):
        for arithmetic in ("totals", "increments"):
            network = impl.build(nodes)
            s = impl.simulate(impl.convert(network, schedule), x, 4 if schedule[0] == "i" else 14, arithmetic)
            assert (s.counts["act3"] == 2 * s.counts["act0"]).all(), (schedule, arithmetic, s.counts)
            assert same_bits(s.logits[-1], impl.answer(network, x)), (schedule, arithmetic)


def test_T5_needs_totals(impl, seen):
    """Increments in float16 drift: in some networks units differ, which is why the claim is about totals."""
    needs_networks(impl)
    differing, shares = [], []
    for seed in range(3):
        random = np.random.default_rng(seed)
        x = nets.images(random, "mlp", 16)
        nodes = nets.quantised(nets.mlp(random, 6, width=32, residual=True), x, "cs-qcfs", 7)
        network = impl.native("build")(impl.encode(nodes, "float16"))
        x = impl.encode(x, "float16")
        exact, drifting = (
            impl.decode(impl.native("simulate")(impl.native("convert")(network, "signed"), x, 40, arithmetic))
            for arithmetic in ("totals", "increments")
        )
        assert exact.units_that_differ == 0
        differing.append(drifting.units_that_differ)
        shares.append(np.mean(list(exact.nonzero_share.values())))
    assert max(differing) > 0, "no increment drifted: totals would not be needed"
    seen(f"T5 {impl.name}: 6-layer MLPs in float16 increments: {100 * np.mean(differing):.2f} % of units "
         f"differ; in totals none, neurons that spike: {100 * np.mean(shares):.0f} %")  # fmt: skip


def test_T5_refuses_levels_that_the_format_cannot_hold(impl):
    """L <= 2^p: 2048 in float16, 256 in bfloat16; one more is an error that names the limit."""
    needs_networks(impl)
    for format, limit in (("float16", 2048), ("bfloat16", 256)):
        if format not in impl.formats:
            continue  # NumPy has no bfloat16
        for levels, fits in ((limit, True), (limit + 1, False)):
            nodes = nets.attaining_bound(1, 2)
            nodes[1]["levels"] = levels
            network = impl.native("build")(impl.encode(nodes, format))
            if fits:
                impl.native("convert")(network, "signed")
            else:
                with pytest.raises(ValueError, match=f"at most {limit}"):
                    impl.native("convert")(network, "signed")
