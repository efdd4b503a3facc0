"""Other projects' networks: replacements are counted, what cannot be converted is named, answers stay bit for bit."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import accelerated as acc
from accelerated.graph.timm import with_sites
from accelerated.models import MODELS, TRANSFORMERS, make

NETWORKS = {  # name: (constructor, what `summary` says)
    "torchvision resnet18": (torchvision.models.resnet18, "17 ReLU -> QCFS"),
    "torchvision vgg11_bn": (torchvision.models.vgg11_bn, "10 ReLU -> QCFS"),
    "torchvision mobilenet_v2": (torchvision.models.mobilenet_v2, "35 ReLU6 -> QCFS"),
    "timm mobilenetv1_100": (lambda: timm.create_model("mobilenetv1_100", act_layer="relu"), "27 ReLU -> QCFS"),
    "timm resnet18": (lambda: timm.create_model("resnet18"), "17 ReLU -> QCFS"),
}  # fmt: skip


def with_statistics(network, x):
    """Random weights with running statistics that fit them: otherwise activations vanish layer by layer."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches seen: here one
    with torch.no_grad():
        network.train()(x)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_others_convert_bit_for_bit(name, record_property):
    make_network, said = NETWORKS[name]
    torch.manual_seed(0)
    network, x = with_statistics(make_network(), torch.rand(4, 3, 64, 64)), torch.rand(2, 3, 64, 64)
    q = acc.fold_batch_norms(acc.quantise(network, "cs-qcfs", 4, "max", x))
    assert acc.summary(q) == said
    for schedule in ("integrate-then-fire", "signed"):
        spiking = acc.convert(q, schedule)
        assert acc.summary(spiking) == said
        s = acc.simulate(spiking, x, 4 if schedule == "integrate-then-fire" else 2 + 3 * spiking.latency_depth)
        with torch.no_grad():
            assert torch.equal(s.logits[-1], q(x)), schedule
        least = min(s.nonzero_share.values())
        assert least > 0.05, "dead layers are equal for free"
        assert s.logits[-1].std() > 0.05
        what = f"D = {spiking.latency_depth}, {s.latency} steps, all bits equal"
        record_property("seen", f"T5 {name}, {schedule}: {what}; least active layer {100 * least:.0f} %")


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1), lambda x: F.max_pool2d(x, 3, stride=2, padding=1)])
def test_average_pooling_takes_the_same_windows(pool):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.pool = nn.ReLU(), pool

        def forward(self, x):
            return torch.flatten(self.pool(self.relu(x)), 1)

    x = torch.rand(2, 3, 9, 9)
    q = acc.quantise(Network(), "qcfs", 2**20, 1.0, x, max_pool="average")
    expected = F.avg_pool2d(x, 3, 2, 1).flatten(1)
    assert torch.allclose(acc.answer(q, x), expected, rtol=0, atol=1e-6)  # 2^20 levels: half a step is 5e-7
    assert "-> AvgPool2d" in acc.summary(q)


def test_pools_that_no_average_can_replace_are_named():
    with pytest.raises(acc.InputError, match=r"0 \(MaxPool2d\) cannot become an average: it is dilated"):
        acc.quantise(nn.Sequential(nn.MaxPool2d(2, dilation=2), nn.ReLU()), "qcfs", max_pool="average")
    with pytest.raises(acc.InputError, match="unknown max_pool 'mean': choose from keep, average"):
        acc.quantise(nn.Sequential(nn.ReLU()), "qcfs", max_pool="mean")


def test_a_relu6_calibrates_to_at_most_6():
    x = torch.tensor([[1.0, 20.0]])
    q = acc.quantise(nn.Sequential(nn.ReLU6()), "c-qcfs", 4, "max", x)
    assert q.get_submodule("0").threshold.tolist() == [1, 6]  # type: ignore[operator]


def test_real_valued_operators_are_mentioned():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.relu, self.norm, self.out = nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.relu(self.fc(x))
            return self.out(self.norm(y) * y)

    assert (
        acc.summary(acc.quantise(Network(), "s-qcfs")) == "1 ReLU -> QCFS; real-valued operators: LayerNorm (norm), mul"
    )


COUNTS = {  # parameters of the CIFAR-10 form in the literature, and torchvision's network in ImageNet's form
    "resnet18": (11_173_962, "resnet18"),
    "resnet20": (272_474, None),
    "resnet34": (21_282_122, "resnet34"),
    "resnet50": (23_520_842, "resnet50"),
    "resnet101": (42_512_970, "resnet101"),
    "vgg16": (33_646_666, "vgg16_bn"),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    small, other = COUNTS[name]
    count = lambda network: sum(p.numel() for p in network.parameters())  # noqa: E731
    with torch.device("meta"):
        assert count(make(name, (3, 32, 32), 10)) == small
        if other:
            large = count(make(name, (3, 224, 224), 1000))
            assert large == count(getattr(torchvision.models, other)())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_converts_at_a_small_width(name):
    torch.manual_seed(0)
    x = torch.rand(4, 3, 32, 32)
    network = make(name, (3, 32, 32), 10, 0.1)
    network = with_statistics(with_sites(network) if name in TRANSFORMERS else network, x)
    q = acc.fold_batch_norms(acc.quantise(network, "cs-qcfs", 4, "max", x))
    s = acc.simulate(acc.convert(q, "integrate-then-fire"), x, 4)
    assert torch.equal(s.logits[-1], acc.answer(q, x))
    assert min(s.nonzero_share.values()) > 0.05
    depth = {"cnn": 5, "mlp": 2, "vgg16": 15, "resnet18": 17, "resnet20": 19, "resnet34": 33, "resnet50": 49}
    depth |= dict.fromkeys(TRANSFORMERS, 12 * 6)
    assert s.latency == (depth.get(name, 100) + 1) * 4


def test_the_stem_can_be_asked_for():
    sizes = {
        stem: make("resnet18", (3, 64, 64), 10, 0.1, stem).stem[0].kernel_size for stem in ("auto", "cifar", "imagenet")
    }
    assert sizes == {"auto": (7, 7), "cifar": (3, 3), "imagenet": (7, 7)}
    with pytest.raises(acc.InputError, match="unknown stem 'large'"):
        make("resnet18", (3, 64, 64), 10, 0.1, "large")


def test_models_say_what_they_need():
    with pytest.raises(acc.InputError, match=r"unknown model 'resnet-18'.*did you mean 'resnet18'"):
        make("resnet-18", (3, 32, 32), 10)
    with pytest.raises(acc.InputError, match=r"'vgg16' needs images of at least 32 x 32, got \(8, 8\)"):
        make("vgg16", (1, 8, 8), 10)
