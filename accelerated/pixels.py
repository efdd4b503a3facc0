"""Whole pixels of images: `reference.pixels` as a module."""

import torch
from torch import nn

from .checks import InputError, finite, positive, tensor

FAR = 1 / 128  # of the range of pixels: half a pixel of 256 is nearer


class Pixels(nn.Module):
    """The whole pixels of images x = (pixel / most - mean) / std, less the one nearest to the mean: in -most..most.

    `mean` and `std` broadcast against one image.
    """

    mean: torch.Tensor
    std: torch.Tensor
    largest: torch.Tensor

    def __init__(self, mean, std, most):
        super().__init__()
        self.register_buffer("largest", torch.tensor(float(most)))
        self.register_buffer("mean", finite(tensor(mean), "mean"))
        self.register_buffer("std", positive(tensor(std), "std"))

    @property
    def most(self):
        """The largest pixel."""
        return int(self.largest)

    def forward(self, x):
        return ((x * self.std + self.mean) * self.most + 0.5).floor().clamp(0, self.most) - self.zero()

    def zero(self):
        """The pixel that counts as 0. Padding by zeros is then padding by the mean, as in the given network."""
        return (self.mean * self.most + 0.5).floor().clamp(0, self.most)

    def rest(self):
        """The image whose pixels are all 0: the mean is no whole pixel."""
        return (self.zero() / self.most - self.mean) / self.std

    def near(self):
        """self; InputError if the mean is far from every pixel, so that padding by it would not be padding by zeros."""
        if (self.rest() * self.std).abs().amax() > FAR:
            raise InputError(f"a mean of {self.mean.flatten().tolist()} is far from every pixel 0..{self.most}: "
                             "give images whose mean is one")  # fmt: skip
        return self

    def of(self, x):
        """x unchanged; InputError if it is no image of whole pixels."""
        image = ((self(x) + self.zero()) / self.most - self.mean) / self.std
        if ((image - x).abs() * self.std).amax() * self.most > 0.01:
            mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
            raise InputError(f"the images are not (pixel / {self.most} - mean) / std of whole pixels 0..{self.most}, "
                             f"with mean {mean} and std {std}: give the images' own")  # fmt: skip
        return x


def column(values, images, name):
    """Numbers, or one per channel, in the format of images [batch, ...] and in a shape that broadcasts to one."""
    try:
        values = torch.as_tensor(values).to(images)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be a number, or one per channel, got {values!r}") from error
    if values.ndim > 1 or values.numel() not in (1, images.shape[1]):
        raise InputError(f"{name} must be a number, or one for each of {images.shape[1]} channels, "
                         f"got shape {tuple(values.shape)}")  # fmt: skip
    return values.reshape(-1, *(1,) * (images.ndim - 2)) if values.numel() > 1 else values.reshape(())
