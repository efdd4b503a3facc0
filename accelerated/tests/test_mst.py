"""The Masked Spiking Transformer (Wang et al. 2023, 2210.01208), written down a second time, window by window."""

from typing import Any

import timm
import torch
from torch import nn

from accelerated.activation import Site
from accelerated.graph.modules import RelativeBias
from accelerated.graph.timm import with_sites


def bent(x):
    """In place of a quantiser, and smooth, so that the order of sums does not matter; unlike a ReLU, it bends twice."""
    return x.relu() / (1 + x.relu())


class Bent(nn.Module):
    """`bent` as a module."""

    def forward(self, x):
        return bent(x)


def attended(attention, tokens, places, regions):
    """The attention of one window: tokens [batch, N, F] at `places` [N, 2]; -100 between unequal `regions` [N]."""
    batch, count, features = tokens.shape
    q, k, v = bent(attention.qkv(tokens).reshape(batch, count, 3, attention.heads, -1).permute(2, 0, 3, 1, 4))
    scores = bent(q @ k.transpose(-2, -1) / (features / attention.heads) ** 0.5)
    side = round(len(attention.bias.table) ** 0.5)  # 2 w - 1 offsets along each axis
    rows, columns = (places[:, None] - places[None]).movedim(-1, 0) + (side - 1) // 2
    bias = attention.bias.table[rows * side + columns].permute(2, 0, 1)
    apart = -100.0 * (regions[:, None] != regions[None])
    heads = ((scores + bias + apart).softmax(-1) @ v).transpose(1, 2).flatten(2)
    return bent(attention.proj(bent(heads)))


def attention_of(block, x):
    """The windows of a block's attention on [batch, H, W, F], moved by its shift and back."""
    (height, width), (side, _), (shift, _) = block.size, block.window, block.shift
    y = torch.roll(x, (-shift, -shift), (1, 2))
    out, places = torch.zeros_like(y), torch.cartesian_prod(torch.arange(side), torch.arange(side))
    edges = torch.tensor([height - side, height - shift])
    region = torch.bucketize(torch.arange(height), edges, right=True) * bool(shift)
    for top in range(0, height, side):
        for left in range(0, width, side):
            rows, columns = top + places[:, 0], left + places[:, 1]
            regions = 3 * region[rows] + region[columns]
            out[:, rows, columns] = attended(block.attn, y[:, rows, columns], places, regions)
    return torch.roll(out, (shift, shift), (1, 2))


def answered(network, x):
    """The network's answer: norms, residuals and quantisers where the published code has them."""
    y = bent(network.patch_embed.norm[0](network.patch_embed.proj(x).permute(0, 2, 3, 1)))
    for i, stage in enumerate(network.layers):
        if i:
            quarters = [y[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
            y = bent(stage.downsample.reduction[0](stage.downsample.norm(torch.cat(quarters, -1))))
        for block in stage.blocks:
            y = block.norm2(y + attention_of(block, bent(block.norm1[0](y))))
            y = y + bent(block.mlp.fc2(bent(block.mlp.fc1(bent(y)))))
    return network.head.fc(network.norm(y).mean((1, 2)))


def network():
    """A small Swin in MST's form, its norms and biases with values of their own, `Bent` in place of each site."""
    torch.manual_seed(0)
    sizes: dict = {"depths": (2, 2), "num_heads": (2, 4), "patch_size": 2, "window_size": 4}
    model = timm.models.SwinTransformer(embed_dim=24, img_size=32, num_classes=5, **sizes).eval()
    made = with_sites(model, "mst", "batch")
    for name, module in list(made.named_modules()):
        part: Any = module
        if isinstance(module, nn.BatchNorm1d):
            for value, low, high in ((part.running_mean, -1, 1), (part.running_var, 0.5, 2), (part.bias, -1, 1)):
                nn.init.uniform_(value, low, high)
        if isinstance(module, nn.Linear):
            nn.init.normal_(part.weight, std=0.3)  # so large that each `bent` bends
        if isinstance(module, RelativeBias):
            nn.init.normal_(part.table)
        if isinstance(module, Site):
            made.set_submodule(name, Bent())
    return made


def test_the_masked_spiking_transformer_is_the_published_one():
    """Two blocks of each kind, a shift, a mask, merged patches."""
    ours, x = network(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = answered(ours, x)
        assert torch.allclose(ours(x), wanted, rtol=0, atol=1e-5), "sums in another order differ by less"
        assert wanted.std() > 0.01
    assert type(ours.norm) is nn.LayerNorm
