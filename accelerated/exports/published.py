"""Published checkpoints as networks: the ResNets for CIFAR-10 of He et al. (2016) with shortcuts without parameters.

Weights by the names of github.com/akamaster/pytorch_resnet_cifar10, as a safetensors file.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..checks import InputError, first_line

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # with which these weights were trained


class _Block(nn.Module):
    """Two convolutions; a shortcut that changes shape takes every second pixel and pads channels with zeros."""

    def __init__(self, before, channels, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        self.stride, self.more = stride, (channels - before) // 2

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        if self.stride > 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))
        return F.relu(self.bn2(self.conv2(y)) + x)


def _group(blocks, before, channels, stride):
    return nn.Sequential(_Block(before, channels, stride), *(_Block(channels, channels, 1) for _ in range(blocks - 1)))


class CifarResNet(nn.Module):
    """6 n + 2 layers on [batch, 3, 32, 32]: a stem, three groups of n blocks, the mean, a linear read-out."""

    def __init__(self, blocks, classes=10):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = _group(blocks, 16, 16, 1)
        self.layer2 = _group(blocks, 16, 32, 2)
        self.layer3 = _group(blocks, 32, 64, 2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def cifar_resnet(path: str | Path) -> CifarResNet:
    """The network of a file of weights, in evaluation mode; InputError names what does not fit."""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {first_line(error)}") from error
    blocks = len({name.split(".")[1] for name in weights if name.startswith("layer1.")})
    if not blocks or "linear.weight" not in weights:
        raise InputError(f"{path} does not hold a ResNet for CIFAR: it lacks layer1.0 or linear")
    network = CifarResNet(blocks, len(weights["linear.weight"]))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path} does not fit: {str(error).splitlines()[1].strip()}") from error
    return network.eval()


def normalised(images: torch.Tensor) -> torch.Tensor:
    """Images of bytes [n, 3, 32, 32] as these networks read them."""
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    return (images.float() / 255 - mean) / std
