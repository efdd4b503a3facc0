"""Networks to train and convert, by name: CNNs with ReLU and average pooling, and transformers, of any width."""

from ..checks import InputError, one_of, positive
from .resnet import RESNETS, ResNet, resnet
from .small import MLP, ResidualCNN
from .swin import swin_tiny
from .vgg import VGG16
from .vit import HEADS, vit

TRANSFORMERS = {name: vit(name) for name in HEADS} | {"swin_tiny": swin_tiny}
MODELS = {"cnn": ResidualCNN, "mlp": MLP, "vgg16": VGG16} | {name: resnet(name) for name in RESNETS} | TRANSFORMERS
LEAST_SIDE = {"cnn": 2, "mlp": 1, "vgg16": 32} | dict.fromkeys(HEADS, 8) | {"swin_tiny": 16}  # others: any


STEMS = ("auto", "cifar", "imagenet")


def make(name, image_shape, classes, width=1.0, stem="auto", blocks=0, pretrained=False):
    """A network for images of shape (C, H, W), its channels scaled by `width`: of ReLU; a transformer as timm has it.

    `stem` is "cifar" (3 x 3, no pooling) or "imagenet" (7 x 7 with stride 2, pooling; VGG-16: 7 x 7 positions before
    its linear layers); "auto" goes by the images' size. The two small networks have only one.

    `blocks` other than 0 is the number of a transformer's blocks (Swin: in each stage), `pretrained` asks for published
    weights (at width 1). InputError for an unknown name, a width that is not positive, and images that the network
    would pool to nothing.
    """
    one_of(name, MODELS, "model")
    positive(width, "width")
    side, least = min(image_shape[1:]), LEAST_SIDE.get(name, 1)
    if side < least:
        raise InputError(f"model {name!r} needs images of at least {least} x {least}, got {tuple(image_shape[1:])}")
    one_of(stem, STEMS, "stem")
    if pretrained and (width != 1 or blocks):
        raise InputError("published weights are of width 1 and all blocks: leave --width and --blocks, or --pretrained")
    if name in TRANSFORMERS:
        return TRANSFORMERS[name](image_shape, classes, width, *([blocks] if blocks else []), pretrained=pretrained)
    if blocks or pretrained:
        raise InputError(f"blocks and pretrained are for transformers ({', '.join(TRANSFORMERS)}), got model {name!r}")
    return MODELS[name](image_shape, classes, width, *([] if name in ("cnn", "mlp") else [stem]))


__all__ = ["MLP", "MODELS", "ResNet", "ResidualCNN", "STEMS", "TRANSFORMERS", "VGG16", "make"]
