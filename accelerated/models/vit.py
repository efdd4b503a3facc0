"""Vision transformers (Dosovitskiy et al. 2021) as timm builds them: 12 blocks, heads of 64 features, a class token.

    network      width   heads   parameters at 224 x 224, 1000 classes
    vit_tiny     192     3            5,717,416
    vit_small    384     6           22,050,664
    vit_base     768     12          86,567,656

Patches are 16 x 16 for images from 128 on, 4 x 4 from 28 on (64 tokens for 32 x 32), else 2 x 2. Weights of linear
layers start as in the paper (Xavier), which narrow networks need.
"""

from torch import nn

from ..checks import InputError

HEADS = {"vit_tiny": 3, "vit_small": 6, "vit_base": 12}
HEAD, LARGE, MIDDLE, WEIGHTS = 64, 128, 28, "{}_patch16_224"


def xavier(network):
    """The network with its linear layers drawn again, uniform in +- sqrt(6 / (inputs + outputs)), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def vit(name):
    """The constructor (image_shape, classes, width=1.0, blocks=12, pretrained=False) of a transformer by its name."""

    def construct(image_shape, classes, width=1.0, blocks=12, pretrained=False):
        from timm.models.vision_transformer import VisionTransformer

        channels, side = image_shape[0], image_shape[1]
        patch = 16 if side >= LARGE else 4 if side >= MIDDLE else 2
        if side % patch or image_shape[2] != side:
            raise InputError(f"{name}: images of {side} x {image_shape[2]} do not divide into patches of {patch}")
        if pretrained:
            from .pretrained import fetch

            return fetch(WEIGHTS.format(name), image_shape, classes, patch_size=patch)
        heads = HEADS[name]
        return xavier(VisionTransformer(
            img_size=side, patch_size=patch, in_chans=channels, num_classes=classes, depth=blocks, num_heads=heads,
            embed_dim=heads * max(1, round(HEAD * width)),
        ))  # fmt: skip

    return construct
