"""Augmentation of uint8 images: torchvision's v2 transforms, and Cutout, which is not among them."""

import torch
from torch import nn
from torchvision.transforms import v2

AUGMENTATIONS = ("none", "standard", "full")  # standard: crop and flip; full: AutoAugment and Cutout as well (3.3.2)


class Cutout(nn.Module):
    """Zero one square of `length` pixels around a centre anywhere in the image; it may reach over the border."""

    def __init__(self, length):
        super().__init__()
        self.length = length

    def forward(self, image):
        height, width = image.shape[-2:]
        row, column = (int(torch.randint(n, ())) for n in (height, width))
        before, after = self.length // 2, self.length - self.length // 2
        image = image.clone()
        image[..., max(0, row - before) : row + after, max(0, column - before) : column + after] = 0
        return image


def pipeline(kind, size, mean, std, policy):
    """A function of one uint8 image [C, size, size] -> float32, normalised by mean and std per channel."""
    steps = []
    if kind != "none":
        steps += [v2.RandomCrop(size, padding=size // 8), v2.RandomHorizontalFlip()]
    if kind == "full":
        steps.append(v2.AutoAugment(v2.AutoAugmentPolicy[policy]))
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    if kind == "full":
        steps.append(Cutout(size // 2))
    return v2.Compose(steps)
