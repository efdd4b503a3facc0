"""The sizes of networks on pages, against the networks; and networks that others have named."""

from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from accelerated.checks import InputError
from accelerated.exports.weights import load_weights
from accelerated.models import make
from accelerated.platform import networks


@pytest.mark.parametrize("model", networks.MODELS)
def test_the_numbers_of_weights_on_pages_are_right(model):
    network = networks.build({"data": "cifar10", "model": model, "width": 1.0, "size": 0})
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert networks.WEIGHTS[model] == float(f"{millions:.2g}")


def renamed(network):
    """A torchvision network in the form for small images: nothing but the activation after its first layer."""
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return network.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_others_names_of_the_same_network_are_taken_and_answer_the_same(name, prefix, tmp_path):
    torch.manual_seed(0)
    theirs: Any = renamed(getattr(torchvision.models, name)(num_classes=10))
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.get_buffer("running_mean"))
            nn.init.normal_(module.weight)
    path = tmp_path / "theirs.safetensors"
    save_file({prefix + key: value for key, value in theirs.state_dict().items()}, path)
    settings = {"data": "cifar10", "model": name, "width": 1.0, "size": 0}
    networks.check_upload(path, settings)
    ours = load_weights(make(name, (3, 32, 32), 10), path).eval()
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_a_network_that_takes_maxima_is_refused(tmp_path):
    path = tmp_path / "theirs.safetensors"
    save_file(torchvision.models.resnet18(num_classes=200).state_dict(), path)
    with pytest.raises(InputError, match="take maxima after the first layer"):
        networks.check_upload(path, {"data": "tiny-imagenet", "model": "resnet18", "width": 1.0, "size": 0})


@pytest.mark.parametrize(("query", "words"), [
    ({"data": "cifar10", "model": "resnet20"}, ["stem.0.weight", "16 x 3 x 3 x 3", "0.4914, 0.4822", "torchvision"]),
    ({"data": "digits", "model": "mlp"}, ["less 0.0, divided by 1.0"]),
])  # fmt: skip
def test_what_a_file_must_hold_is_said_before(inside, ada, query, words):
    markers = inside.options.data / "cifar-10-batches-py"
    markers.mkdir(parents=True)
    text = ada.get("/ann/upload/expected", params=query, headers={"accept": "text/html"}).text
    assert all(word in text for word in words), text
    assert ada.get("/ann/upload/expected", params={"model": "none"}).status_code == 422
