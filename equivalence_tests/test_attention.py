"""Attention and feed-forward layers: accumulated forms telescope and are exact, per-step forms are neither."""

from fractions import Fraction
from itertools import product as every

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from reference import tokens, training
from reference.attention import attention_nodes, feed_forward_nodes

from . import random_networks as nets
from .test_t5 import same_bits

FIELD = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def fractions(random, *shape):
    """Random Fractions that no float holds."""
    return np.frompyfunc(lambda n: Fraction(int(n), 7), 1, 1)(random.integers(-9, 10, shape))


def share(x):
    """A softmax without e: x^2 / sum x^2, or 1 / n where all is 0; not linear, exact on Fractions."""
    total = (x * x).sum(-1, keepdims=True)
    return np.where(total == 0, Fraction(1, x.shape[-1]), x * x / np.where(total == 0, Fraction(1), total))


def centred(x):
    """A layer norm without a root: (x - mean) / (1 + variance) + 1/3."""
    x = x - x.sum(-1, keepdims=True) / Fraction(x.shape[-1])
    return x / (1 + (x * x).sum(-1, keepdims=True) / Fraction(x.shape[-1])) + Fraction(1, 3)


@given(random=FIELD, steps=st.integers(1, 6), operator=st.sampled_from([share, centred]))
def test_accumulated_operators_telescope(random, steps, operator):
    """(7.4) in rational arithmetic, for any input sequence; f(0) is part of the sum."""
    x = fractions(random, steps, 2, 3, 4)
    assert (tokens.accumulated(operator, x).sum(axis=0) == operator(x.sum(axis=0))).all()
    order = random.permutation(steps)
    assert (tokens.accumulated(operator, x[order]).sum(0) == tokens.accumulated(operator, x).sum(0)).all()


@given(random=FIELD, steps=st.integers(1, 6))
def test_products_of_trains_telescope(random, steps):
    """(7.3) in rational arithmetic: a_t B_<=t + A_<t b_t sums to the product of the sums, and is their difference."""
    a, b = fractions(random, steps, 2, 3, 4), fractions(random, steps, 2, 4, 2)
    new = reference.product_run(a, b)
    assert all(type(value) is Fraction for value in new.ravel())
    assert (new.sum(axis=0) == a.sum(axis=0) @ b.sum(axis=0)).all()
    assert (new == tokens.accumulated(np.matmul, a, b)).all()


@given(random=FIELD, steps=st.integers(1, 6))
def test_runs_of_an_implementation_telescope(impl, random, steps):
    """The same on dyadic trains, where float64 is exact; softmax and layer norm within rounding."""
    a, b = random.integers(-4, 5, (steps, 2, 3, 4)) / 4, random.integers(-4, 5, (steps, 2, 4, 2)) / 4
    assert np.array_equal(impl.product_run(a, b).sum(axis=0), a.sum(axis=0) @ b.sum(axis=0))
    total = reference.softmax(a.sum(axis=0))
    runs = impl.softmax_run(a), impl.layer_norm_run(a, np.ones(4), np.ones(4), 0.1)
    assert [np.shape(run) for run in runs] == [a.shape, a.shape]
    assert np.allclose(impl.softmax_run(a).sum(axis=0), total, rtol=0, atol=1e-14)  # T values of at most 1, an ulp each
    gamma, beta = random.normal(size=4), random.normal(size=4)
    total = reference.layer_norm(a.sum(axis=0), gamma, beta, 0.1)
    # T values of at most 2 |gamma| + |beta|
    assert np.allclose(impl.layer_norm_run(a, gamma, beta, 0.1).sum(axis=0), total, rtol=0, atol=1e-12)


def test_N1_products_of_single_steps_do_not_average_to_the_product(impl, seen):
    """The smallest trains of spikes for which the mean of a_t b_t is not mean(a) mean(b): two steps that never meet."""
    found = {}
    for steps in (1, 2):
        for a, b in every(every((0.0, 1.0), repeat=steps), repeat=2):
            trains = (np.array(a).reshape(-1, 1, 1, 1), np.array(b).reshape(-1, 1, 1, 1))
            per_step = impl.product_run(*trains, "per-step").mean()
            whole = impl.product_run(*trains, "accumulated").sum() / steps**2
            assert whole == np.mean(a) * np.mean(b), "accumulated: the product of the means"
            if per_step != whole:
                found.setdefault(steps, []).append((a, b, per_step, whole))
    assert list(found) == [2], "one step cannot tell them apart, two can"
    assert ((1.0, 0.0), (0.0, 1.0), 0.0, 0.25) in found[2]
    a, b, per_step, whole = found[2][0]
    seen(f"N1 {impl.name}: spikes {a}, {b}: the products' mean is {per_step:g}, the product of the means {whole:g}")


def thresholds_from_maximum(random, x, heads, hidden, levels):
    """Weights and thresholds {part: ...} of one attention layer and one feed-forward layer, none of them dead on x."""
    width = x.shape[-1]
    weights, more = nets.attention_weights(random, width), nets.feed_forward_weights(random, width, hidden)
    found = []
    for nodes in (attention_nodes(weights, None, None, heads), feed_forward_nodes(more, None, None)):
        quantised = reference.quantise(nodes, "raw-hn-qcfs", levels, "max", x)
        found.append({n["name"].split(".")[1]: n["parameter"] for n in quantised if n["op"] == "qcfs"})
    return weights, more, *found


@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed"])
@pytest.mark.parametrize("format", ["float32", "float64", "bfloat16"])
def test_T5_one_attention_and_one_feed_forward_layer(impl, seen, rounds, format, schedule):
    """What has been sent is the quantised layer's output in every bit, and every layer is alive."""
    if format not in impl.formats:
        pytest.skip("NumPy has no bfloat16")
    least, off = [], []

    @rounds(15)
    @given(seed=st.integers(0, 10_000), heads=st.sampled_from([1, 2, 4]), levels=st.sampled_from([2, 4, 16]))
    def check(seed, heads, levels):
        random = np.random.default_rng(seed)
        x = random.normal(size=(2, 6, 4 * heads))
        weights, more, theta, theta_more = thresholds_from_maximum(random, x, heads, 12, levels)
        expected = (
            reference.attention(x, weights, theta, levels, heads),
            reference.feed_forward(x, more, theta_more, levels),
        )
        x, weights, more, theta, theta_more = (impl.encode(v, format) for v in (x, weights, more, theta, theta_more))
        steps = levels if schedule == "integrate-then-fire" else 2 + 4 * (levels - 1)
        whole = (
            impl.native("attention")(x, weights, theta, levels, heads),
            impl.native("feed_forward")(x, more, theta_more, levels),
        )
        spiking = (
            impl.native("attention_spiking")(x, weights, theta, levels, heads, steps, schedule),
            impl.native("feed_forward_spiking")(x, more, theta_more, levels, steps, schedule),
        )
        for layer, ann, s, right in zip(("attention", "feed-forward"), whole, spiking, expected, strict=True):
            ann = impl.decode(ann)
            assert ann.shape == right.shape, f"{layer}, seed {seed}: shape {ann.shape}, expected {right.shape}"
            assert same_bits(impl.decode(s.logits)[-1], ann), f"{layer}, seed {seed}"
            assert len(impl.decode(s.logits)) == steps, f"{layer}: {len(impl.decode(s.logits))} steps, expected {steps}"
            least.append(min([*s.nonzero_share.values(), (ann != 0).mean()]))
            off.append((np.abs(ann - right).sum(), np.abs(right).sum()))

    check()
    # levels next to a tie differ between formats, and are rare; an answer of zeros is off by 1
    wrong, whole = np.sum(off, axis=0)
    assert wrong < 0.2 * whole, f"equal to itself, but off the reference's answer by {wrong / whole:.0%}"
    assert np.mean(least) > 0.05, "a layer is dead, and equality is free"
    seen(f"T5 {impl.name}: attention and feed-forward layers, {format}, {schedule}: {len(least) // 2} of each, "
         f"0 bits differ; least active layer {100 * np.mean(least):.0f} %")  # fmt: skip


def test_per_step_attention_does_not_converge_to_the_quantised_one(impl, seen):
    """Streaming for T steps approaches the layer of T levels if operators accumulate, and stays off it per step."""
    random = np.random.default_rng(0)
    x = random.normal(size=(4, 8, 8))
    weights, _, theta, _ = thresholds_from_maximum(random, x, 2, 12, 16)
    off = {}
    for operators in ("per-step", "accumulated"):
        for steps in (16, 256):
            whole = impl.attention(x, weights, theta, steps, 2)
            s = impl.attention_spiking(x, weights, theta, 16, 2, steps, "streaming", operators)
            off[operators, steps] = np.abs(s.logits[-1] - whole).mean() / whole.mean()
    assert off["per-step", 256] > 5 * off["accumulated", 256]
    assert off["accumulated", 256] < off["accumulated", 16] / 4
    seen(f"N1 {impl.name}: mean error of attention at T = 256: per step {100 * off['per-step', 256]:.1f} %, "
         f"accumulated {100 * off['accumulated', 256]:.1f} %")  # fmt: skip


@given(random=FIELD, levels=st.sampled_from([1, 3, 8]))
def test_a_linear_layer_is_a_convolution_over_its_whole_input(impl, random, levels):
    """4.2.2, thresholds included: N-QCFS after it is C-QCFS after the convolution whose kernel is the image."""
    image, weight, bias = random.integers(-4, 5, (3, 2, 4, 4)) / 4, random.integers(-4, 5, (5, 2, 4, 4)) / 4, np.ones(5)
    theta = random.choice([0.5, 1.0, 4.0], 5)
    assert impl.threshold_shape("neuron", (5,)) == (5,)
    assert impl.threshold_shape("channel", (5, 1, 1)) == (5, 1, 1)
    as_layer = impl.qcfs(impl.linear(image.reshape(3, -1), weight.reshape(5, -1), bias), theta, levels)
    as_convolution = impl.qcfs(impl.conv2d(image, weight, bias), theta.reshape(5, 1, 1), levels)
    assert (as_layer == as_convolution[:, :, 0, 0]).all()
    assert (as_layer > 0).any()


def test_bad_input_to_attention_is_one_line(impl):
    random = np.random.default_rng(0)
    x, weights = random.normal(size=(2, 6, 8)), nets.attention_weights(random, 8)
    theta = dict.fromkeys(("q", "k", "v", "attention", "head", "projection"), np.array(1.0))
    with pytest.raises(ValueError, match="3 heads"):
        impl.attention(x, weights, theta, 4, 3)
    for schedule in ("signed", "integrate-then-fire"):
        with pytest.raises(ValueError, match="per-step") as error:
            impl.attention_spiking(x, weights, theta, 4, 2, 4, schedule, "per-step")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="operators 'both': choose from accumulated, per-step"):
        impl.attention_spiking(x, weights, theta, 4, 2, 4, "streaming", "both")
    with pytest.raises(ValueError, match="do not fit"):
        impl.product_run(np.ones((2, 3, 4)), np.ones((2, 3, 4)))


def test_a_tiny_transformer_learns_in_numpy():
    """Two-stage training of one block on digits, by explicit derivatives alone; then the exact schedules are exact."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, labels = digits.images[:, None] / 16, digits.target
    nodes = reference.build(nets.transformer(np.random.default_rng(0), 1, width=16, heads=2, image=8, classes=10))
    network, _ = training.train(nodes, x[:1000], labels[:1000], epochs=6, lr=0.05)
    network = reference.quantise(network, "s-qcfs", 8, "max", x[:200])
    network, losses = training.train(network, x[:1000], labels[:1000], epochs=6, lr=0.05)
    network, more = training.train(reference.expand(network, "hn-qcfs", x[:1]), x[:1000], labels[:1000], 2, 0.005)
    logits = reference.answer(network, x[1000:1200])
    assert (logits.argmax(1) == labels[1000:1200]).mean() > 0.75, "chance is 0.1"
    assert more[-1] < losses[0] / 2
    heads = {n["name"]: n["parameter"].ravel() for n in network if n["op"] == "qcfs" and n["site"] == "head"}
    assert all(np.ptp(values) > 0 for values in heads.values()), "the heads' thresholds have moved apart"
    s = reference.simulate(reference.convert(network, "integrate-then-fire"), x[1000:1200], 8)
    assert same_bits(s.logits[-1], logits)
    assert min(s.nonzero_share.values()) > 0.05
