"""Whole pixels of images x = (pixel / most - mean) / std: the input of a network in whole numbers (T7).

Shapes: images [batch, C, H, W] or [batch, F]; mean and std broadcast against one image.
"""

import numpy as np

from .checks import InputError, array

FAR = 1 / 128  # of the range of pixels: half a pixel of 256 is nearer


def pixels(x, mean, std, most):
    """The whole pixels of images x = (pixel / most - mean) / std, less the one nearest to the mean: in -most..most."""
    mean, std, half = (array(value, like=x) for value in (mean, std, 0.5))
    return np.clip(np.floor((x * std + mean) * most + half), 0, most) - zero_pixel(mean, most)


def zero_pixel(mean, most):
    """The pixel that counts as 0. Padding by zeros is then padding by the mean, as with images that are normalised."""
    return np.clip(np.floor(mean * most + array(0.5, like=mean)), 0, most)


def image_of(pixels, mean, std, most):
    """The images whose pixels, less the one that counts as 0, these are."""
    return ((pixels + zero_pixel(mean, most)) / most - mean) / std


def of_whole_pixels(x, mean, std, most):
    """x unchanged; InputError unless each image is (pixel / most - mean) / std of whole pixels 0..most."""
    mean, std = (array(value, like=x) for value in (mean, std))
    if np.max(abs(image_of(pixels(x, mean, std, most), mean, std, most) - x) * std) * most > 0.01:
        raise InputError(
            f"the images are not (pixel / {most} - mean) / std of whole pixels 0..{most}, "
            f"with mean {mean.ravel().tolist()} and std {std.ravel().tolist()}: give the images' own"
        )
    return x
