"""Quantised and spiking networks are ordinary modules, and any traceable network can become one."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accelerated as acc
from accelerated.graph.trace import forward, trace
from accelerated.models import MLP, ResidualCNN
from accelerated.simulation import simulate_at


class Functional(nn.Module):
    """ReLU as a function, a method and a module used twice; an in-place sum; a view."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(3 * 16, 4)

    def forward(self, x):
        x = F.relu(self.a(x))
        y = self.relu(self.b(x))
        y += x
        y = self.relu(self.c(y)).relu()
        y = F.avg_pool2d(y, 2)
        return self.fc(y.view(y.size(0), -1))


def from_maximum(network, x, activation="cs-qcfs", levels=8):
    torch.manual_seed(0)
    return acc.fold_batch_norms(acc.quantise(network, activation, levels, "max", x))


@pytest.fixture
def images():
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_every_relu_is_replaced_wherever_it_is_called(images):
    q = acc.quantise(Functional(), "cs-qcfs", 4, "max", images)
    kinds = [type(m) for m in q.modules()]
    assert kinds.count(acc.QCFS) == 4, "four calls, four sets of thresholds"
    assert nn.ReLU not in kinds
    assert not any(node.target in (F.relu, torch.relu, "relu") for node in q.graph.nodes if node.op != "call_module")


@pytest.mark.parametrize(
    "make", [Functional, lambda: ResidualCNN((1, 8, 8), 10, 0.25), lambda: MLP((1, 8, 8), 10, 0.25)]
)
@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed"])
def test_the_claim_in_three_lines(make, schedule, images):
    torch.manual_seed(1)
    q = from_maximum(make(), images)
    s = acc.simulate(acc.convert(q, schedule), images, 8 if schedule == "integrate-then-fire" else 60)
    assert torch.equal(s.logits[-1], q(images))
    assert min(s.nonzero_share.values()) > 0.05, f"dead layers are equal for free: {s.nonzero_share}"


def test_an_in_place_sum_does_not_spoil_what_is_kept_between_steps(images):
    """`y += x` writes into a value that the next step reads again; the graph adds out of place."""
    torch.manual_seed(2)
    q = from_maximum(Functional(), images)
    with torch.no_grad():
        assert torch.equal(acc.simulate(acc.convert(q, "signed"), images, 60).logits[-1], q(images))
    network = Functional().eval()
    graph = trace(network)
    values = forward(graph, images)
    conv = next(node for node in graph.graph.nodes if node.target == "b")
    assert (values[conv] < 0).any(), "an in-place ReLU has overwritten the convolution's value"


@pytest.mark.parametrize("bad", [nn.LSTM(4, 4), nn.Embedding(4, 4), nn.MultiheadAttention(4, 2), nn.MaxUnpool2d(2)])
def test_what_cannot_be_converted_is_named(bad):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), bad, nn.Flatten())
    with pytest.raises(acc.InputError, match=rf"2 \({type(bad).__name__}\) cannot be converted"):
        acc.quantise(network, "s-qcfs")


def test_a_network_that_cannot_be_traced_says_so():
    class Branching(nn.Module):
        def forward(self, x):
            return F.relu(x) if x.sum() > 0 else x

    with pytest.raises(acc.InputError, match="Branching cannot be read without a sample of images"):
        acc.quantise(Branching())
    with pytest.raises(
        acc.InputError, match=r"test_modules.py:\d+: what the network does depends on the numbers of an"
    ):
        acc.quantise(Branching(), sample=torch.rand(2, 3))


def test_quantise_leaves_its_argument_alone(images):
    network = ResidualCNN((1, 8, 8), 10, 0.25)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    acc.quantise(network, "cs-qcfs", 4, "max", images)
    assert isinstance(network.relu, nn.ReLU)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_weights_survive_the_disk_and_misfits_are_named(tmp_path, images):
    q = from_maximum(ResidualCNN((1, 8, 8), 10, 0.25), images)
    acc.save_weights(q, tmp_path / "w.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    again = acc.load_weights(from_maximum(ResidualCNN((1, 8, 8), 10, 0.25), images), tmp_path / "w.safetensors")
    assert torch.equal(again(images), q(images))
    spiking = acc.convert(q, "signed")
    assert set(spiking.state_dict()) == {f"graph.{name}" for name in q.state_dict()}
    for other, message in (
        (from_maximum(ResidualCNN((1, 8, 8), 10, 0.5), images), "has shape"),
        (from_maximum(MLP((1, 8, 8), 10, 0.25), images), "it lacks"),
        (from_maximum(ResidualCNN((1, 8, 8), 10, 0.25), images, "s-qcfs"), "has shape"),
        (
            from_maximum(ResidualCNN((1, 8, 8), 10, 0.25), images, levels=4),
            "has L = 8, softplus, the network L = 4, softplus",
        ),
        (
            from_maximum(ResidualCNN((1, 8, 8), 10, 0.25), images, "c-qcfs"),
            "has L = 8, softplus, the network L = 8, raw",
        ),
    ):
        with pytest.raises(acc.InputError, match=message) as error:
            acc.load_weights(other, tmp_path / "w.safetensors")
        assert "\n" not in str(error.value)
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    for name in ("broken.safetensors", "missing.safetensors"):
        with pytest.raises(acc.InputError, match=name):
            acc.load_weights(q, tmp_path / name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_moving_both_networks_to_another_format_keeps_them_equal(dtype, images):
    """The neuron makes its threshold from the activation's own parameter, so both stay equal under `.to`."""
    q = from_maximum(ResidualCNN((1, 8, 8), 10, 0.25), images)
    spiking = acc.convert(q, "signed").to(dtype)
    s = acc.simulate(spiking, images.to(dtype), 60)
    assert s.settled
    assert torch.equal(s.logits[-1], q.to(dtype)(images.to(dtype)))


def test_stepping_by_hand_is_the_simulation(images):
    q = from_maximum(MLP((1, 8, 8), 10, 0.25), images)
    spiking = acc.convert(q, "signed").eval()
    spiking.reset()
    with torch.no_grad():
        rows = torch.stack([spiking(images) for _ in range(12)])
    assert torch.equal(rows, acc.simulate(spiking, images, 12).logits)


def test_memory_format_is_kept(images):
    q = from_maximum(ResidualCNN((1, 8, 8), 10, 0.25), images).to(memory_format=torch.channels_last)
    x = images.to(memory_format=torch.channels_last)
    spiking = acc.convert(q, "signed")
    weight = dict(spiking.named_parameters())["graph.block1.conv1.0.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(acc.simulate(spiking, x, 60).logits[-1], q(x))


def test_quantised_networks_pass_through_torch_compile(images):
    """Traced whole by dynamo; the eager backend needs no compiler."""
    q = from_maximum(MLP((1, 8, 8), 10, 0.25), images)
    compiled = torch.compile(q, backend="eager", fullgraph=True)
    assert torch.equal(compiled(images), q(images))


def test_training_moves_thresholds_and_keeps_softplus_positive(images):
    """Pushed down, raw thresholds go below zero and are refused at conversion; Softplus thresholds stay positive."""
    torch.manual_seed(0)
    labels = torch.arange(6) % 10
    networks = {kind: acc.quantise(MLP((1, 8, 8), 10, 0.25), kind, 4, 0.05) for kind in ("qcfs", "s-qcfs")}
    for network in networks.values():
        sgd = torch.optim.SGD(network.parameters(), lr=0.5)
        for _ in range(60):
            loss = F.cross_entropy(network(images), labels) + 3 * sum(
                m.parameter.sum() for m in network.modules() if isinstance(m, acc.QCFS)
            )
            sgd.zero_grad()
            loss.backward()
            sgd.step()
    thresholds = {kind: [m.threshold for m in n.modules() if isinstance(m, acc.QCFS)] for kind, n in networks.items()}
    assert min(t.item() for t in thresholds["qcfs"]) < 0
    assert min(t.item() for t in thresholds["s-qcfs"]) > 0
    with pytest.raises(acc.InputError, match=r"threshold of 'relu1' must be positive and finite, got -"):
        acc.convert(networks["qcfs"], "signed")
    with pytest.raises(acc.InputError, match="threshold of 'relu1'"):
        acc.expand(networks["qcfs"], "cs-qcfs")


def test_softplus_that_underflows_is_refused_not_divided_by():
    """Softplus(-20) is 0 in float16: conversion names the layer."""
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    q = acc.quantise(network, "s-qcfs", 4, 1.0).half()
    with torch.no_grad():
        q.get_submodule("1").parameter.fill_(-20)  # type: ignore[operator]
    with pytest.raises(acc.InputError, match="threshold of '1' must be positive and finite, got 0"):
        acc.convert(q, "signed")


class Mixed(nn.Module):
    """Sizes taken at run time, constants, a chunk, a module called twice, a weight used directly."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(4, 3)
        self.relu, self.scale = nn.ReLU(), nn.Parameter(torch.linspace(0.5, 1.5, 8))

    def forward(self, x):
        y = self.relu(self.a(x))
        y = F.layer_norm(y, y.shape[-1:]) * self.scale - y.size(1) / 32
        y = self.relu(torch.add(self.b(y), other=0.25))
        y = self.relu(self.b(F.softmax(y, dim=y.dim() - 1) + y))
        left, right = y.chunk(2, 1)
        return self.out(left - right)


@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed"])
@pytest.mark.parametrize("arithmetic", ["totals", "increments"])
def test_increments_telescope_through_whatever_a_network_does(schedule, arithmetic):
    """Every operator that is not linear passes on f(X_t) - f(X_t-1), whatever else its arguments are."""
    torch.manual_seed(3)
    x = torch.rand(16, 8, dtype=torch.float64)
    q = acc.quantise(Mixed().double(), "n-qcfs", 4, 0.6)
    s = acc.simulate(acc.convert(q, schedule), x, 4 if schedule == "integrate-then-fire" else 14, arithmetic)
    assert s.units_that_differ == 0, "float64, Gaussian weights: no tie within rounding"
    assert min(s.nonzero_share.values()) > 0.05
    assert len(s.counts) == 3, "one layer of neurons for each call"


def test_a_module_called_twice_has_two_sets_of_neurons():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act, self.norm = nn.Linear(4, 4), acc.QCFS((), 4, "softplus", 0.8), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.a(self.act(self.norm(self.a(self.act(self.norm(self.a(x)))))))

    torch.manual_seed(0)
    network, x = Twice(), torch.rand(6, 4)
    network(x)
    folded = acc.fold_batch_norms(network)
    assert torch.allclose(folded(x), network.eval()(x), atol=1e-5)  # float32 rounding of a dozen operations
    s = acc.simulate(acc.convert(network, "integrate-then-fire"), x, 4)
    assert len(s.counts) == 2
    assert torch.equal(s.logits[-1], folded(x))


class Residual(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.a, self.body = nn.Linear(4, 4), body

    def forward(self, x):
        return self.body(self, x)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            lambda self, x: F.dropout(F.relu(self.a(x)), 0.5),
            "dropout: dropout that is on in evaluation, too, is random",
        ),
        (lambda self, x: F.relu(self.a(x)) + torch.rand(4), "Residual draws random numbers in evaluation"),
        (lambda self, x: torch.fft.fft(F.relu(self.a(x))), r"fft.* cannot be converted: its kind is not known"),
        (lambda self, x: (lambda y: F.relu(y, inplace=True) + y)(self.a(x)), "overwrites a value that is used again"),
    ],
)
def test_what_tracing_would_change_silently_is_refused(body, message):
    with pytest.raises(acc.InputError, match=message) as error:
        acc.quantise(Residual(body), "s-qcfs")
    assert "\n" not in str(error.value)


def test_a_write_through_an_alias_shows_on_a_sample():
    """`y += x` changes every name of y; a view that is read afterwards is refused with its line."""

    def named_twice(self, x):
        y = self.a(x)
        z = y
        y += x
        return F.relu(y) + z

    def viewed(self, x):
        y = self.a(x)
        z = y[:, 1:]
        y += x
        return F.relu(y)[:, 1:] + z

    network, x = Residual(named_twice), torch.rand(3, 4)
    q = acc.quantise(network, "s-qcfs", 2**16, "max", x)
    assert torch.allclose(acc.answer(q, x), acc.answer(network, x), rtol=0, atol=1e-4)  # a step of 2^16 levels
    with pytest.raises(acc.InputError, match=r"test_modules.py:\d+ reads a value that was overwritten under another"):
        acc.quantise(Residual(viewed), "s-qcfs", sample=x)


def test_a_batch_norm_folded_into_a_linear_layer_refuses_tokens():
    """On [batch, N, F] it would act on axis 1; with N = F only this check detects it."""
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), acc.QCFS((), 4, "softplus", 1.0))
    with pytest.raises(acc.InputError, match=r"must be \[batch, F\], got \(2, 4, 5\)"):
        acc.answer(acc.fold_batch_norms(network), torch.rand(2, 4, 5))


def test_counts_that_a_format_cannot_hold_are_refused():
    network = nn.Sequential(acc.QCFS((), 4, "raw", 1.0), nn.Flatten())
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    with pytest.raises(acc.InputError, match=r"steps must be at most 256 in torch\.bfloat16, got 257"):
        acc.simulate(acc.convert(network.bfloat16(), "streaming"), x, 257)
    wide = nn.Sequential(acc.QCFS((), 300, "raw", 1.0), nn.Flatten())
    with pytest.raises(acc.InputError, match="levels must be at most 256"):
        acc.simulate(acc.convert(wide, "signed").bfloat16(), x, 4)


def test_a_copied_spiking_network_simulates(images):
    spiking = acc.convert(from_maximum(MLP((1, 8, 8), 10, 0.25), images), "signed")
    first, second = (acc.simulate(s, images, 20, "increments").logits for s in (spiking, copy.deepcopy(spiking)))
    assert torch.equal(first, second)


def test_images_of_integers_and_empty_batches(images):
    """Integers are refused: only the network's own loading knows how they are scaled."""
    spiking = acc.convert(from_maximum(MLP((1, 8, 8), 10, 0.25), images), "signed")
    with pytest.raises(acc.InputError, match="must hold plain real numbers"):
        acc.simulate(spiking, (images * 3).long(), 20)
    with pytest.raises(acc.InputError, match="at least one"):
        acc.simulate(spiking, images[:0], 4)


class Joined(nn.Module):
    """Branches joined, halved and subtracted; a constant added; layer norm; a product; linear as a function."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.dim = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(8, 5)
        self.norm, self.shift, self.out = nn.LayerNorm(5), nn.Parameter(torch.ones(8)), nn.Parameter(torch.rand(3, 5))

    def forward(self, x):
        a, b = F.relu(self.a(x)), F.relu(self.b(x))
        both = torch.cat([a, b - 0.5 * a], dim=1) + self.shift
        hidden = F.relu(self.dim(both))
        return F.linear(self.norm(hidden) * hidden, self.out)


@pytest.mark.parametrize("schedule", ["streaming", "integrate-then-fire", "signed"])
def test_operations_of_a_network_with_everything(schedule):
    torch.manual_seed(0)
    x = torch.rand(8, 6)
    spiking = acc.convert(acc.quantise(Joined(), "s-qcfs", 4, "max", x), schedule)
    assert acc.summary(spiking).endswith("real-valued operators: LayerNorm (norm), mul (mul_1)"), acc.summary(spiking)
    for arithmetic in ("totals", "increments") if schedule != "streaming" else ("increments",):
        s = acc.simulate(spiking, x, 4 if schedule != "signed" else 20, arithmetic)
        if schedule != "streaming":
            assert s.units_that_differ < 0.02, arithmetic  # type: ignore[operator]  # float32: a tie may fall the other way
    cost, (a, b, h) = acc.energy(spiking, x, s), (count.double() for count in s.emitted.values())
    steps = s.latency if schedule == "signed" else 4
    assert cost.macs["a"] == cost.macs["b"] == 6 * 4, "the image, once"
    assert cost.acs["add"] == 0, "a constant is no spike"
    assert cost.macs["dim"] == 0
    assert cost.acs["dim"] == pytest.approx(float(2 * a.sum() + b.sum()) * 5 / len(x)), "a in two places, b in one"
    assert cost.ann_macs["linear"] == 3 * 5
    assert cost.macs["linear"] == 3 * 5 * steps
    assert min(float(part.sum()) for part in (a, b, h)) > 0


@pytest.mark.parametrize("schedule", ["streaming", "integrate-then-fire", "signed"])
def test_one_run_for_several_T_is_that_many_runs(schedule):
    """Logits, counts, spikes and settling of each T, one after another, as if each had run alone."""
    torch.manual_seed(0)
    x = torch.rand(8, 6)
    spiking = acc.convert(acc.quantise(Joined(), "s-qcfs", 4, "max", x), schedule)
    together = dict(simulate_at(spiking, x, [1, 2, 4, 7]))
    assert list(together) == [1, 2, 4, 7]
    for steps, s in together.items():
        alone = acc.simulate(spiking, x, steps)
        for field in dataclasses.fields(alone):
            ours, theirs = getattr(s, field.name), getattr(alone, field.name)
            same = torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else str(ours) == str(theirs)
            assert same, f"{field.name} at T = {steps}"
        assert all(torch.equal(s.counts[name], count) for name, count in alone.counts.items())
    assert sum(int(count.sum()) for count in together[7].counts.values()) > 0
