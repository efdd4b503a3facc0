"""Networks as people bring them: each is converted with its own answer, or refused in one line that names the place."""

# mypy: disable-error-code="index, arg-type"
# (several outputs are indexed by name; wrong arguments are what some tests are about)

import functools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

import accelerated as acc

from .plain import IMAGES, Plain, Several, exact


def _by_shape(self, y):
    assert isinstance(y, torch.Tensor)
    assert y.shape[1] == 4
    assert len(y) == y.size(0)
    n, c, h, w = y.shape
    y = y.view(n, c * h, w).reshape(n * c, h, w).view(n, c, h, w)
    return self.b(y) if h * w == 64 else self.a(y)


def _as_a_dictionary(self, y):
    found = {"low": self.b(y), "sizes": [y.shape[-1], None]}
    return found["low"] if found["sizes"][1] is None else y


BODIES = {
    "control flow, assertions and sizes": _by_shape,
    "a dictionary on the way": _as_a_dictionary,
    "checkpointing": lambda self, y: checkpoint(self.b, y, use_reentrant=False),
    "a loop over channels": lambda self, y: torch.stack([part * (i + 1) for i, part in enumerate(y.unbind(1))], 1),
    "an attribute": lambda self, y: (self.b(y).mT + y.mT).mT,
    "data": lambda self, y: self.b(y) + y.data,
    "in place": lambda self, y: self.b(y).add_(y).mul_(2),
    "a part written": lambda self, y: _first_channel(self.b(y)),
    "a functional layer": lambda self, y: F.conv2d(y, self.b.weight, self.b.bias, padding=1),
    "einsum": lambda self, y: torch.einsum("bchw,dc->bdhw", y, self.b.weight[:, :, 1, 1]),
    "the number of images": lambda self, y: self.b(y) + torch.ones(len(y), 1, 1, 1) + y.new_ones(y.shape[0], 4, 1, 1),
    "an iterator": lambda self, y: sum(layer(y) for layer in (self.b, self.b)),
    "a number of NumPy": lambda self, y: self.b(y) * np.float32(0.5) + y[:, np.int64(1) :].sum(1, keepdim=True),
}  # fmt: skip


def _first_channel(y):
    z = y * 2
    z[:, 0] = y[:, 1]
    part = z[:, 2:]
    part += 0.25
    return z


@pytest.mark.parametrize("name", BODIES)
def test_python_between_layers_is_no_obstacle(name):
    exact(Plain(BODIES[name]).eval())


def test_names_that_a_second_call_would_take_are_the_networks_own():
    """A module called twice becomes two, and neither takes the name of another one."""
    network = Plain(lambda self, y: self.b_again(self.b(self.b(y))))
    network.b_again = nn.Conv2d(4, 4, 3, padding=1)
    exact(network.eval())


class Bounded6(nn.ReLU6):
    """A ReLU6 that ends at another number, and one whose class says more."""

    def __init__(self):
        super().__init__()
        self.max_val = 0.5


class Doubled(nn.ReLU):
    def __call__(self, x):
        return super().__call__(x) * 2


def _own_call(module):
    vars(module)["_call_impl"] = lambda x: F.relu(x) * 0.3
    return module


@pytest.mark.parametrize("make", [Bounded6, Doubled, lambda: _own_call(nn.ReLU())])
def test_an_activation_is_what_it_does_and_not_what_its_class_is_called(make):
    network = Plain(lambda self, y: self.act(self.b(y)))
    network.act = make()
    exact(network.eval())


def test_what_was_attached_to_a_network_reaches_its_copy():
    """A closure over the original runs the copy's layers: they train on, and the original stays as it is."""
    network = Plain(between=nn.BatchNorm2d(4)).train()
    inner = network.forward
    vars(network)["forward"] = lambda x: inner(x) * 2
    before = {name: value.clone() for name, value in network.state_dict().items()}
    q = acc.quantise(network, "qcfs", 2**14, "max", IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert {name for name, _ in network.named_parameters()} < {name for name, _ in q.named_parameters()}
    assert torch.allclose(acc.answer(q, IMAGES), acc.answer(network, IMAGES), atol=1e-2)


@functools.cache
def _table(count):
    """What a process keeps from its first call."""
    return torch.arange(count).mul(0.1).cos()[:, None, None]


def test_a_cache_of_the_process_is_no_state():
    exact(Plain(lambda self, y: self.b(y) * _table(4)).eval())


class FakeQuantised(nn.Conv2d):
    """A quantisation-aware convolution: it multiplies by another weight than `weight`."""

    def forward(self, x):
        return F.conv2d(x, (self.weight * 8).round() / 8, self.bias, padding=1)


def with_layer(make):
    network = Plain()
    network.b = make(network.b)
    return network.eval()


def _pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.4)
    return layer


def _hooked(layer):
    layer.register_forward_hook(lambda module, inputs, output: output * 1.5)
    return layer


def _own_forward(layer):
    layer.forward = lambda x: nn.Conv2d.forward(layer, x) + 0.5
    return layer


def _fake_quantised(layer):
    other = FakeQuantised(4, 4, 3)
    other.load_state_dict(layer.state_dict())
    return other


LAYERS = {
    "parametrised": parametrizations.weight_norm, "spectral": parametrizations.spectral_norm, "pruned": _pruned,
    "old weight norm": weight_norm, "old spectral norm": spectral_norm, "hooked": _hooked, "own forward": _own_forward,
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_with_another_weight_than_its_own(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch prefers its newer weight norm
        network = with_layer(LAYERS[name])
    exact(network)
    with pytest.raises(
        acc.InputError, match=r"^b \(\w+\) has hooks or computed weights: give a sample|without a sample"
    ):
        acc.quantise(network, "s-qcfs")


def test_a_layer_of_another_class_runs_its_own_forward():
    exact(with_layer(_fake_quantised))


def test_training_goes_on_through_computed_weights():
    network = with_layer(parametrizations.weight_norm)
    q = acc.quantise(network, "s-qcfs", 4, "max", IMAGES).train()
    q(IMAGES).sum().backward()
    moved = {name for name, p in q.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"b.parametrizations.weight.original0", "b.parametrizations.weight.original1", "b.bias"} <= moved


class Bounded(nn.Module):
    """Bounds that were never found, as quantisation-aware layers keep them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("low", torch.tensor(-float("inf")))
        self.register_buffer("high", torch.tensor(float("inf")))

    def forward(self, x):
        return torch.clamp(x, self.low, self.high)


def test_masks_and_bounds_may_be_infinite_and_weights_may_not():
    network = Plain(between=Bounded()).eval()
    q = exact(network)
    s = acc.simulate(acc.convert(q, "streaming"), IMAGES, 4)
    assert s.logits.isfinite().all()
    for name, message in (
        ("between.low", "between.low holds numbers that are not a number"),
        ("a.bias", "a.bias must"),
    ):
        bad = Plain(between=Bounded()).eval()
        bad.state_dict()[name].fill_(float("nan"))
        with pytest.raises(acc.InputError, match=message):
            acc.quantise(bad, "cs-qcfs", sample=IMAGES)


def test_networks_in_a_wrapping():
    plain = Plain().eval()
    y = acc.answer(acc.quantise(plain, "s-qcfs", 4, "max", IMAGES), IMAGES)
    for wrapped in (torch.compile(plain, backend="eager"), nn.DataParallel(plain), torch.fx.symbolic_trace(plain)):
        assert torch.equal(acc.answer(acc.quantise(wrapped, "s-qcfs", 4, "max", IMAGES), IMAGES), y)
    with pytest.raises(acc.InputError, match=r"must be an nn\.Module that runs in Python, got TopLev"):
        acc.quantise(torch.jit.trace(plain, IMAGES), "s-qcfs", sample=IMAGES)
    with pytest.raises(acc.InputError, match=r"must be an nn\.Module that runs in Python, got function"):
        acc.quantise(lambda x: x, "s-qcfs")


def test_lazy_layers_take_their_shape_from_the_sample():
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(acc.InputError, match="Sequential has weights without a shape: give a sample of images"):
        acc.quantise(network)
    q = acc.quantise(network, "cs-qcfs", 4, "max", IMAGES)
    assert q(IMAGES).shape == (5, 3)
    assert isinstance(network[0], nn.LazyConv2d), "the caller's network is left alone"


class Keeps(nn.Module):
    """A convolution whose weights are computed in the first call in evaluation, and kept."""

    def __init__(self):
        super().__init__()
        self.weight, self.kept = nn.Parameter(torch.randn(4, 4, 1, 1)), {}

    def train(self, mode=True):
        self.kept = {} if mode else self.kept
        return super().train(mode)

    def forward(self, x):
        if self.training:
            return F.conv2d(x, self.weight.tanh())
        if "weight" not in self.kept:
            self.kept["weight"] = self.weight.tanh()
        return F.conv2d(x, self.kept["weight"])


def test_what_a_first_call_keeps_is_computed_from_the_weights():
    network = Plain(between=Keeps()).eval()
    q = acc.quantise(network, "cs-qcfs", 4, "max", IMAGES)
    q.train()(IMAGES).sum().backward()
    assert q.get_parameter("between.weight").grad is not None
    exact(network)


def test_dropout_as_a_function_drops_in_training_alone():
    network = Plain(lambda self, y: F.dropout(self.b(y), 0.5, self.training)).train()
    q = acc.quantise(network, "s-qcfs", 4, "max", IMAGES)
    assert not torch.equal(q(IMAGES), q(IMAGES))
    q.eval()
    assert torch.equal(q(IMAGES), q(IMAGES))


class OwnNorm(nn.BatchNorm2d):
    """A batch norm of another name."""


def test_what_trains_goes_on_training_and_what_is_frozen_stays_so():
    network = Plain(between=OwnNorm(4)).train()
    q = acc.quantise(network, "s-qcfs", 4, "max", IMAGES)
    before = q.get_buffer("between.running_mean").clone()
    q(IMAGES)
    assert not torch.equal(q.get_buffer("between.running_mean"), before)
    network.between.eval()
    q = acc.quantise(network, "s-qcfs", 4, "max", IMAGES)
    q(IMAGES)
    assert torch.equal(q.get_buffer("between.running_mean"), before)
    assert q.training


def test_each_of_several_outputs_is_exact():
    q = exact(Several().eval())
    for schedule, steps in (("streaming", 6), ("signed", 12)):
        spiking = acc.convert(q, schedule)
        s = acc.simulate(spiking, IMAGES, steps)
        assert s.logits["out"].shape == (steps, 5, 2, 8, 8)
        by_hand = [spiking(IMAGES) for _ in range(steps)][-1]
        assert torch.allclose(by_hand["more"][0], s.logits["more"][0][-1], rtol=0, atol=1e-5)  # sums in another order
    assert "logits {'out': (12, 5, 2, 8, 8)" in repr(s)
    with pytest.raises(acc.InputError, match="accuracy is that of one output"):
        acc.evaluate(q, [(IMAGES, torch.zeros(5))])


def _sequence_first(self, y):
    z = y.flatten(2).permute(2, 0, 1)  # [64, batch, 4]: 64 is a multiple of nothing that matters
    z = z.reshape(64, len(y) * 2, 2).div(8 * len(y)).mul(8 * len(y))
    return self.b(z.reshape(64, len(y), 4).permute(1, 2, 0).unflatten(2, (8, 8)))


def _causal(self, y):
    z = y.flatten(2).transpose(1, 2)
    return self.b(F.scaled_dot_product_attention(z, z, z, is_causal=True).transpose(1, 2).unflatten(2, (8, 8)))


def _whole_numbers(self, y):
    return self.b((y * 5).to(torch.int64).to(y.dtype))


def _transposed(self, y):
    if not hasattr(self, "t"):
        torch.manual_seed(1)
        self.t = nn.ConvTranspose2d(4, 4, 3, 2, 1).to(y.dtype)
    return self.b(self.t(y, output_size=(16, 16)))


def _by_keyword(self, y):
    return F.conv2d(y, weight=self.b.weight, bias=self.b.bias, padding=1)


FOUND = {"sequence first": _sequence_first, "a causal mask": _causal, "whole numbers": _whole_numbers,
         "an output size": _transposed, "weights by keyword": _by_keyword,
         "shaped as another": lambda self, y: self.b(y).flatten(1).view_as(y).expand_as(self.b(y)),
         "divided by the batch": lambda self, y: self.b(y / len(y)) * y.size(0)}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_an_attack_found_is_exact_in_every_arithmetic(name):
    x = IMAGES.double()
    network = Plain(FOUND[name]).double().eval()
    acc.answer(network, x)
    close = 0.3 if name == "whole numbers" else 1e-2  # a rounding is a whole step there
    alive = 0.005 if name == "a causal mask" else 0.02  # of a softmax over 64 tokens, beside one that sees itself alone
    q = exact(network.double(), x, close=close, alive=alive)
    for n in (1, 4):
        for schedule in ("integrate-then-fire", "signed"):
            spiking = acc.convert(q, schedule)
            steps = spiking.schedule.exact_at(spiking.latency_depth, 4, -4) + 20 * spiking.schedule.settles
            s = acc.simulate(spiking, x[:n], steps, "increments")
            assert torch.allclose(s.logits[-1], acc.answer(q, x[:n]), rtol=0, atol=1e-9), schedule
        spiking = acc.convert(q, "streaming")
        stepped = acc.simulate(spiking, x[:n], 6, record=list(spiking.layers))
        for engine in ("dense", "event"):
            s = acc.simulate(spiking, x[:n], 6, engine=engine)
            assert all(torch.equal(s.counts[name], count) for name, count in stepped.counts.items())


class Named(nn.Module):
    """Names that the graph would like to use itself."""

    def __init__(self):
        super().__init__()
        self.relu, self._constant0 = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(1.0))
        self.dropout = nn.Sequential(nn.Conv2d(3, 4, 3))

    def forward(self, x):
        y = F.relu(F.dropout(self.dropout(x), 0.5, self.training)) * self.relu
        return (y * self._constant0 * torch.tensor([1.0]).numpy().tolist()[0]).flatten(1)[:, :5], None, len(x)


def test_names_that_a_graph_uses_are_the_networks_own():
    q = exact(Named().eval())
    assert acc.simulate(acc.convert(q, "signed"), IMAGES, 9).logits[1:] == (None, 5)
    network = Plain()
    network.body = nn.ModuleDict({"class": nn.Linear(1, 1)})
    with pytest.raises(acc.InputError, match=r"a module is called 'body\.class', a word that Python reserves"):
        acc.quantise(network, "s-qcfs")


def test_a_bound_that_leaves_nothing_is_no_relu():
    exact(Plain(lambda self, y: self.b(y).clamp(0, 0) + self.b(y)).eval())


def test_within_inference_mode_and_autocast_it_is_the_same():
    wanted = acc.quantise(Plain().eval(), "s-qcfs", 4, "max", IMAGES).state_dict()
    for context in (torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            got = acc.quantise(Plain().eval(), "s-qcfs", 4, "max", IMAGES).state_dict()
        assert all(torch.equal(a, b) for a, b in zip(got.values(), wanted.values(), strict=True))


def test_depth_is_no_limit():
    torch.manual_seed(0)
    layers = [layer for _ in range(330) for layer in (nn.Linear(6, 6), nn.ReLU())]
    for layer in layers[::2]:
        nn.init.orthogonal_(layer.weight)
    network = nn.Sequential(*layers, nn.Linear(6, 2))
    for sample in (None, torch.rand(4, 6)):
        q = acc.quantise(network, "qcfs", 4, None, sample)
        assert acc.summary(q) == "330 ReLU -> QCFS"
        assert acc.simulate(acc.convert(q, "streaming"), torch.rand(2, 6), 3).logits.shape == (3, 2, 2)
