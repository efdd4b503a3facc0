"""Networks in whole numbers with their images: one of every operator that has such a form, and random ones."""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import accelerated as acc

from .random_modules import draw

LEVELS = 4
MEAN, STD = (0.5, 0.4, 0.45), (0.2, 0.25, 0.3)


def images(count=64, seed=0):
    """Images of whole pixels, normalised."""
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    return (pixels / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class Mixed(nn.Module):
    """Skips of both kinds, groups, maxima, averages of both kinds, joins, padded channels, a bias less convolution."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.same, self.wide = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1, groups=2)
        self.down, self.maxima, self.mean = nn.Conv2d(8, 16, 1), nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1)
        self.hidden, self.read = nn.Linear(32, 16), nn.Linear(48, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.same(x))
        y = F.relu(self.down(self.maxima(x)) + self.wide(x))
        z = F.relu(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)) + self.mean(y))
        x = torch.cat([F.adaptive_avg_pool2d(y, 1).flatten(1), z.mean((2, 3))], 1)
        return self.read(torch.cat([F.relu(self.hidden(x)), x], 1))


@cache
def quantised_mixed():
    """`Mixed`, quantised, its batch norm in statistics of the images; not to be changed."""
    network, x = Mixed().train(), images()
    with torch.no_grad():
        network(x)
    return acc.fold_batch_norms(acc.quantise(network.eval(), "cs-qcfs", 8, sample=x))


@cache
def whole_mixed():
    """The same in whole numbers; not to be changed."""
    return acc.integers(quantised_mixed(), images(), 8, MEAN, STD)


def whole_form(network, shape, levels):
    """(the network of levels, the same in whole numbers or None where it has no such form, images of pixels)."""
    torch.manual_seed(1)
    x = torch.randint(256, (24, *shape)).double() / 255
    q = acc.fold_batch_norms(acc.quantise(network, "cs-qcfs", levels, "max", x))
    try:
        return q, acc.integers(q, x), x
    except acc.InputError:
        return q, None, x


def random_networks(seeds):
    """(seed, a drawn network in whole numbers, its images, their pixels) for each seed that has such a form."""
    for seed in seeds:
        torch.manual_seed(seed)
        network, shape = draw(np.random.default_rng(seed), length=5 + seed % 4)
        _, whole, x = whole_form(network, shape, LEVELS)
        if whole is not None and max(acc.largest_sums(whole).values()) * LEVELS < 2**24:
            yield seed, whole.float(), x.float(), (x * 255).round().numpy()
