"""Networks to train and convert, by name; all with ReLU and average pooling, and a width that scales their channels."""

from ..checks import InputError, one_of, positive
from .resnet import RESNETS, ResNet, resnet
from .small import MLP, ResidualCNN
from .vgg import VGG16

MODELS = {"cnn": ResidualCNN, "mlp": MLP, "vgg16": VGG16} | {name: resnet(name) for name in RESNETS}
LEAST_SIDE = {"cnn": 2, "mlp": 1, "vgg16": 32}  # others: any


def make(name, image_shape, classes, width=1.0):
    """A ReLU network for images of shape (C, H, W), its channels scaled by `width`.

    InputError for an unknown name, a width that is not positive, and images that the network would pool to nothing.
    """
    one_of(name, MODELS, "model"), positive(width, "width")
    side, least = min(image_shape[1:]), LEAST_SIDE.get(name, 1)
    if side < least:
        raise InputError(f"model {name!r} needs images of at least {least} x {least}, got {tuple(image_shape[1:])}")
    return MODELS[name](image_shape, classes, width)


__all__ = ["MLP", "MODELS", "ResNet", "ResidualCNN", "VGG16", "make"]
