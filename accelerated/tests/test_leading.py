"""The first axis: the batch, rows of each image after those of the one before, or something else."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accelerated as acc
from accelerated.activation import QCFS

from .plain import IMAGES, Plain, exact


class Mixing(nn.Module):
    def __init__(self, mix):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.mix = nn.Linear(192, 30), nn.Linear(30, 30), nn.Linear(30, 4), mix

    def forward(self, x):
        return self.c(F.relu(self.b(self.mix(F.relu(self.a(x.flatten(1)))))))


def test_images_that_are_mixed_are_refused_while_streaming_alone():
    network = Mixing(lambda y: y - y.mean(0)).eval()
    q = acc.quantise(network, "cs-qcfs", 4, "max", IMAGES)
    with pytest.raises(acc.InputError, match=r"mean \(mean\) .*test_leading.py:\d+\) does not keep the images of"):
        acc.simulate(acc.convert(q, "streaming"), IMAGES, 4)
    exact(network)


def test_a_batch_that_does_not_lead_is_stepped_alone():
    """Tokens first, then the batch: nothing is mixed, but time cannot be folded into the first axis."""

    def tokens_first(y):
        return y.reshape(-1, 2, 15).transpose(0, 1).softmax(0).transpose(0, 1).flatten(1)

    q = acc.quantise(Mixing(tokens_first).eval(), "cs-qcfs", 4, "max", IMAGES)
    spiking = acc.convert(q, "streaming")
    s, stepped = (acc.simulate(spiking, IMAGES, 6, record=record) for record in ((), list(spiking.layers)))
    assert all(torch.equal(s.counts[name], count) for name, count in stepped.counts.items())


class Windows(nn.Module):
    """Attention within the four quarters of an image, which are rows of the batch meanwhile, in one of two orders."""

    def __init__(self, images_lead):
        super().__init__()
        self.images_lead, self.qkv, self.act, self.out = images_lead, nn.Linear(4, 12), nn.ReLU(), nn.Linear(4, 4)

    def forward(self, x):
        b, c, h, w = x.shape
        tokens = x.reshape(b, c, 2, h // 2, 2, w // 2)
        order = (0, 2, 4, 3, 5, 1) if self.images_lead else (2, 4, 0, 3, 5, 1)
        q, k, v = self.qkv(tokens.permute(order).reshape(-1, h * w // 4, c)).chunk(3, -1)
        y = self.out(self.act((q @ k.transpose(1, 2)).softmax(-1) @ v))
        shape = (b, 2, 2, h // 2, w // 2, c) if self.images_lead else (2, 2, b, h // 2, w // 2, c)
        return y.reshape(shape).permute((0, 5, 1, 3, 2, 4) if self.images_lead else (2, 5, 0, 3, 1, 4)).reshape(x.shape)


@pytest.mark.parametrize("images_lead", [True, False])
def test_parts_of_images_as_rows_of_the_batch(images_lead):
    """Exact in both orders; factors of products are quantised where images lead; each image settles by itself."""
    torch.manual_seed(0)
    network = Plain(between=Windows(images_lead)).eval()
    q = exact(network)
    factors = acc.summary(q).count("4 QCFS on factors of products")
    assert factors == images_lead
    layers = [module for module in q.modules() if isinstance(module, QCFS)]
    assert len(layers) == 3 + 4 * images_lead


def settled_at(spiking, x):
    s = acc.simulate(spiking, x, spiking.schedule.exact_at(spiking.latency_depth, 16, -16))
    assert s.settled_at is not None
    return s.settled_at.tolist()


@pytest.mark.parametrize("images_lead", [True, False])
def test_each_image_settles_by_itself_where_images_lead(images_lead):
    """Rows that belong to no image count for every one: no image settles too early."""
    torch.manual_seed(0)
    x = IMAGES * torch.tensor([1.0, 0.1, 0.5, 0.05, 1.0]).reshape(5, 1, 1, 1)
    q = acc.quantise(Plain(between=Windows(images_lead)).double().eval(), "cs-qcfs", 16, "max", x.double())
    spiking = acc.convert(q, "signed")
    together, alone = settled_at(spiking, x.double()), [settled_at(spiking, image[None].double())[0] for image in x]
    assert len(set(alone)) > 1
    if images_lead:
        assert together == alone
    else:
        assert all(late >= early for late, early in zip(together, alone, strict=True))


def test_windows_are_stepped_and_folded_alike():
    torch.manual_seed(0)
    q = acc.quantise(Plain(between=Windows(True)).eval(), "cs-qcfs", 4, "max", IMAGES)
    for module in q.modules():
        if isinstance(module, QCFS):
            module.lowest = 0  # negative levels need single steps
    spiking = acc.convert(q, "streaming")
    s, stepped = (acc.simulate(spiking, IMAGES, 6, record=record) for record in ((), list(spiking.layers)))
    assert all(torch.equal(s.counts[name], count) for name, count in stepped.counts.items())
    # the same sums of float32 in batches of other sizes, which PyTorch may take in another order
    assert torch.allclose(s.logits, stepped.logits, rtol=0, atol=1e-6)


class TokensFirst(nn.Module):
    """Tokens are the first axis between the layers; most numbers stay below 0."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.a.weight.data.abs_().mul_(3)
        self.a.bias.data.fill_(-4.0)

    def forward(self, x):
        y = F.relu(self.a(x)).transpose(0, 1)
        return self.out(F.relu(self.b(y)).transpose(0, 1).mean(1))


def test_blank_images_hide_nothing():
    """As many tokens as images, and a first image that excites no neuron: what it hides is found with others."""
    x = 3 * torch.rand(4, 4, 6, generator=torch.Generator().manual_seed(1))
    q = acc.quantise(TokensFirst().eval(), "cs-qcfs", 4, sample=x)
    x[0] = 0
    for first in (x, torch.zeros_like(x)):
        spiking = acc.convert(q, "streaming")
        acc.simulate(spiking, first, 4)
        s, stepped = (acc.simulate(spiking, x, 8, record=record) for record in ((), list(spiking.layers)))
        assert all(torch.equal(s.counts[name], count) for name, count in stepped.counts.items())
        assert torch.equal(s.logits, stepped.logits)


@pytest.mark.parametrize("mix", [lambda y: y - y[-1:], lambda y: y - y[:1], lambda y: y.flip(0).cumsum(0).flip(0)])
def test_images_that_read_one_other_are_refused_while_streaming(mix):
    q = acc.quantise(Mixing(mix).eval(), "cs-qcfs", 4, "max", IMAGES)
    with pytest.raises(acc.InputError, match=r"does not keep the images of a batch apart"):
        acc.simulate(acc.convert(q, "streaming"), IMAGES, 4)


class Regions(nn.Module):
    """Mixes the images of a batch only where one of four regions of an image is bright."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        y = F.relu(self.a(F.relu(F.avg_pool2d(x, 16).flatten(1) - 0.7) * 10))
        return self.c(F.relu(self.b(y - y.mean(0))))


@pytest.mark.parametrize("count", [1, 5])
def test_what_mixes_images_is_seen_where_no_drawn_image_excites_it(count):
    x = torch.rand(40, 1, 2, 2).repeat_interleave(16, 2).repeat_interleave(16, 3)
    spiking = acc.convert(acc.quantise(Regions().eval(), "cs-qcfs", 4, sample=x), "streaming")
    with pytest.raises(acc.InputError, match=r"does not keep the images of a batch apart"):
        acc.simulate(spiking, x[:count], 4)


def test_a_masks_infinities_mix_nothing():
    """An infinite bound in front of an activation: images stay apart, and streaming takes the network."""
    mask = torch.zeros(30)
    mask[3] = -torch.inf
    q = acc.quantise(Mixing(lambda y: y + F.relu(y - 0.1 + mask)).eval(), "cs-qcfs", 4, sample=IMAGES)
    assert acc.simulate(acc.convert(q, "streaming"), IMAGES, 4).logits.isfinite().all()


TURNED = {  # a ReLU on a value whose first axis is not the batch
    "transposed": (lambda self, y: F.relu(self.b(y).flatten(1).t()).t().unflatten(1, (4, 8, 8)), ()),
    "channels first": (lambda self, y: F.relu(self.b(y).transpose(0, 1)).transpose(0, 1), ()),
    "one group for each image": (lambda self, y: F.relu(self.b(y).flatten(0, 1)[None])[0].unflatten(0, (-1, 4)), ()),
    "tokens first": (
        lambda self, y: F.relu(self.d(y.flatten(2).permute(2, 0, 1))).permute(1, 2, 0).unflatten(2, (8, 8)), (4,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TURNED)
def test_a_threshold_belongs_to_no_place_in_the_batch(name):
    body, shape = TURNED[name]
    network = Plain(body)
    network.d = nn.Linear(4, 4)
    q = acc.quantise(network.eval(), "cs-qcfs", 4, "max", IMAGES)
    assert q.get_submodule("relu_1").parameter.shape == shape
    whole = acc.answer(q, IMAGES)
    assert torch.allclose(
        torch.cat([acc.answer(q, image[None]) for image in IMAGES]), whole, atol=1e-6
    )  # sums in another order
    exact(network)
