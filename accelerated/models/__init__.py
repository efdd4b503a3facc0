"""Networks to train and convert, by name; all with ReLU and average pooling, and a width that scales their channels."""

from ..checks import InputError, one_of, positive
from .resnet import RESNETS, ResNet, resnet
from .small import MLP, ResidualCNN
from .vgg import VGG16

MODELS = {"cnn": ResidualCNN, "mlp": MLP, "vgg16": VGG16} | {name: resnet(name) for name in RESNETS}
LEAST_SIDE = {"cnn": 2, "mlp": 1, "vgg16": 32}  # others: any


STEMS = ("auto", "cifar", "imagenet")


def make(name, image_shape, classes, width=1.0, stem="auto"):
    """A ReLU network for images of shape (C, H, W), its channels scaled by `width`.

    `stem` is "cifar" (3 x 3, no pooling) or "imagenet" (7 x 7 with stride 2, pooling; VGG-16: 7 x 7 positions before
    its linear layers); "auto" goes by the images' size. The two small networks have but one.

    InputError for an unknown name, a width that is not positive, and images that the network would pool to nothing.
    """
    one_of(name, MODELS, "model"), positive(width, "width")
    side, least = min(image_shape[1:]), LEAST_SIDE.get(name, 1)
    if side < least:
        raise InputError(f"model {name!r} needs images of at least {least} x {least}, got {tuple(image_shape[1:])}")
    one_of(stem, STEMS, "stem")
    return MODELS[name](image_shape, classes, width, *([] if name in ("cnn", "mlp") else [stem]))


__all__ = ["MLP", "MODELS", "ResNet", "ResidualCNN", "STEMS", "VGG16", "make"]
