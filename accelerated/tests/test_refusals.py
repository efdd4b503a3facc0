"""What is no fixed graph of a batch of samples is refused, in one line that names the place."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accelerated as acc

from .plain import IMAGES, Plain

BY_BATCH = {
    "half of it": lambda self, y: self.b(torch.cat([y[: len(y) // 2] * 2, y[len(y) // 2 :]])),
    "its root": lambda self, y: self.b(y) * int(len(y) ** 0.5),
    "at most three": lambda self, y: self.b(y) * min(len(y), 3),
    "more than three": lambda self, y: self.b(y) * (2 if len(y) > 3 else 1),
    "one": lambda self, y: self.b(y) * (2 if len(y) == 1 else 1),
    "calls": lambda self, y: self.b(y) * _count(self),
    "parts of sixteen": lambda self, y: torch.cat([self.b(part) for part in y.split(16)]),
    "slices of sixteen": lambda self, y: torch.cat([self.b(y[i : i + 16]) for i in range(0, len(y), 16)]),
    "what it kept": lambda self, y: self.b(y) + _before(self, y),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_BATCH)
def test_what_depends_on_the_batch_in_another_way_is_refused(name):
    with pytest.raises(acc.InputError, match=r"differently|other images or batches|other arguments|16 images at"):
        acc.quantise(Plain(BY_BATCH[name]).eval(), "s-qcfs", 4, "max", IMAGES)


def test_the_graph_answers_the_whole_sample():
    """A number that Python compares with the size of the batch is seen where the sample is larger."""
    network = Plain(lambda self, y: self.b(y) * (2 if len(y) > 30 else 1)).eval()
    with pytest.raises(acc.InputError, match="answers a batch of 40 differently"):
        acc.quantise(network, "s-qcfs", 4, "max", IMAGES.repeat(8, 1, 1, 1))


class BySize(nn.Module):
    """Divides by a size that it asks for, or leaves that to torch."""

    def __init__(self, asks):
        super().__init__()
        self.a, self.c, self.asks = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4), asks

    def forward(self, x):
        y = F.relu(self.a(x))
        y = y.sum((2, 3)) / (y.shape[2] * y.shape[3]) if self.asks else y.mean((2, 3)).view(len(y), -1)
        return self.c(y.view(y.size(0), -1))


def test_images_of_another_size_are_answered_rightly_or_refused():
    x, larger = torch.rand(6, 3, 8, 8), torch.rand(2, 3, 16, 16)
    network = BySize(asks=False).eval()
    q = acc.quantise(network, "qcfs", 2**14, "max", x)
    assert torch.allclose(acc.answer(q, larger), acc.answer(network, larger), atol=1e-3)  # 2^14 levels
    q = acc.quantise(BySize(asks=True).eval(), "s-qcfs", 4, "max", x)
    spiking, line = acc.convert(q, "signed"), r"have the sample's shape \(3, 8, 8\), got .*test_refusals.py:\d+"
    for call in (q, copy.deepcopy(q), spiking, lambda y: acc.answer(q, y), lambda y: acc.simulate(spiking, y, 4)):
        with pytest.raises(acc.InputError, match=line):
            call(larger)


REFUSED = {
    "numbers decide": (lambda self, y: self.b(y) if y.mean() > 0 else y, "network does depends on the numbers of"),
    "item": (lambda self, y: self.b(y) * y.max().item(), r"depends on the numbers of an image \(item\)"),
    "NumPy": (lambda self, y: self.b(y) + torch.from_numpy(y.numpy()), r"depends on the numbers of an image \(numpy\)"),
    "each image alone": (lambda self, y: torch.stack([self.b(i[None])[0] for i in y]), "for other images"),
    "a fixed batch": (lambda self, y: self.b(y.view(5, 4, 8, 8)), "does not answer a batch of shape"),
    "random slopes": (lambda self, y: F.rrelu(self.b(y), 0.1, 0.101, training=True), "draws random numbers"),
    "random numbers of Python": (lambda self, y: self.b(y) * random.random(), "draws random numbers in evaluation"),
    "written unseen": (lambda self, y: _unseen(self.b(y)), "as recorded answers a batch of 3 differently"),
    "random": (lambda self, y: self.b(y) + torch.rand(4, 1, 1), r"test_refusals.py:\d+: rand draws random numbers"),
    "always dropping": (lambda self, y: F.dropout(self.b(y), 0.5), "draws random numbers in evaluation"),
    "half precision": (lambda self, y: _autocast(self, y), r"test_refusals.py:\d+: the network uses autocast"),
    "not known": (lambda self, y: torch.fft.fft2(self.b(y)).real, r"fft2 .*cannot be converted \(test_refusals"),
    "other bits": (lambda self, y: y.view(torch.int32).view(torch.float32), "reads numbers as another format"),
    "raises": (lambda self, y: [][1], r"IndexError|list index out of range \(test_refusals.py:\d+\)"),
    "returns nothing": (lambda self, y: self.b(y) * _count(self), "answers the same images differently when"),
    "vmap": (lambda self, y: torch.func.vmap(lambda r: self.b(r) * r.sum())(y), r"py:\d+ works within torch"),
}  # fmt: skip


def _autocast(self, y):
    with torch.autocast("cpu", torch.bfloat16):
        return self.b(y).float()


def _unseen(y):
    """Written through `data`, which torch does not count as a change."""
    y.data.mul_(1.0007)
    return y


def _before(self, y):
    """What the network kept of the last call; other sizes of batches do not fit it."""
    before = self.__dict__.get("kept", torch.zeros(1))
    self.__dict__["kept"] = y.mean((1, 2, 3), keepdim=True)
    return before


def _count(self):
    self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
    return float(self.calls)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_fixed_graph_is_refused_by_name(name):
    body, message = REFUSED[name]
    with pytest.raises(acc.InputError, match=message) as error:
        acc.quantise(Plain(body).eval(), "s-qcfs", 4, "max", IMAGES)
    assert "\n" not in str(error.value)


def test_an_exception_without_text_is_named():
    """A network of somebody's that raises, and says nothing."""

    class Silent(nn.Module):
        def forward(self, x):
            raise NotImplementedError

    with pytest.raises(acc.InputError, match="NotImplementedError"):
        acc.quantise(Silent(), sample=torch.ones(1, 2))
