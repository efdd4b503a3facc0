"""Checkpoints of SpikeZIP-TF as quantised networks: vision transformers of You et al. (ICML 2024).

Their code (github.com/Intelligent-Computing-Research-Group/SpikeZIP-TF) quantises to clip(floor(x / s + 1/2), m, M) s,
with one s per place: 0..level - 1 behind the softmax and before a feed-forward layer's ReLU, -level / 2..level / 2 - 1
elsewhere. All of that is QCFS with L = level - 1 and theta = L s, the latter of min(x, (level / 2 - 1) s).
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from ..activation import QCFS
from ..checks import InputError, whole
from ..graph.trace import trace
from ..models.vit import HEAD
from .checkpoints import state_in

MOST = 510  # from 512 on, their quantiser passes everything
BLOCK = {  # a place of a block -> whether its levels begin below zero
    "norm1.1": True, "attn.quan_q": True, "attn.quan_k": True, "attn.quan_v": True, "attn.attn_quan": False,
    "attn.after_attn_quan": True, "attn.quan_proj": True, "norm2.1": True, "mlp.act.0": False, "mlp.fc2.1": True,
}  # fmt: skip


class Below(nn.Module):
    """Levels from -level / 2 to level / 2 - 1, in steps of `step`."""

    def __init__(self, step, level):
        super().__init__()
        self.most = (level // 2 - 1) * step
        self.qcfs = QCFS((), level - 1, "raw", (level - 1) * step, lowest=-level // 2)

    def forward(self, x):
        return self.qcfs(torch.clamp_max(x, self.most))


class Attention(nn.Module):
    """Their attention: queries, keys, values, softmax, heads and projection are quantised."""

    def __init__(self, old):
        super().__init__()
        self.heads, self.qkv, self.proj = old.num_heads, old.qkv, old.proj
        self.quan_q, self.quan_k, self.quan_v = nn.Identity(), nn.Identity(), nn.Identity()
        self.attn_quan, self.after_attn_quan, self.quan_proj = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x, **_nothing):
        batch, tokens, features = x.shape
        head = features // self.heads
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, head).permute(2, 0, 3, 1, 4).unbind(0)
        q, k, v = self.quan_q(q), self.quan_k(k), self.quan_v(v)
        attention = self.attn_quan((q * head**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1))
        x = self.after_attn_quan(attention @ v).transpose(1, 2).reshape(batch, tokens, features)
        return self.quan_proj(self.proj(x))


def _built(path, found):
    """timm's network of the sizes that the file has, with their attention and names; the places to quantise."""
    from timm.models.vision_transformer import VisionTransformer

    wanted = ("pos_embed", "patch_embed.proj.0.weight", "head.weight", "blocks.0.attn.qkv.weight",
              "blocks.0.mlp.fc1.weight")  # fmt: skip
    for name in wanted:
        if name not in found:
            raise InputError(f"{path} holds no network of SpikeZIP-TF: it lacks {name!r}")
    places, patches, read_out, _, fc1 = (found[name].shape for name in wanted)
    if len(places) != 3 or len(patches) != 4 or len(read_out) != 2:
        raise InputError(f"{path} holds no network of SpikeZIP-TF: its places, patches or read-out have other axes")
    features, side = patches[0], round((places[1] - 1) ** 0.5)
    if features % HEAD:
        raise InputError(f"{path} does not fit: {features} features are no whole number of heads of {HEAD}")
    network = VisionTransformer(
        img_size=side * patches[2], patch_size=patches[2], in_chans=patches[1], num_classes=read_out[0],
        embed_dim=features, depth=len({name.split(".")[1] for name in found if name.startswith("blocks.")}),
        num_heads=features // HEAD, mlp_ratio=fc1[0] / features, qkv_bias="blocks.0.attn.qkv.bias" in found,
        global_pool="avg" if "fc_norm.0.weight" in found else "token",
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    block: Any
    for block in network.blocks:
        block.attn = Attention(block.attn)
        block.norm1, block.norm2 = (nn.Sequential(norm, nn.Identity()) for norm in (block.norm1, block.norm2))
        block.mlp.act = nn.Sequential(nn.Identity())  # theirs keeps a ReLU behind it, for levels from 0 the identity
        block.mlp.fc2 = nn.Sequential(block.mlp.fc2, nn.Identity())
    last = "norm" if isinstance(network.fc_norm, nn.Identity) else "fc_norm"
    for name in ("patch_embed.proj", last):
        network.set_submodule(name, nn.Sequential(network.get_submodule(name), nn.Identity()))
    below = {f"blocks.{i}.{place}": signed for i in range(len(network.blocks)) for place, signed in BLOCK.items()}
    return network, {"patch_embed.proj.1": True, **below, f"{last}.1": True}


def load_spikezip(path: str | Path, level: int) -> fx.GraphModule:
    """The quantised network of a checkpoint of SpikeZIP-TF (its quantised transformer), in evaluation mode.

    `level` is what their `--level` was: the number of levels, even, 4 to 510. Sizes are those of the file, heads have
    64 features, activations are ReLU. theta = L s is rounded once. Nothing keeps an initial value: InputError names the
    first parameter that does not fit.
    """
    if whole(level, "level", least=4) > MOST or level % 2:
        raise InputError(f"level must be an even number from 4 to {MOST}, got {level}")
    found = state_in(path)
    network, places = _built(path, found)
    for place, signed in places.items():
        step = found.pop(f"{place}.s", None)
        if step is None or step.numel() != 1 or step <= 0:
            said = "lacks it" if step is None else f"has {step.flatten()[:3].tolist()}"
            raise InputError(f"{path}: {place}.s must be one positive number; the file {said}")
        step = step.item()
        module = Below(step, level) if signed else QCFS((), level - 1, "raw", (level - 1) * step)
        network.set_submodule(place, module)
    ours = network.state_dict()
    ours = {name: value for name, value in ours.items() if not name.endswith(".parameter")}
    for name in (*ours, *found):
        if name not in found or name not in ours or found[name].shape != ours[name].shape:
            shapes = [tuple(state[name].shape) if name in state else "nothing" for state in (found, ours)]
            raise InputError(f"{path} does not fit: {name!r} is {shapes[0]} in the file, {shapes[1]} in the network")
    network.load_state_dict(found, strict=False)
    return trace(network.eval(), torch.zeros(1, network.patch_embed.proj[0].in_channels, *network.patch_embed.img_size))
