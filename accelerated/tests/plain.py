"""A small network that tests change in one place, and what exactness means for any network."""

import torch
import torch.nn.functional as F
from torch import nn

import accelerated as acc

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """Two convolutions and a read-out; `between` and `body` are what a test changes."""

    def __init__(self, body=None, between=None):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)
        self.body, self.between = body, between or nn.Identity()

    def forward(self, x):
        y = self.between(F.relu(self.a(x)))
        y = self.b(y) if self.body is None else self.body(self, y)
        return self.fc(F.relu(y).mean((2, 3)))


def tensors(outputs):
    """The tensors among the outputs of a network."""
    return [value for value in torch.utils._pytree.tree_leaves(outputs) if isinstance(value, torch.Tensor)]


def exact(network, x=IMAGES, steps=4, close=1e-2, alive=0.02):
    """With 2^14 levels the network's own answer; with few levels equal bits under both exact schedules."""
    was = network.training
    fine = acc.quantise(network, "qcfs", 2**14, "max", x)
    assert fine.training == network.training == was
    with torch.no_grad():
        wanted = acc.answer(network, x)
    got = acc.answer(fine, x)
    for ours, theirs in zip(*map(tensors, (got, wanted)), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=close * float(theirs.abs().max()))
    q = acc.fold_batch_norms(acc.quantise(network, "cs-qcfs", steps, "max", x))
    for schedule in ("integrate-then-fire", "signed"):
        spiking = acc.convert(q, schedule)
        s = acc.simulate(spiking, x, spiking.schedule.exact_at(spiking.latency_depth, steps, -steps))
        assert min(s.nonzero_share.values()) > alive, "dead layers are equal for free"
        pairs = zip(tensors(s.logits), tensors(acc.answer(q, x)), strict=True)
        assert all(torch.equal(ours[-1], theirs) for ours, theirs in pairs), schedule
    return q


class Several(nn.Module):
    """A U-shaped network with outputs in a dictionary, a list and a tuple."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.up = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 8, 3, 2, 1),
            nn.ConvTranspose2d(8, 4, 2, 2),
        )
        self.out, self.fc = nn.Conv2d(8, 2, 1), nn.Linear(8, 3)

    def forward(self, x, scale=None):
        low = F.relu(self.a(x))
        high = F.relu(self.b(low))
        joined = torch.cat([low, F.relu(self.up(high))], 1)
        return {"out": self.out(joined), "more": [self.fc(high.mean((2, 3))), (high,)]}
