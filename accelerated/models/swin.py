"""Swin-T (Liu et al. 2021) as timm builds it: stages of 2, 2, 6 and 2 blocks, shifted windows, relative positions.

At width 1: 96 features and 3 heads in the first stage, doubled in each; 28,288,354 parameters at 224 x 224 and 1000
classes. Images from 128 on get patches of 4 and windows of 7, smaller ones patches of a sixteenth of the side and
windows of 4 (32 x 32: 16 x 16 tokens).
"""

from ..checks import InputError
from .vit import xavier

BLOCKS, HEADS, HEAD, LARGE = (2, 2, 6, 2), (3, 6, 12, 24), 32, 128
WEIGHTS = "swin_tiny_patch4_window7_224"


def swin_tiny(image_shape, classes, width=1.0, blocks=0, pretrained=False):
    """Swin-T for images of shape (C, H, W); `blocks` other than 0 is the number of blocks in each stage."""
    from timm.models.swin_transformer import SwinTransformer

    channels, side = image_shape[0], image_shape[1]
    patch, window = (4, 7) if side >= LARGE else (max(1, side // 16), 4)
    if side % patch or (side // patch) % 8 or image_shape[2] != side:
        raise InputError(
            f"swin_tiny: images of {side} x {image_shape[2]} do not divide into patches of {patch}, halved three "
            "times: choose a --size of 32 or 224"
        )
    if pretrained:
        from .pretrained import fetch

        return fetch(WEIGHTS, image_shape, classes, patch_size=patch, window_size=window)
    return xavier(SwinTransformer(
        img_size=side, patch_size=patch, in_chans=channels, num_classes=classes, window_size=window, num_heads=HEADS,
        embed_dim=HEADS[0] * max(1, round(HEAD * width)), depths=(blocks,) * 4 if blocks else BLOCKS,
    ))  # fmt: skip
