"""What is no fixed graph of a batch of samples is refused, in one line that names the place."""

import pytest
import torch
import torch.nn.functional as F

import accelerated as acc

from .plain import IMAGES, Plain

BY_BATCH = {
    "half of it": lambda self, y: self.b(torch.cat([y[: len(y) // 2] * 2, y[len(y) // 2 :]])),
    "its root": lambda self, y: self.b(y) * int(len(y) ** 0.5),
    "at most three": lambda self, y: self.b(y) * min(len(y), 3),
    "more than three": lambda self, y: self.b(y) * (2 if len(y) > 3 else 1),
    "one": lambda self, y: self.b(y) * (2 if len(y) == 1 else 1),
    "calls": lambda self, y: self.b(y) * _count(self),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_BATCH)
def test_what_depends_on_the_batch_in_another_way_is_refused(name):
    with pytest.raises(acc.InputError, match=r"differently|other images or batches|other arguments"):
        acc.quantise(Plain(BY_BATCH[name]).eval(), "s-qcfs", 4, "max", IMAGES)


REFUSED = {
    "numbers decide": (lambda self, y: self.b(y) if y.mean() > 0 else y, "network does depends on the numbers of"),
    "item": (lambda self, y: self.b(y) * y.max().item(), r"depends on the numbers of an image \(item\)"),
    "NumPy": (lambda self, y: self.b(y) + torch.from_numpy(y.numpy()), r"depends on the numbers of an image \(numpy\)"),
    "each image alone": (lambda self, y: torch.stack([self.b(i[None])[0] for i in y]), "for other images"),
    "a fixed batch": (lambda self, y: self.b(y.view(5, 4, 8, 8)), "does not answer a batch of shape"),
    "random": (lambda self, y: self.b(y) + torch.rand(4, 1, 1), r"test_refusals.py:\d+: rand draws random numbers"),
    "always dropping": (lambda self, y: F.dropout(self.b(y), 0.5), "dropout that is on in evaluation, too, is random"),
    "half precision": (lambda self, y: _autocast(self, y), r"test_refusals.py:\d+: the network uses autocast"),
    "not known": (lambda self, y: torch.fft.fft2(self.b(y)).real, r"fft2 .*cannot be converted \(test_refusals"),
    "other bits": (lambda self, y: y.view(torch.int32).view(torch.float32), "reads numbers as another format"),
    "raises": (lambda self, y: [][1], r"IndexError|list index out of range \(test_refusals.py:\d+\)"),
    "returns nothing": (lambda self, y: self.b(y) * _count(self), "answers a batch of 1 differently"),
    "vmap": (lambda self, y: torch.func.vmap(lambda r: self.b(r) * r.sum())(y), r"py:\d+ works within torch"),
}  # fmt: skip


def _autocast(self, y):
    with torch.autocast("cpu", torch.bfloat16):
        return self.b(y).float()


def _count(self):
    self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
    return float(self.calls)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_fixed_graph_is_refused_by_name(name):
    body, message = REFUSED[name]
    with pytest.raises(acc.InputError, match=message) as error:
        acc.quantise(Plain(body).eval(), "s-qcfs", 4, "max", IMAGES)
    assert "\n" not in str(error.value)
