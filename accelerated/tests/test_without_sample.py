"""Networks that are traced without a sample: what torch.fx would get wrong in silence is refused."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accelerated as acc


class Traced(nn.Module):
    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(20, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.relu, self.calls, self.kept, self.body = nn.ReLU(inplace=True), 0, torch.zeros(8), body

    def forward(self, x):
        return self.c(self.body(self, x))


def _aliased(self, x):
    y = F.relu(self.a(x))
    z = y
    z *= 3
    return y


def _through_a_view(self, x):
    y = self.a(x)
    self.relu(y[:, :4])
    return y


def _view_read_later(self, x):
    y = self.a(x)
    part = y[:, :4]
    y -= 1
    return F.relu(y) + part.sum(1, keepdim=True)


def _counted(self, x):
    self.calls += 1
    return F.relu(self.a(x)) * self.calls


def _kept(self, x):
    self.kept = self.kept + self.a(x)
    return F.relu(self.kept)


REFUSED = {
    "an alias": (_aliased, "mul overwrites a value that is used again"),
    "a view": (_through_a_view, "relu overwrites a value that is used again"),
    "a view read later": (_view_read_later, "sub overwrites a value that is used again"),
    "a counter": (_counted, "keeps something from one call to the next"),
    "a value kept": (_kept, "keeps something from one call to the next"),
    "random": (lambda self, x: F.relu(self.a(x)) * random.random(), "draws random numbers in evaluation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_trace_would_freeze_or_miss_is_refused(name):
    body, message = REFUSED[name]
    with pytest.raises(acc.InputError, match=message):
        acc.quantise(Traced(body).eval(), "s-qcfs")


def _residual(self, x):
    y = F.relu(self.a(x))
    z = self.b(y)
    z += y
    return self.relu(z)


def _doubled_twice(self, x):
    y = F.relu(self.a(x))
    y *= 2
    y *= 2
    return y


@pytest.mark.parametrize("body", [_residual, _doubled_twice])
def test_what_nobody_reads_again_may_be_overwritten(body):
    network, x = Traced(body).eval(), torch.randn(9, 20, generator=torch.Generator().manual_seed(1))
    q = acc.quantise(network, "qcfs", 2**14, 20.0)
    assert torch.allclose(acc.answer(q, x), acc.answer(network, x), atol=1e-2)  # 2^14 levels of 20
