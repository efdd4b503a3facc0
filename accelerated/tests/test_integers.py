"""Networks in whole numbers: what modules they take, training, saving, and the same bits on every way to compute."""

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import accelerated as acc

from .whole_numbers import MEAN, STD, Mixed, images


def test_all_ways_to_compute_give_the_same_bits(whole, quantised):
    x = images(64, seed=1)
    wanted = acc.answer(whole, x)
    assert (wanted - acc.answer(quantised, x)).std() < 0.1 * wanted.std()
    ways = {
        "float64": acc.answer(acc.fold_batch_norms(whole).double(), x.double()).float(),
        "channels last": acc.answer(acc.fold_batch_norms(whole).to(memory_format=torch.channels_last),
                                    x.to(memory_format=torch.channels_last)),
        "one image at a time": torch.cat([acc.answer(whole, row) for row in x.split(1)]),
        "batches of 7": torch.cat([acc.answer(whole, row) for row in x.split(7)]),
        "in another order": acc.answer(whole, x.flip(0)).flip(0),
    }  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ways["one thread"] = acc.answer(whole, x)
    torch.set_num_threads(threads)
    for arithmetic in ("totals", "increments"):
        for schedule in ("halving", "signed", "integrate-then-fire"):
            s = acc.simulate(acc.convert(whole, schedule), x, None, arithmetic)
            assert min(s.nonzero_share.values()) > 0.02, "dead layers are equal for free"
            assert s.units_that_differ == 0
            ways[f"{schedule} on {arithmetic}"] = s.logits[-1]
    for name, spiking, images_, rows in on_events(whole, x):
        s = acc.simulate(spiking, images_, engine="event")
        assert s.units_that_differ == 0
        ways[f"{name}, on events"] = s.logits[-1].float()[rows]
    for way, answer in ways.items():
        assert torch.equal(answer, wanted), way
    assert torch.equal(wanted * 2**20, (wanted * 2**20).round()), "the answer is no multiple of a power of two"


def on_events(whole, x):
    """(name, spiking network, images, the order that puts them back) of runs spike by spike."""
    plain, double, last = acc.fold_batch_norms(whole), acc.fold_batch_norms(whole).double(), torch.channels_last
    rows, turned = torch.arange(len(x)), torch.arange(len(x)).flip(0)
    for schedule in ("halving", "signed", "integrate-then-fire", acc.halving((3, 2, 1), 2, 3)):
        name = str(schedule)
        yield name, acc.convert(plain, schedule), x, rows
        yield f"{name}, another order", acc.convert(plain, schedule), x.flip(0), turned
        yield f"{name}, float64", acc.convert(double, schedule), x.double(), rows
        formed = acc.fold_batch_norms(whole).to(memory_format=last)
        yield f"{name}, channels last", acc.convert(formed, schedule), x.to(memory_format=last), rows


def test_the_given_network_answers_differently_from_batch_to_batch(quantised):
    """Why whole numbers: in floats, other orders of summation give other bits. Without that, equality is no news."""
    x = images(64, seed=1)
    wanted, doubled = acc.answer(quantised, x), acc.answer(acc.fold_batch_norms(quantised).double(), x.double())
    alone = torch.cat([acc.answer(quantised, row) for row in x.split(1)])
    assert not torch.equal(alone, wanted) or not torch.equal(doubled.float(), wanted)


@pytest.mark.parametrize(
    "shape", [(64, 64, 3, 1, 1), (64, 64, 3, 2, 1), (16, 32, 5, 1, 2), (32, 32, 1, 1, 0), (96, 96, 3, 1, 1)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolutions_add_up_and_do_nothing_else(shape, layout):
    """No Winograd, no FFT: on whole numbers up to 2^24, float32 gives what int64 does (summed as float64)."""
    into, out, side, stride, padding = shape
    random = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (out, into, side, side), generator=random).float().to(memory_format=layout)
    for count in (1, 32):
        x = torch.randint(0, 17, (count, into, 32, 32), generator=random).float().to(memory_format=layout)
        wanted = F.conv2d(x.double(), weight.double(), None, stride, padding)
        assert wanted.abs().max() < 2**24
        assert torch.equal(F.conv2d(x, weight, None, stride, padding).double(), wanted)


def test_it_trains_on_and_stays_whole(quantised):
    """Three bits lose accuracy on labels of the network's own; training wins it back, and the result is whole."""
    x = images(256, seed=2)
    balanced = acc.fold_batch_norms(quantised)
    with torch.no_grad():
        logits, read = acc.answer(quantised, x), dict(balanced.named_parameters())
        read["read.weight"].div_(logits.std(0)[:, None])
        read["read.bias"].sub_(logits.mean(0)).div_(logits.std(0))
    labels = acc.answer(balanced, x).argmax(1)
    network = acc.integers(balanced, x, 3, MEAN, STD)
    before = acc.evaluate(network, [(x, labels)])
    thresholds = {name: value.clone() for name, value in network.named_parameters() if not value.requires_grad}
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.01, 0.9)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimiser.step()
    after = acc.evaluate(network, [(x, labels)])
    assert after > before + 0.1, (before, after)
    kept = dict(network.named_parameters())
    assert thresholds
    assert all(torch.equal(kept[name], value) for name, value in thresholds.items())
    spiking = acc.convert(network, "halving")
    weights = [p for name, p in spiking.named_parameters() if name.endswith("weight")]
    assert all(torch.equal(w, w.round()) for w in weights)
    assert {value for w in weights for value in w.abs().unique().tolist()} == {0.0, 32.0, 64.0, 96.0}, "not 3 bits"
    s = acc.simulate(spiking, x, None, "increments")
    assert torch.equal(s.logits[-1], acc.answer(network, x))


def test_it_is_saved_and_loaded(quantised, whole, tmp_path):
    x = images(8, seed=3)
    acc.save_weights(whole, tmp_path / "whole.safetensors")
    other = acc.integers(quantised, images(4, seed=4), 8, MEAN, STD)
    assert not torch.equal(acc.answer(other, x), acc.answer(whole, x))
    assert torch.equal(acc.answer(acc.load_weights(other, tmp_path / "whole.safetensors"), x), acc.answer(whole, x))


def test_conversion_leaves_the_network_real(whole):
    """A spiking network has whole weights of its own; the one that trains on, and its copies, keep real ones."""
    copied = acc.fold_batch_norms(whole)
    before = acc.answer(whole, images(4))
    acc.convert(whole, "halving")
    acc.convert(copied, "signed")
    for network in (whole, copied, acc.fold_batch_norms(copied)):
        assert torch.equal(acc.answer(network, images(4)), before)
        assert any("original" in name for name in network.state_dict())


class One(nn.Module):
    """A convolution, an activation, and what a test puts behind it."""

    def __init__(self, behind, channels=4):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.behind, self.read = nn.Conv2d(3, channels, 3), behind, nn.LazyLinear(2)

    def forward(self, x):
        return self.read(self.behind(F.relu(self.first(x))).flatten(1))


@pytest.mark.parametrize(
    ("behind", "message"),
    [
        (nn.LayerNorm([4, 6, 6]), "behind (LayerNorm)"),
        (nn.Softmax(1), "behind (Softmax)"),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), "(BatchNorm2d)"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.GELU()), "(GELU)"),
        (nn.AdaptiveAvgPool2d(4), "(AdaptiveAvgPool2d)"),
        (nn.AvgPool2d(4, ceil_mode=True), "(AvgPool2d)"),
        (nn.ConvTranspose2d(4, 4, 2), "(ConvTranspose2d)"),
        (nn.Sequential(*(nn.Conv2d(4, 512, 1), nn.Conv2d(512, 512, 3))), "quantise what it reads"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d(2)), "another layer's sums"),
    ],
)  # fmt: skip
def test_what_has_no_form_in_whole_numbers_is_refused_by_name(behind, message):
    x = images(8)
    network = One(behind).eval()
    with torch.no_grad():
        network(x)
    quantised = acc.quantise(network, "cs-qcfs", 8, sample=x)
    with pytest.raises(acc.InputError) as error:
        acc.integers(quantised, x, 8, MEAN, STD)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_other_images_are_refused(whole):
    x = images(4)
    for wrong in (x + 0.01, x * 1.02, torch.full_like(x, 9.0), torch.rand_like(x)):
        with pytest.raises(acc.InputError, match=r"whole pixels 0\.\.255"):
            acc.answer(whole, wrong)
        with pytest.raises(acc.InputError, match=r"whole pixels 0\.\.255"):
            acc.simulate(acc.convert(whole, "halving"), wrong)


def test_a_sample_may_be_a_loader(quantised):
    x = images(20)
    whole = acc.integers(quantised, DataLoader(TensorDataset(x, torch.zeros(20)), 7), 8, MEAN, STD)
    assert torch.equal(acc.answer(whole, x), acc.answer(acc.integers(quantised, x, 8, MEAN, STD), x))


def near(quantised, x, **settings):
    """How far whole numbers are from the quantised network, in its logits' spread."""
    wanted = acc.answer(quantised, x)
    return float((acc.answer(acc.integers(quantised, x, 8, MEAN, STD, **settings), x) - wanted).std() / wanted.std())


def quantised_of(network, x=None):
    x = images(32) if x is None else x
    with torch.no_grad():
        network(x)
    return acc.quantise(network.eval(), "cs-qcfs", 8, sample=x)


class Channels(nn.Module):
    """A convolution whose channels differ a thousandfold, an activation, and what a test puts behind it."""

    def __init__(self, behind):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.behind, self.read = nn.Conv2d(3, 8, 3, padding=1), behind, nn.LazyLinear(5)
        with torch.no_grad():
            self.first.weight.mul_(torch.logspace(-1.5, 1.5, 8)[:, None, None, None])

    def forward(self, x):
        return self.read(self.behind(F.relu(self.first(x))).flatten(1))


class Does(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


WRONG = {  # was accepted, and wrong
    "sums of a user's own": nn.AvgPool2d(2, divisor_override=1),
    "maxima over channels": Does(lambda x: F.max_pool3d(x, (4, 1, 1))),
    "means over a channel": Does(lambda x: x.mean((1, 2))),
    "channels as the batch": Does(lambda x: F.relu(x.flatten(0, 1)).unflatten(0, (-1, 8))),
    "one value for all places": Does(lambda x: F.relu(x - 1) + x.mean((2, 3), keepdim=True)),
}


@pytest.mark.parametrize("behind", WRONG.values(), ids=WRONG)
def test_what_has_no_common_unit_is_refused(behind):
    with pytest.raises(acc.InputError) as error:
        acc.integers(quantised_of(Channels(behind)), images(8), 8, MEAN, STD)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("behind", [nn.Identity(), nn.MaxPool2d(2), nn.AvgPool2d(2), Does(lambda x: x.mean((-1, -2)))])
def test_channels_that_differ_a_thousandfold_stay_near(behind):
    assert near(quantised_of(Channels(behind)), images(32)) < 0.1  # 8 bits


class Far(nn.Module):
    """A large bias beside a skip, which makes the unit finer than the one in which the bias was seen to fit."""

    def __init__(self, bias):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.h, self.r = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        cast(nn.Parameter, self.r.bias).data.fill_(bias)
        for parameter in self.a.parameters():
            parameter.data *= 0.01

    def forward(self, x):
        x = F.relu(self.a(x))
        return (self.r(F.relu(self.h(x))) + x).mean((2, 3))


def test_a_large_bias_is_not_cut_off():
    """In float64, which holds its sums; float32 does not, and says so."""
    x, q = images(8), quantised_of(Far(1e3), images(8))
    off = acc.answer(acc.integers(q.double(), x.double(), 8, MEAN, STD), x.double()) - acc.answer(q, x.double())
    assert off.abs().max() < 1, "0.1 % of the answer"
    with pytest.raises(acc.InputError, match="sums reach"):
        acc.integers(q.float(), x, 8, MEAN, STD)


def test_a_state_brings_its_bits(quantised):
    """Between networks of other bits: the limit and the grid of weights are part of the state."""
    x = images(16, seed=5)
    eight, four = (acc.integers(quantised, x, bits, MEAN, STD) for bits in (8, 4))
    wanted = acc.answer(eight, x)
    four.load_state_dict(eight.state_dict())
    assert torch.equal(acc.answer(four, x), wanted)


def test_settings_that_do_not_fit_are_refused(quantised):
    x, nothing, text = images(8), cast(Any, None), cast(Any, "a")
    cases = [
        (
            lambda: acc.integers(quantised, x, 8, (0.5,) * 2, STD),
            "mean must be a number, or one for each of 3 channels",
        ),
        (lambda: acc.integers(quantised, x, 8, nothing, STD), "mean must be a number"),
        (lambda: acc.integers(quantised, x, 8, MEAN, text), "std must be a number"),
        (lambda: acc.integers(quantised, x, 8, -3.0, 1.0), "far from every pixel"),
        (lambda: acc.integers(text, x), "takes a quantised network"),
        (lambda: acc.largest_sums(quantised), "whole numbers"),
        (lambda: acc.largest_sums(3), "whole numbers"),
    ]
    for call, message in cases:
        with pytest.raises(acc.InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    raw = acc.quantise(Mixed().eval(), "c-qcfs", 8, sample=x)
    with torch.no_grad():
        next(p for name, p in raw.named_parameters() if name.endswith("parameter"))[0] *= -1
    with pytest.raises(acc.InputError, match="must be positive"):
        acc.integers(raw, x, 8, MEAN, STD)


def test_an_answer_in_a_format_that_does_not_hold_the_sums_is_refused(whole):
    with pytest.raises(acc.InputError, match=r"wider format|whole pixels"):
        acc.answer(acc.fold_batch_norms(whole).bfloat16(), images(2).bfloat16())
    spiking = acc.convert(whole, "halving")
    assert max(acc.largest_sums(spiking).values()) == max(acc.largest_sums(whole).values())
