"""Augmentation of a batch of uint8 images: crop, flip, AutoAugment (torchvision's), normalise, Cutout.

torchvision's v2 transforms draw once for all images of a call. Crop, flip and Cutout are drawn here for each image of
a batch; AutoAugment goes through v2 in groups of four images, which share a policy: fewer calls.
"""

import torch

AUGMENTATIONS = ("none", "standard", "full")  # standard: crop and flip; full: AutoAugment and Cutout as well (3.3.2)
LARGE_SIDE = 64  # above it, images are random crops of larger ones instead of shifted
GROUP = 4  # images that share a draw of AutoAugment


def shifted(images, by):
    """Each image [n, C, H, W] moved by up to `by` pixels in either direction; zeros come in from outside."""
    n, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (by,) * 4)
    rows = torch.randint(2 * by + 1, (n, 1)) + torch.arange(height)
    columns = torch.randint(2 * by + 1, (n, 1)) + torch.arange(width)
    which = torch.arange(n)[:, None, None, None], torch.arange(channels)[:, None, None]
    return padded[*which, rows[:, None, :, None], columns[:, None, None, :]]


def flipped(images):
    """Half of the images, mirrored left to right."""
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(-1), images)


def cutout(images, length):
    """Zero one square of `length` pixels around a centre anywhere in each image; it may reach over the border."""
    n, _, height, width = images.shape
    rows = torch.arange(height) - torch.randint(height, (n, 1)) + length // 2
    columns = torch.arange(width) - torch.randint(width, (n, 1)) + length // 2
    inside = ((rows >= 0) & (rows < length))[:, None, :, None] & ((columns >= 0) & (columns < length))[:, None, None, :]
    return images.masked_fill(inside, 0)


def pipeline(kind, size, mean, std, policy):
    """A function of uint8 images [n, C, size, size] -> float32, normalised by mean and std per channel."""
    if kind == "full":
        from torchvision.transforms import v2

        automatic = v2.AutoAugment(v2.AutoAugmentPolicy[policy])
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def augmented(images):
        if kind != "none":
            images = flipped(shifted(images, size // 8) if size <= LARGE_SIDE else images)
        if kind == "full":
            images = torch.cat([automatic(group) for group in images.split(GROUP)])
        images = (images.float() / 255 - mean) / std
        return cutout(images, size // 2) if kind == "full" else images

    return augmented
