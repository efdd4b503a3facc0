"""Unusual networks that are converted all the same, or refused in one line."""

# mypy: disable-error-code="union-attr, operator"

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accelerated as acc

from .plain import IMAGES, Plain, exact

BODIES = {
    "one number for each image": lambda self, y: self.b(y) + F.relu(y.mean((1, 2, 3)) * 4)[:, None, None, None],
    "a token that sees none": lambda self, y: self.b(y) + _masked(F.relu(y).flatten(2)).unflatten(2, (8, 8)),
    "a difference that begins with a constant": lambda self, y: torch.diff(
        F.relu(self.b(y)), prepend=self.start.expand(len(y), 4, 8, 1)
    ),
    "whole numbers by example": lambda self, y: F.relu(self.b(y) * 40).type_as(self.whole).type_as(y),
    "whole numbers by another example": lambda self, y: F.relu(self.b(y) * 40).to(self.whole).type_as(y),
    "a sum of whole numbers": lambda self, y: self.b(y) + F.relu(self.b(y) * 4).cumsum(1, dtype=torch.int32).float(),
}


def _masked(tokens):
    """Attention in which the third token sees no other."""
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[2] = False
    return F.scaled_dot_product_attention(tokens, tokens, tokens, attn_mask=mask)


def unusual(body):
    network = Plain(body)
    network.start, network.whole = (
        nn.Buffer(torch.full((1, 1, 1, 1), -0.5)),
        nn.Buffer(torch.zeros(1, dtype=torch.int64)),
    )
    return network.eval()


@pytest.mark.parametrize("name", BODIES)
def test_each_is_exact_on_totals_and_on_increments(name):
    q = exact(unusual(BODIES[name]).double(), IMAGES.double())
    x = IMAGES.double()
    for schedule in ("integrate-then-fire", "signed"):
        spiking = acc.convert(q, schedule)
        steps = spiking.schedule.exact_at(spiking.latency_depth, 4, -4) + 20 * spiking.schedule.settles
        s = acc.simulate(spiking, x, steps, "increments")
        assert torch.allclose(s.logits[-1], acc.answer(q, x), rtol=0, atol=1e-9), schedule  # increments drift in floats


class Outputs(nn.Module):
    """Outputs that are no real numbers, or none at all."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.c = nn.Linear(20, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.c(F.relu(self.a(x))), x > 0, torch.zeros(0)


def test_outputs_that_are_no_real_numbers():
    network, x = Outputs().eval(), torch.randn(9, 20)
    q = acc.quantise(network, "s-qcfs", 4, sample=x)
    s = acc.simulate(acc.convert(q, "signed"), x, 6)
    assert torch.equal(s.logits[0][-1], q(x)[0])
    assert torch.equal(s.logits[1][-1], x > 0)


def test_a_half_precision_scale_does_not_round_the_images():
    network = Plain(lambda self, y: self.b(y) * self.scale.float())
    first = {"scale": nn.Parameter(torch.ones(1, dtype=torch.float16)), **dict(network._parameters)}
    network._parameters.clear()
    network._parameters.update(first)
    exact(network.eval())


def _infinite():
    network = nn.Sequential(nn.Linear(20, 4), nn.LeakyReLU(), nn.Linear(4, 4))
    network[0].register_forward_hook(lambda module, inputs, y: y + torch.tensor([0.0, 0.0, 0.0, -torch.inf]))
    return network


def _large():
    network = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
    network[0].weight.data.mul_(500)
    return network.half()


@pytest.mark.parametrize(
    ("make", "levels", "message"),
    [
        (nn.GELU, 4, "the network has no activation to quantise"),
        (lambda: nn.Linear(20, 3), 4, "the network has no activation to quantise"),
        (_infinite, 4, "the largest size of 1 over the sample must be finite, got inf"),
        (_large, 128, r"theta L of '1' in torch.float16 must be positive and finite, got inf"),
    ],
)
def test_what_cannot_be_quantised_gets_one_line(make, levels, message):
    torch.manual_seed(0)
    network = make().eval()
    dtype = next(network.parameters(), torch.zeros(())).dtype
    with pytest.raises(acc.InputError, match=message) as error:
        acc.quantise(network, "cs-qcfs", levels, sample=torch.randn(9, 20).to(dtype))
    assert "\n" not in str(error.value)


def test_an_answer_that_overflowed_is_no_answer():
    network = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Linear(2, 1, bias=False)).eval()
    network[2].weight.data.copy_(torch.tensor([[1.0, -1.0]]))
    q, x = acc.quantise(network, "qcfs", 8, 60000.0), torch.full((1, 2), 6e4)
    assert acc.answer(q, x) == 0
    with pytest.raises(acc.InputError, match=r"the answer is not a number \(NaN\): a value overflowed in torch.floa"):
        acc.answer(q.half(), x)


def test_reconstruction_of_other_networks_and_formats():
    class Mean(Outputs):
        def forward(self, x):
            return super().forward(x)[0].mean()

    network, x = Mean().eval(), torch.randn(40, 20)
    q = acc.quantise(network, "s-qcfs", 2, 0.2, x)
    learned = acc.reconstruct(q, network, x, steps=50, rate=1e-2)
    off = [float((acc.answer(n, x) - acc.answer(network, x)).abs()) for n in (q, learned)]
    assert off[1] < 0.5 * off[0]
    half = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 2)).half().eval()
    with pytest.raises(acc.InputError, match=r"reconstruction learns in float32 or float64, got torch.float16"):
        acc.reconstruct(acc.quantise(half, "s-qcfs", 2, sample=x.half()), half, x.half())
