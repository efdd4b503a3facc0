"""The table of pairs: a name of the contract, how its inputs are drawn, and how closely it must match its partner.

A new operation is one row. `exact` means every bit: both sides do the same IEEE operations in the same order. A
tolerance is relative to the largest magnitude in the partner's answer, and says why it is not zero.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from . import random_networks as nets
from .strategies import LEVELS, POWERS, dyadic_array, dyadic_neuron, near_step, thresholds

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Pair:
    """One row: `strategy` draws the arguments; `tolerance` 0 is bitwise, else relative, for the `reason` given."""

    name: str
    strategy: st.SearchStrategy
    tolerance: float = 0.0
    reason: str = "the same IEEE operations in the same order"
    rounds: int = 100  # of examples; see the fixture of this name
    call: Callable | None = None  # (impl, *arguments) -> answer, where it is not simply impl.name(*arguments)


DYADIC = "sums and products of a few dyadic numbers are exact in float64, in any order"
FLOATS = st.floats(-60, 60).map(np.float64)
WORTHS = st.sampled_from([None, (8, 4, 2, 1), (3, 1), (9, 2, 1, 4, 1)])
FIELD = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@st.composite
def softplus_arguments(draw):
    special = st.sampled_from([0.0, 700.0, -700.0, 1e-300, -1e-300, 20.0, 20.5, 36.0, -36.0])
    return (np.array(draw(st.lists(st.one_of(FLOATS, special), min_size=1, max_size=8)), dtype=float),)


@st.composite
def shape_arguments(draw):
    granularity = draw(st.sampled_from(["layer", "channel", "head", "neuron"]))
    heads = draw(st.integers(1, 4))
    sizes = [heads, draw(st.integers(1, 5)), draw(st.integers(1, 5))]
    shape = tuple(sizes if granularity == "head" else sizes[: draw(st.integers(1, 3))])
    return granularity, shape, heads


@st.composite
def sum_to_arguments(draw):
    full = (2, 3, 2, 4)
    shape = draw(st.sampled_from([(), (3, 1, 1), (4,), (3, 2, 4), (1, 1, 4), (1, 1, 1)]))
    return draw(dyadic_array(full)), shape


@st.composite
def parameter_grad_arguments(draw):
    z = draw(dyadic_array((2, 3, 2, 2)))
    shape = draw(st.sampled_from([(), (3, 1, 1), (2,)]))
    parameter = np.array(draw(st.lists(st.floats(0.25, 3), min_size=3, max_size=3)), dtype=float)
    parameter = np.resize(parameter, shape) if shape else np.array(parameter[0])
    return z, parameter, draw(LEVELS), draw(st.sampled_from(["raw", "softplus"])), draw(dyadic_array(z.shape))


@st.composite
def float_currents(draw):
    theta, steps = draw(thresholds()), draw(st.integers(1, 12))
    value = st.floats(-2, 2) | st.integers(-8, 8).map(lambda k: k / 4)  # quarters of the threshold: ties
    values = draw(st.lists(value, min_size=4 * steps, max_size=4 * steps))
    return np.array(values).reshape(steps, 1, 4) * theta, np.array(theta)


@st.composite
def signed_step_arguments(draw):
    z, theta, levels = draw(near_step())
    sent = draw(st.lists(st.integers(0, levels), min_size=z.size, max_size=z.size))
    return z, np.array([sent], dtype=z.dtype), theta, levels


@st.composite
def halving_step_arguments(draw):
    z, sent, theta, levels = draw(signed_step_arguments())
    return z, sent, theta, levels, draw(st.sampled_from([1, 2, 3, 4, 8]))


@st.composite
def layer_arguments(draw, op):
    random = draw(FIELD)
    if op == "linear":
        return random.normal(size=(3, 5)), random.normal(size=(4, 5)), random.normal(size=4)
    if op == "conv2d":
        stride, padding = draw(st.sampled_from([(1, 0), (1, 1), (2, 1), (2, 0), (3, 1)]))
        bias = random.normal(size=4) if draw(st.booleans()) else None
        return random.normal(size=(2, 3, 7, 6)), random.normal(size=(4, 3, 3, 3)), bias, stride, padding
    if op in ("avg_pool2d", "max_pool2d"):
        return random.normal(size=(2, 3, 7, 6)), draw(st.integers(1, 3))
    if op == "layer_norm":
        return random.normal(size=(2, 4, 6)), random.normal(size=6), random.normal(size=6)
    if op == "softmax":
        return (random.normal(size=(2, 4, 6)) * draw(st.sampled_from([1.0, 30.0, 800.0])),)
    weight = random.normal(size=(4, 3, 3, 3) if draw(st.booleans()) else (4, 6))
    bias = random.normal(size=4) if draw(st.booleans()) else None
    normal = random.normal(size=4), random.normal(size=4), random.normal(size=4)
    return weight, bias, *normal, random.uniform(0.1, 2, 4), 1e-5


@st.composite
def spike_trains(draw):
    random = draw(FIELD)
    return random.integers(-1, 2, (draw(st.integers(1, 5)), 2, 3, 5, 4)).astype(float), draw(st.integers(1, 3))


@st.composite
def network_arguments(draw):
    random, kind = draw(FIELD), draw(st.sampled_from(["mlp", "cnn", "graph"]))
    depth, stride = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2]))
    if kind == "graph":  # with layer norm and softmax
        return nets.graph(random, exact=False), random.normal(size=(4, 4)), None, None
    nodes = nets.mlp(random, depth) if kind == "mlp" else nets.cnn(random, depth, stride=stride)
    return (
        nodes,
        nets.images(random, kind, 4),
        draw(st.sampled_from(["qcfs", "s-qcfs", "c-qcfs", "cs-qcfs"])),
        draw(LEVELS),
    )


@st.composite
def integer_network_arguments(draw):
    random, levels = draw(FIELD), draw(st.sampled_from([2, 4, 8]))
    x = random.integers(0, 17, (2, 1, 4, 4)) / 16
    schedule = draw(st.sampled_from(["streaming", "integrate-then-fire", "signed"]))
    if schedule == "streaming" and draw(st.booleans()):  # many channels: another kernel than for few
        return nets.integer_cnn(random, 2, levels, 64), x, levels, schedule
    return nets.integer_cnn(random, draw(st.integers(1, 4)), levels), x, levels, schedule


@st.composite
def halving_network_arguments(draw):
    nodes, x, levels, _ = draw(integer_network_arguments())
    return nodes, x, levels, draw(WORTHS), draw(st.integers(0, 4))


def run_quantised(impl, nodes, x, activation, levels):
    """Logits of the network quantised with thresholds from the maximum."""
    quantised = impl.quantise(impl.build(nodes), activation, levels, "max", x)
    return impl.answer(quantised, x)


def run_folded(impl, nodes, x, *_):
    """Logits of the relu network after its batch norms are folded."""
    return impl.answer(impl.fold_batch_norms(impl.build(nodes)), x)


def run_expanded(impl, nodes, x, activation, levels):
    """Logits after the stage switch from one threshold per layer to one per channel."""
    coarse = impl.quantise(impl.build(nodes), "s-qcfs", levels, 0.75, x)
    return impl.answer(impl.expand(coarse, activation, x), x)


def run_simulation(impl, nodes, x, levels, schedule):
    """All results of a simulation, as one flat list of arrays, for every arithmetic of the schedule.

    Each of our engines must give them for a streaming network. Streaming logits only after 1, 2, 4, 8 steps, since
    theta N / 3 is not dyadic.
    """
    said, engines = [], ["dense", "event", "auto"] if impl.torch and schedule == "streaming" else [None]
    for arithmetic in ["increments"] * 3 if schedule == "streaming" else ["totals", "increments"]:
        engine = {} if engines == [None] else {"engine": engines.pop(0)}
        s = impl.simulate(impl.convert(impl.build(nodes), schedule), x, levels, arithmetic, **engine)
        rows = [t - 1 for t in (1, 2, 4, 8) if t <= levels] if schedule == "streaming" else slice(None)
        said += [s.logits[rows], *s.counts.values(), s.latency, s.spikes_per_neuron, s.units_that_differ,
                 s.units_that_differ_last, *s.nonzero_share.values()]  # fmt: skip
        said += [] if s.settled_at is None else [s.settled_at, s.settled]
    return [np.asarray(value, dtype=float) for value in said]


def run_halving(impl, nodes, x, levels, worths, span):
    """What `run_simulation` gives, with worths and a span."""
    return run_simulation(impl, nodes, x, 2 * levels, impl.native("halving")(worths, span))


def run_conversion_error(impl, nodes, x, levels, schedule):
    """The three parts of every layer's error."""
    errors = impl.conversion_error(impl.build(nodes), x, levels, schedule)
    return [part for name in sorted(errors) for part in errors[name]]


@st.composite
def train_arguments(draw, op):
    """Trains of dyadic steps, and which form of the operator."""
    random, operators = draw(FIELD), draw(st.sampled_from(["accumulated", "per-step"]))
    steps = draw(st.integers(1, 6))
    train = lambda *shape: random.integers(-4, 5, (steps, 2, *shape)) / 4  # noqa: E731
    if op == "product":
        return train(3, 4), train(4, 2), operators
    if op == "softmax":
        return train(3, 4), operators
    return train(3, 4), random.normal(size=4), random.normal(size=4), 1e-3, operators


@st.composite
def attention_arguments(draw, gradient=False):
    """(tokens, weights, thresholds, levels, heads, [upstream,] bias) with thresholds of the size of their inputs."""
    random, heads = draw(FIELD), draw(st.sampled_from([1, 2, 4]))
    width, tokens = 4 * heads, 5
    theta = lambda size, shape: random.uniform(0.5, 1, shape) * size  # noqa: E731
    each, layer = (heads, 1, 1), draw(st.booleans())
    thresholds = {p: theta(2.0, () if layer else each) for p in ("q", "k", "v")}
    thresholds |= {"attention": theta(0.6, each), "head": theta(1.0, each), "projection": theta(1.0, ())}
    x, bias = random.normal(size=(2, tokens, width)), draw(st.booleans())
    bias = random.normal(size=(heads, tokens, tokens)) if bias else None
    upstream = (random.normal(size=x.shape),) * gradient
    weights = nets.attention_weights(random, width)
    return x, weights, thresholds, draw(LEVELS), heads, *upstream, bias


@st.composite
def feed_forward_arguments(draw, gradient=False):
    random = draw(FIELD)
    weights = nets.feed_forward_weights(random, 6, 12)
    thresholds = {"fc1": random.uniform(0.5, 2, 12), "fc2": random.uniform(0.5, 2, 6)}
    x = random.normal(size=(2, 5, 6))
    return x, weights, thresholds, draw(LEVELS), *((random.normal(size=x.shape),) * gradient)


@st.composite
def attention_over_time_arguments(draw):
    x, weights, thresholds, levels, heads, bias = draw(attention_arguments())
    schedule, operators = draw(st.sampled_from([
        ("streaming", "per-step"), ("streaming", "accumulated"), ("integrate-then-fire", "accumulated"),
        ("signed", "accumulated"),
    ]))  # fmt: skip
    return x, weights, thresholds, levels, heads, draw(st.integers(1, 8)), schedule, operators, bias


def flat(value):
    """The arrays of nested tuples and dicts, in order."""
    if isinstance(value, dict):
        return [array for part in value.values() for array in flat(part)]
    return [array for part in value for array in flat(part)] if isinstance(value, tuple) else [np.asarray(value)]


def run_attention_over_time(impl, *arguments):
    """What the heads' projection has sent after each step, and the number of spikes."""
    s = impl.attention_spiking(*arguments)
    return [s.logits, np.asarray(float(s.latency)), np.asarray(s.spikes_per_neuron)]


def run_feed_forward_over_time(impl, *arguments):
    """What the second layer has sent under each schedule."""
    return [impl.feed_forward_spiking(*arguments, 6, s).logits for s in ("streaming", "integrate-then-fire", "signed")]


NORMAL = "BLAS and torch add up in another order: up to n eps of the sum of magnitudes, n = 54 terms here"
EXP = "exp, log and sqrt differ by a few ulp between libraries"

PAIRS = [
    Pair("softplus", softplus_arguments(), 8 * EPS, EXP),
    Pair("softplus_inverse", softplus_arguments().map(lambda a: (np.abs(a[0]) + 1e-3,)), 1e4 * EPS,
         EXP + "; near y = ln 2 the answer is a difference of two numbers of size 0.7"),
    Pair("softplus_slope", softplus_arguments(), 64 * EPS, EXP + "; the exponent's own error grows with |x| <= 60"),
    Pair("threshold_shape", shape_arguments(), 0, "integers"),
    Pair("sum_to", sum_to_arguments(), 0, DYADIC),
    Pair("qcfs_level", near_step()),
    Pair("qcfs", near_step()),
    Pair("qcfs_grad", near_step()),
    Pair("qcfs_parameter_grad", parameter_grad_arguments(), 1e3 * EPS, EXP + ", and the block's sum in another order"),
    Pair("if_run", float_currents()),
    Pair("lif_run", st.tuples(float_currents(), st.sampled_from([0.0, 0.5, 0.9, 1.0])).map(lambda a: (*a[0], a[1]))),
    Pair("integrate_then_fire_run", float_currents()),
    Pair("signed_step", signed_step_arguments()),
    Pair("st_bif_run", st.tuples(float_currents(), LEVELS).map(lambda a: (*a[0], a[1]))),
    Pair("st_bif_run", dyadic_neuron(), 0, DYADIC),
    Pair("halving_step", halving_step_arguments()),
    Pair("halving_run", st.tuples(float_currents(), LEVELS).map(lambda a: (*a[0], a[1]))),
    Pair("halving_run", st.tuples(dyadic_neuron(), POWERS, WORTHS).map(lambda a: (*a[0][:2], *a[1:])), 0, DYADIC),
    Pair("srp_run", float_currents().map(lambda a: (np.concatenate([a[0], a[0]]), a[1], len(a[0])))),
    Pair("cos_run", float_currents().map(lambda a: (np.concatenate([a[0], a[0]]), a[1], len(a[0]), 2))),
    Pair("fold_batch_norm", layer_arguments("fold_batch_norm"), 16 * EPS, "one square root and four roundings"),
    Pair("linear", layer_arguments("linear"), 100 * EPS, NORMAL),
    Pair("conv2d", layer_arguments("conv2d"), 100 * EPS, NORMAL),
    Pair("avg_pool2d", layer_arguments("avg_pool2d"), 100 * EPS, NORMAL),
    Pair("max_pool2d", layer_arguments("max_pool2d")),
    Pair("max_pool2d_run", spike_trains()),
    Pair("layer_norm", layer_arguments("layer_norm"), 1e3 * EPS, NORMAL + ", divided by a small deviation"),
    Pair("softmax", layer_arguments("softmax"), 1e3 * EPS, EXP + "; an argument of 800 magnifies its own ulp by 800"),
    Pair("product_run", train_arguments("product"), 0, DYADIC),
    Pair("softmax_run", train_arguments("softmax"), 1e3 * EPS, EXP),
    Pair("layer_norm_run", train_arguments("layer_norm"), 1e5 * EPS,
         NORMAL + ", divided by a deviation as small as sqrt(eps) = 0.03, and differences of such values"),
    Pair("attention", attention_arguments(), 1e3 * EPS, NORMAL + "; at a tie a level would differ, and none is met"),
    Pair("attention_grad", attention_arguments(gradient=True), 1e4 * EPS, NORMAL + ", back through four layers", 40,
         lambda impl, *a: flat(impl.attention_grad(*a))),
    Pair("attention_spiking", attention_over_time_arguments(), 1e3 * EPS, NORMAL + "; no spike differs", 40,
         run_attention_over_time),
    Pair("feed_forward", feed_forward_arguments(), 1e3 * EPS, NORMAL),
    Pair("feed_forward_grad", feed_forward_arguments(gradient=True), 1e4 * EPS, NORMAL, 40,
         lambda impl, *a: flat(impl.feed_forward_grad(*a))),
    Pair("feed_forward_spiking", feed_forward_arguments(), 1e3 * EPS, NORMAL, 40, run_feed_forward_over_time),
    Pair("answer", network_arguments(), 1e4 * EPS, NORMAL + ", layer after layer", 40, run_folded),
    Pair("simulate", integer_network_arguments(), 0, DYADIC, 30, run_simulation),
    Pair("halving", halving_network_arguments(), 0, DYADIC, 30, run_halving),
    Pair("conversion_error", integer_network_arguments(), 0, DYADIC, 30, run_conversion_error),
]  # fmt: skip
