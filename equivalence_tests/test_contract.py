"""The contract itself: the same names and arguments on both sides, the stage switch, and what bad input gets."""

import inspect

import numpy as np
import pytest

import accelerated
import reference

from . import random_networks as nets
from .implementations import CONTRACT


def test_both_sides_export_the_contract_with_the_same_arguments():
    for name in CONTRACT:
        for side in (reference, accelerated):
            assert name in side.__all__, f"{side.__name__} does not export {name}"
        ours, theirs = (inspect.signature(getattr(side, name)).parameters for side in (reference, accelerated))
        ours, theirs = ([(p.name, p.default) for p in side.values()] for side in (ours, theirs))
        assert ours == theirs[: len(ours)], name
        assert all(default is not inspect.Parameter.empty for _, default in theirs[len(ours) :]), name


def test_every_public_name_has_a_docstring():
    for side in (reference, accelerated):
        for name in side.__all__:
            assert inspect.getdoc(getattr(side, name)), f"{side.__name__}.{name} has no docstring"


ONE = np.array([[0.5]])
CURRENTS = np.full((2, 1, 3), 0.5)
NAN = np.array([[np.nan]])
BAD = [  # (name, arguments, what the message must say)
    ("qcfs_level", (ONE, 1.0, 0), "levels must be a whole number of at least 1, got 0"),
    ("qcfs", (ONE, 1.0, 2.5), "got 2.5"),
    ("qcfs", (ONE, 0.0, 4), "threshold must be positive and finite, got 0"),
    ("qcfs", (ONE, -1.0, 4), "got -1"),
    ("qcfs", (ONE, np.array(np.nan), 4), "got nan"),
    ("qcfs", (ONE.astype(np.float16), 60000.0, 4), "theta L must be positive and finite, got inf"),
    ("qcfs_grad", (ONE, np.ones(3), 4), "does not broadcast"),
    ("qcfs_parameter_grad", (ONE, np.array(1.0), 4, "exponential", ONE), "choose from raw, softplus, exp"),
    ("softplus_inverse", (np.array([1.0, 0.0]),), "must be positive and finite, got 0"),
    ("threshold_shape", ("chanel", (3, 4, 4)), "did you mean 'channel'?"),
    ("threshold_shape", ("head", (3, 4, 4), 2), "(2, N, F)"),
    ("threshold_shape", ("channel", ()), "one to four axes"),
    ("sum_to", (np.ones((2, 3)), (4,)), "does not broadcast"),
    ("if_run", (np.ones(3), np.array(1.0)), "[T, batch, ...]"),
    ("if_run", (CURRENTS * np.nan, np.array(1.0)), "currents must be finite, got nan"),
    ("if_run", (CURRENTS, np.array(1.0), np.array(np.nan)), "v0 must be finite, got nan"),
    ("if_run", (CURRENTS, np.array(1.0), np.ones(2)), "a v0 of shape (2,) does not broadcast"),
    ("qcfs", (NAN, 1.0, 4), "z must be finite, got nan"),
    ("qcfs", (ONE.astype(np.float16), 1e-9, 4), "threshold must be positive and finite, got 0"),
    ("signed_step", (NAN, ONE, 1.0, 4), "z must be finite, got nan"),
    ("fold_batch_norm", (np.ones((1, 1)), None, *[np.ones(1)] * 3, -np.ones(1), 1e-5), "var + eps must be positive"),
    ("linear", (np.ones((2, 3)), np.ones((4, 3)), np.ones(2)), "a bias of shape (2,) does not fit"),
    ("conv2d", (np.ones((2, 2, 5, 5)), np.ones((1, 2, 3, 3)), np.ones(2)), "a bias of shape (2,) does not fit"),
    ("conv2d", (np.ones((2, 2, 2, 2)), np.ones((1, 2, 3, 3))), "is smaller than a kernel"),
    ("conv2d", (np.ones((2, 2, 5, 5)), np.ones((1, 2, 3, 3)), None, 0), "stride must be"),
    ("avg_pool2d", (np.ones((2, 2)), 2), "holds no window"),
    ("if_run", (np.ones((0, 1, 3)), np.array(1.0)), "T >= 1"),
    ("if_run", (CURRENTS, np.array([1.0, 0.0, 1.0])), "got 0"),
    ("lif_run", (CURRENTS, np.array(1.0), 1.5), "leak must lie in [0, 1], got 1.5"),
    ("integrate_then_fire_run", (CURRENTS, np.ones((4, 1))), "does not broadcast"),
    ("st_bif_run", (CURRENTS, np.array(1.0), 0), "at least 1"),
    ("linear", (np.ones((2, 3)), np.ones((4, 5))), "do not fit"),
    ("conv2d", (np.ones((2, 3, 5, 5)), np.ones((4, 2, 3, 3))), "does not fit"),
    ("avg_pool2d", (np.ones((1, 1, 2, 2)), 3), "holds no window of 3 x 3"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), BAD, ids=[f"{n}-{m[:24]}" for n, _, m in BAD])
def test_bad_input_gets_one_clear_line(impl, name, arguments, message):
    if impl.name.startswith("student_"):
        pytest.skip("the wording of errors is not part of an assignment")
    with pytest.raises(ValueError) as error:
        getattr(impl, name)(*arguments)
    text = str(error.value)
    assert "\n" not in text
    assert message in text, text


def small(levels=4, parameter=1.0, positivity="raw"):
    """One convolution, one activation of two channels, a read-out."""
    weight = np.ones((2, 1, 1, 1))
    return [
        {"name": "conv", "op": "conv2d", "inputs": ["image"], "weight": weight},
        {"name": "act", "op": "qcfs", "inputs": ["conv"], "parameter": np.full((2, 1, 1), parameter), "levels": levels,
         "positivity": positivity},
        {"name": "flat", "op": "flatten", "inputs": ["act"]},
        {"name": "fc", "op": "linear", "inputs": ["flat"], "weight": np.ones((3, 2))},
    ]  # fmt: skip


def overflowing():
    """Every number is finite; the product of weight and gamma is not."""
    conv, act, *rest = small()
    norm = {"name": "bn", "op": "batch_norm", "inputs": ["conv"], "beta": np.zeros(2), "mean": np.zeros(2)}
    norm |= {"gamma": np.full(2, 1e300), "var": np.full(2, 1e-10), "eps": 1e-10}
    return [conv | {"weight": conv["weight"] * 1e10}, norm, act | {"inputs": ["bn"]}, *rest]


def shared():
    """The convolution's own output is read beside its batch norm: folding would change it."""
    conv, act, *rest = small()
    norm = {"name": "bn", "op": "batch_norm", "inputs": ["conv"], "gamma": np.ones(2), "beta": np.ones(2)}
    norm |= {"mean": np.zeros(2), "var": np.ones(2)}
    total = {"name": "sum", "op": "add", "inputs": ["bn", "conv"]}
    return [conv, norm, total, act | {"inputs": ["sum"]}, *rest]


def relu_network():
    return [small()[0], {"name": "act", "op": "relu", "inputs": ["conv"]}, *small()[2:]]


X = np.ones((1, 1, 1, 1))


def with_threshold(impl, value):
    nodes = small()
    nodes[1]["parameter"][1] = value
    return impl.convert(impl.build(nodes), "signed")


NETWORK_BAD = [
    (lambda i: with_threshold(i, -0.25), "the threshold of 'act' must be positive and finite, got -0.25 at (1, 0, 0)"),
    (lambda i: i.convert(i.build(overflowing()), "signed"), "conv.weight must be finite, got inf"),
    (lambda i: i.convert(i.build(small()), "stream"), "unknown schedule 'stream': choose from streaming"),
    (lambda i: i.convert(i.build(relu_network()), "signed"), "quantise the network before"),
    (lambda i: i.simulate(i.convert(i.build(small()), "signed"), X, 0), "steps must be a whole number of at least 1"),
    (lambda i: i.simulate(i.convert(i.build(small()), "signed"), X * np.nan, 4), "the images must be finite, got nan"),
    (lambda i: i.simulate(i.convert(i.build(small()), "signed"), X, 4, "total"), "did you mean 'totals'?"),
    (lambda i: i.simulate(i.convert(i.build(small()), "streaming"), X, 4, "totals"), "choose from increments"),
    (lambda i: i.quantise(i.build(relu_network()), "cs-qcf", 4), "did you mean 'cs-qcfs'?"),
    (lambda i: i.quantise(i.build(relu_network()), "cs-qcfs", 0), "levels must be a whole number of at least 1, got 0"),
    (lambda i: i.quantise(i.build(relu_network()), "cs-qcfs", 4, -2.0), "must be positive and finite, got -2"),
    (lambda i: i.quantise(i.build(relu_network()), "cs-qcfs", 4, "max"), "sample"),
    (lambda i: i.quantise(i.build(relu_network()), "n-qcfs", 4), "share thresholds by channel"),
    (lambda i: i.quantise(i.build(small()), "cs-qcfs", 4), "to quantise"),
    (lambda i: i.expand(i.build(small(parameter=-1.0)), "cs-qcfs"), "the threshold of 'act' must be positive"),
    (lambda i: i.expand(i.build(small(parameter=-1.0)), "c-qcfs"), "the threshold of 'act' must be positive"),
    (lambda i: i.build([]), "at least one node"),
    (lambda i: i.build([{"name": "a", "op": "relu"}]), "a node needs 'name', 'op' and 'inputs'"),
    (lambda i: i.build([{"name": "a", "op": "add", "inputs": ["image"] * 3}]), "has 3 inputs"),
    (lambda i: i.simulate(i.build(small()), X, 4), "convert it first"),
    (lambda i: i.simulate(i.convert(i.build(small()), "signed"), X[:0], 4), "at least one"),
    (lambda i: i.answer(i.build(small()), np.ones((1, 3, 2, 2))), "fit"),
    (lambda i: i.quantise(i.build(relu_network()), "cs-qcfs", 4, "max"), "initial_threshold must be"),
    (lambda i: i.quantise(i.build(relu_network()), "cs-qcfs", 4, "4"), "initial_threshold must be"),
    (lambda i: i.build([*small(), {"name": "fc", "op": "relu", "inputs": ["act"]}]), "'fc' is used twice"),
    (lambda i: i.build([{"name": "a", "op": "relu", "inputs": ["nothing"]}]), "unknown input of 'a' 'nothing'"),
    (lambda i: i.build([{"name": "a", "op": "max_pool", "inputs": ["image"]}]), "unknown operator 'max_pool'"),
    (lambda i: i.build([{"name": "a", "op": "linear", "inputs": ["image"]}]), "lacks 'weight'"),
    (lambda i: i.build([{"name": "a", "op": "linear", "inputs": ["image"], "weight": NAN}]), "a.weight must be finite"),
]  # fmt: skip


@pytest.mark.parametrize(("attempt", "message"), NETWORK_BAD, ids=[message[:40] for _, message in NETWORK_BAD])
def test_bad_networks_get_one_clear_line(impl, attempt, message):
    if impl.name.startswith("student_"):
        pytest.skip("the wording of errors is not part of an assignment")
    with pytest.raises(ValueError) as error:
        attempt(impl)
    text = str(error.value)
    assert "\n" not in text
    assert message in text, text


@pytest.mark.parametrize(("before", "after"), [("s-qcfs", "cs-qcfs"), ("qcfs", "cs-qcfs"), ("qcfs", "c-qcfs")])
@pytest.mark.parametrize("format", ["float32", "float64"])
def test_the_stage_switch_changes_no_level(impl, before, after, format, seen):
    """Algorithm 1, line 9: thresholds are expanded, answers stay. Raw to softplus: but for a few ulp of theta."""
    moved, levels_seen = [], []
    for seed in range(6):
        random = np.random.default_rng(seed)
        x = impl.encode(nets.images(random, "cnn", 8), format)
        network = impl.native("build")(impl.encode(nets.cnn(random, 4), format))
        coarse = impl.native("quantise")(network, before, 8, "max", x)
        fine = impl.native("expand")(coarse, after, x)
        counts = [
            impl.decode(impl.native("simulate")(impl.native("convert")(q, "signed"), x, 40)).counts
            for q in (coarse, fine)
        ]
        assert all(counts[1][name].shape == count.shape for name, count in counts[0].items())
        moved.append(np.mean([(counts[1][name] != count).mean() for name, count in counts[0].items()]))
        levels_seen.append(np.mean([(count != 0).mean() for count in counts[0].values()]))
    if before == "s-qcfs" or after == "c-qcfs":
        assert max(moved) == 0, "the same parameter, broadcast: not a bit may change"
    # raw -> softplus moves theta by a few ulp (2^-22 in float32): a unit within that of a tie may move, about 8 * 2^-21
    # of units per layer, and carry others with it; one unit in a thousand is far above that and far below an error
    assert np.mean(moved) < 1e-3, moved
    seen(f"switch {impl.name}: {before} -> {after}, {format}: {100 * np.mean(moved):.4f} % of levels move, "
         f"levels other than 0: {100 * np.mean(levels_seen):.0f} %")  # fmt: skip


def test_calibrated_thresholds_are_each_blocks_largest_activation(impl):
    """A silent channel takes its layer's largest, a silent layer 1."""
    nodes = relu_network()
    weights = {"first": [2.0, -1.0], "silent": [-1.0, -3.0]}
    for name, expected in (("first", [6, 6]), ("silent", [1, 1])):
        nodes[0] = nodes[0] | {"weight": np.reshape(weights[name], (2, 1, 1, 1))}
        x = np.array([1.0, 3.0]).reshape(2, 1, 1, 1)
        network = impl.native("quantise")(impl.native("build")(impl.encode(nodes)), "c-qcfs", 4, "max", impl.encode(x))
        assert impl.decode(thresholds_of(network)).ravel().tolist() == expected


def test_a_batch_norm_that_cannot_be_folded_stays_and_is_exact(impl):
    x = np.linspace(-1, 2, 8).reshape(8, 1, 1, 1)
    network = impl.native("build")(impl.encode(shared()))
    for schedule, steps in (("integrate-then-fire", 4), ("signed", 12)):
        for arithmetic in ("totals", "increments"):
            s = impl.native("simulate")(impl.native("convert")(network, schedule), impl.encode(x), steps, arithmetic)
            answer = impl.decode(impl.native("answer")(network, impl.encode(x)))
            assert (impl.decode(s).logits[-1] == answer).all(), "dyadic numbers: exact in any order"
            assert min(impl.decode(s).nonzero_share.values()) > 0


def thresholds_of(network):
    """The raw parameter of the activation "act" on either side."""
    if isinstance(network, list):
        return next(node["parameter"] for node in network if node["name"] == "act")
    return network.get_submodule("act").parameter


@pytest.mark.parametrize("schedule", ["streaming", "integrate-then-fire", "signed"])
def test_the_three_errors_add_up_to_what_was_sent_less_relu(impl, schedule):
    """sent - relu(X): for the first layer X is known; theta N / T and relu(conv(x)) come from elsewhere."""
    x = np.array([-1.0, 0.3, 0.7, 5.0]).reshape(4, 1, 1, 1)
    network = impl.native("build")(impl.encode(small()))
    errors = impl.native("conversion_error")(network, impl.encode(x), 4, schedule)["act"]
    counts = impl.decode(impl.native("simulate")(impl.native("convert")(network, schedule), impl.encode(x), 4)).counts
    assert (np.abs(impl.decode(errors.total) - (counts["act"] / 4 - np.maximum(x, 0))) < 1e-15).all()  # one rounding
    assert np.abs(impl.decode(errors.total)).max() > 3, "one image is far beyond the threshold"
