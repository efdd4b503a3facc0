"""Where a network is quantised: behind any activation, on what transformers multiply and add, and nowhere twice."""

import pytest
import timm
import torch
from torch import nn

import accelerated as acc
from accelerated.activation import QCFS, Site
from accelerated.exports.weights import load_weights, save_weights
from accelerated.graph.operations import MODULES
from accelerated.graph.places import ACTIVATIONS, GATES

MODULE = {name: kind for kind, name in MODULES.items() if kind is not Site}
LEVELS = 4


def exact(network, x, *, least=0.02):
    """The quantised network, after both exact schedules gave its logits in every bit, in both arithmetics closely."""
    q = acc.fold_batch_norms(acc.quantise(network, "cs-qcfs", LEVELS, "max", x))
    for schedule in ("integrate-then-fire", "signed"):
        spiking = acc.convert(q, schedule)
        steps = spiking.schedule.exact_at(spiking.latency_depth, LEVELS, -LEVELS)
        s = acc.simulate(spiking, x, steps)
        assert torch.equal(s.logits[-1], acc.answer(q, x)), schedule
        assert s.units_that_differ == 0
        assert min(s.nonzero_share.values()) > least, "a dead layer is equal for free"
        s = acc.simulate(spiking, x, steps + 8 * spiking.schedule.settles, "increments")
        # float64, sums in another order
        assert torch.allclose(s.logits[-1], acc.answer(q, x), rtol=0, atol=1e-9), schedule
    return q


def quantisers(q):
    """{name: (shape of the threshold, lowest)} of a quantised network."""
    return {name: (tuple(m.parameter.shape), m.lowest) for name, m in q.named_modules() if isinstance(m, QCFS)}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_stays_and_its_output_is_quantised(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), MODULE[name](), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(40, 6, dtype=torch.float64)
    q = exact(network.double().eval(), x)
    label = MODULE[name].__name__
    assert acc.summary(q) == f"1 QCFS after {label}, 1 ReLU -> QCFS; real-valued operators: {label} (1)"
    shape, lowest = quantisers(q)["1_levels"]
    assert shape == (16,)
    assert (lowest < 0) == (name not in ("sigmoid", "hardsigmoid", "softplus", "leaky_relu"))  # -0.01 x is below 1/2
    fine = acc.quantise(network, "qcfs", 2**12, "max", x)
    # 4096 levels between the largest value and 0: at most half a step of 1/4096 in each of two layers, some 10 times
    # enlarged by weights
    assert torch.allclose(acc.answer(fine, x), acc.answer(network, x), rtol=0, atol=5e-3)


def test_the_lowest_level_is_that_of_the_least_value():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3)).eval()
    x = 3 * torch.randn(200, 6)
    for levels in (4, 16):
        q = acc.quantise(network, "qcfs", levels, "max", x)
        theta = float(q.get_parameter("1_levels.parameter").detach())
        least = float(network[1](network[0](x)).min().detach())
        assert quantisers(q)["1_levels"][1] == int(torch.floor(torch.tensor(least * levels / theta + 0.5)))
    assert quantisers(acc.quantise(network, "qcfs", 4))["1_levels"][1] == -4, "without a sample, nothing is known"


class Plain(nn.Module):
    """Two layers, and what a test does with the values between them."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(6, 8), nn.Linear(8, 3), between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


def test_swish_written_out_is_an_activation():
    torch.manual_seed(0)
    q = exact(Plain(lambda y: y * torch.sigmoid(y)).double(), torch.randn(40, 6, dtype=torch.float64))
    assert acc.summary(q) == "1 QCFS after mul; real-valued operators: sigmoid, mul"


@pytest.mark.parametrize("name", GATES)
def test_gates_stay_real(name):
    torch.manual_seed(0)
    gate = MODULE[name]()
    q = exact(Plain(lambda y: torch.relu(y) * gate(y + 1)).double(), torch.randn(40, 6, dtype=torch.float64))
    assert len(quantisers(q)) == 1


MOVED = {
    "by an index": lambda gate: gate[:, :, None, None],
    "by a view": lambda gate: gate.view(len(gate), 8, 1, 1),
    "twice": lambda gate: gate.unsqueeze(-1).unsqueeze(-1),
    "to the size of the image": lambda gate: gate[:, :, None, None].expand(-1, -1, 8, 8),
}


class SqueezeAndExcite(nn.Module):
    """A gate from linear layers, moved to the axes of what it gates."""

    def __init__(self, move):
        super().__init__()
        self.conv, self.a, self.b, self.move = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4), nn.Linear(4, 8), move

    def forward(self, x):
        y = torch.relu(self.conv(x))
        gate = torch.sigmoid(self.b(torch.relu(self.a(y.mean((2, 3))))))
        return (y * self.move(gate)).mean((2, 3))


@pytest.mark.parametrize("name", MOVED)
def test_gates_stay_real_wherever_they_are_moved(name):
    torch.manual_seed(0)
    q = exact(SqueezeAndExcite(MOVED[name]).double(), torch.rand(6, 3, 8, 8, dtype=torch.float64))
    assert len(quantisers(q)) == 2


def test_the_answer_itself_is_not_quantised():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3), nn.Sigmoid()).double()
    q = exact(network, torch.randn(40, 6, dtype=torch.float64))
    assert set(quantisers(q)) == {"1_levels"}


def encoder():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, activation="gelu", batch_first=True, norm_first=True)
    return nn.Sequential(nn.Linear(6, 16), layer, nn.Linear(16, 3)).double().eval()


def test_a_transformer_is_quantised_where_it_multiplies_and_adds():
    x = torch.randn(5, 7, 6, dtype=torch.float64)
    q = exact(encoder(), x)
    said = acc.summary(q)
    assert said.startswith("4 QCFS on factors of products, 2 QCFS on residual branches, 1 QCFS after gelu; real-valued")
    shapes = [shape for shape, _ in quantisers(q).values()]
    assert shapes.count((4, 1, 1)) == 4  # queries, keys, softmax, values: one threshold per head
    assert shapes.count((32,)) == 1  # feed-forward: one per neuron
    assert shapes.count(()) == 2
    softmax = [lowest for name, (_, lowest) in quantisers(q).items() if "softmax" in name]
    assert softmax == [0]
    assert not q.training
    assert all(module.training for module in acc.quantise(encoder().train(), "qcfs", 4, "max", x).modules())


def test_tokens_first_are_left_real():
    """A batch that is not the first axis: what has the tokens there stays real-valued, the rest converts."""
    x = torch.randn(5, 7, 6, dtype=torch.float64)
    layer = nn.TransformerEncoderLayer(16, 4, 32, activation="gelu", dropout=0).double().eval()
    torch.manual_seed(0)

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.layer, self.b = nn.Linear(6, 16), layer, nn.Linear(16, 3)

        def forward(self, x):
            return self.b(self.layer(self.a(x).transpose(0, 1)).transpose(0, 1))

    q = exact(First().double().eval(), x)
    assert all(shape == (4, 1, 1) for shape, _ in quantisers(q).values()), "attention has the batch in front"


def test_nothing_is_quantised_twice():
    x = torch.randn(5, 7, 6, dtype=torch.float64)
    q = acc.quantise(encoder(), "qcfs", 4, "max", x)
    with pytest.raises(acc.InputError, match="the network is quantised already, and has no other activation"):
        acc.quantise(q, "qcfs", 4, "max", x)

    def shared(y):
        y = torch.nn.functional.gelu(y)
        return y @ (y.transpose(1, 2) @ y) / 50

    q = exact(Plain(shared).double(), x)
    assert sorted(quantisers(q)) == ["gelu_levels", "matmul_levels"]


def test_a_value_times_itself_costs_what_its_spikes_meet():
    torch.manual_seed(0)
    x = torch.randn(5, 8, 6, dtype=torch.float64)
    spiking = acc.convert(exact(Plain(lambda y: y @ y / 20).double(), x), "signed")
    s = acc.simulate(spiking, x, 30)
    cost = acc.energy(spiking, x, s)
    (emitted,) = s.emitted.values()
    assert cost.acs["matmul"] == pytest.approx(2 * 8 * int(emitted.sum()) / 5)
    assert cost.macs["matmul"] == 0


def test_a_network_with_sites_says_itself_where():
    torch.manual_seed(0)
    x = torch.randn(5, 7, 6, dtype=torch.float64)

    class Network(Plain):
        def __init__(self):
            super().__init__(None)
            self.site = Site("neuron")

        def forward(self, x):
            y = self.a(x)
            return self.b(torch.softmax(self.site(y) @ y.transpose(1, 2), -1) @ y)

    q = acc.quantise(Network().double(), "qcfs", 4, "max", x)
    assert list(quantisers(q)) == ["site"]


@pytest.mark.parametrize("last", [True, False])
def test_channels_are_found_first_or_last(last):
    """[n, H, W, C] behind linear layers, [n, C, H, W] behind convolutions: one threshold per channel."""
    torch.manual_seed(0)
    move = (lambda x: x.permute(0, 2, 3, 1)) if last else nn.Identity()
    layer = nn.Linear(3, 5) if last else nn.Conv2d(3, 5, 1)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.b = layer, nn.Linear(5, 2)

        def forward(self, x):
            y = torch.nn.functional.gelu(self.layer(move(x)))
            return self.b(y.mean((1, 2) if last else (2, 3)))

    q = exact(Network().double(), torch.randn(6, 3, 4, 7, dtype=torch.float64))
    assert [shape for shape, _ in quantisers(q).values()] == [(5,) if last else (5, 1, 1)]


def test_biases_are_corrected_against_the_network_as_it_was():
    """What stands behind a GELU is compared with the GELU itself, not with a ReLU of it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 3)).eval()
    x = torch.randn(400, 6)
    q = acc.quantise(network, "qcfs", 3, "max", x)
    off = [(acc.answer(n, x) - acc.answer(network, x)).mean(0).abs().max() for n in (q, acc.correct_biases(q, x))]
    assert off[1] < 0.1 * off[0], off


def test_levels_below_zero_belong_to_the_state(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(40, 6)
    network = Plain(torch.tanh)
    q = acc.quantise(network, "qcfs", 4, "max", x)
    name, (_, lowest) = next(iter(quantisers(q).items()))
    assert lowest < 0
    other = acc.quantise(network, "qcfs", 4, "max", x)
    other.set_submodule(name, QCFS((), 4, "raw"))
    with pytest.raises(acc.InputError, match=f"{name}: the state has lowest {lowest}, the network 0"):
        other.load_state_dict(q.state_dict())
    save_weights(q, tmp_path / "q.safetensors")
    load_weights(acc.quantise(network, "qcfs", 4, "max", x), tmp_path / "q.safetensors")
    with pytest.raises(acc.InputError, match=f"has L = {lowest}..4, raw, the network L = 4, raw"):
        load_weights(other, tmp_path / "q.safetensors")


def test_levels_of_values_are_whole_counts_of_both_signs():
    torch.manual_seed(0)
    x = torch.randn(40, 6)
    q = acc.quantise(Plain(torch.tanh), "qcfs", 4, "max", x)
    for schedule, steps in (("integrate-then-fire", 4), ("signed", 20), ("streaming", 4)):
        s = acc.simulate(acc.convert(q, schedule), x, steps)
        (count,) = s.counts.values()
        assert count.min() < 0 < count.max()
        assert s.spikes_per_neuron >= count.abs().double().mean() - 1e-9  # a quotient, rounded
    theorem = acc.simulate(acc.convert(q, "integrate-then-fire"), x, 4, "theorem")
    stepped = acc.simulate(acc.convert(q, "integrate-then-fire"), x, 4)
    assert theorem.spikes_per_neuron == stepped.spikes_per_neuron
    assert all(torch.equal(theorem.emitted[name], spikes) for name, spikes in stepped.emitted.items())


class LayerNorm(nn.LayerNorm):
    """Not timm's, which has this name, too: it acts on channels."""

    def forward(self, input):
        return super().forward(input.transpose(1, -1)).transpose(1, -1)


@pytest.mark.parametrize("make", [LayerNorm, timm.layers.LayerNorm2d, timm.layers.BatchNormAct2d])
@pytest.mark.parametrize("hooked", [False, True])
def test_modules_that_look_like_others_keep_their_forward(make, hooked):
    torch.manual_seed(0)
    norm = make(6)
    norm.weight.data.uniform_()
    if hooked:
        norm.register_forward_hook(lambda module, given, y: y + 0.5 * given[0])
    network = nn.Sequential(nn.Conv2d(6, 6, 1), norm, nn.GELU(), nn.Conv2d(6, 6, 1)).double().eval()
    x = torch.randn(5, 6, 6, 6, dtype=torch.float64)
    exact(network, x)
    fine = acc.quantise(network, "qcfs", 2**12, "max", x)
    # 4096 levels, as above
    assert torch.allclose(acc.answer(fine, x), acc.answer(network, x), rtol=0, atol=5e-3)
