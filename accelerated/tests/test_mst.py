"""The Masked Spiking Transformer (Wang et al. 2023, 2210.01208), written down a second time, from its checkpoint."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from accelerated.activation import QCFS
from accelerated.checks import InputError
from accelerated.exports.checkpoints import load_checkpoint

LEVELS, WIDTH, BLOCKS, CLASSES = 4, 0.125, 2, 5
HEADS, SIDES = (3, 6, 12, 24), (16, 8, 4, 2)  # of the four stages; images of 32 x 32 in patches of 2 x 2


class State(dict):
    """A state dictionary in the published layout, filled in the published order with numbers of their own."""

    def draw(self, name, *shape, low=-1.0, high=1.0):
        self[name] = torch.rand(*shape) * (high - low) + low

    def linear(self, name, out, into, bias=True):
        self.draw(f"{name}.weight", out, into, low=-(3 / into**0.5), high=3 / into**0.5)
        if bias:
            self.draw(f"{name}.bias", out)

    def norm(self, name, features):
        for part, low in (("weight", 0.5), ("bias", -1), ("running_mean", -1), ("running_var", 0.5)):
            self.draw(f"{name}.{part}", features, low=low)
        self[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def thresholds(self, prefix, *names):
        for name in names:
            self.draw(f"{prefix}{name}.up", 1, low=0.5, high=2.0)


def published():
    """What their code saves: names, shapes and order of its modules."""
    torch.manual_seed(0)
    state, features = State(), 4 * HEADS[0]
    state.draw("patch_embed.proj.weight", features, 3, 2, 2)
    state.draw("patch_embed.proj.bias", features)
    state.thresholds("patch_embed.", "proj_if")
    state.norm("patch_embed.norm", features)
    for i, (heads, side) in enumerate(zip(HEADS, SIDES, strict=True)):
        for j in range(BLOCKS):
            block, window = f"layers.{i}.blocks.{j}.", min(4, side)
            if j % 2 and side > 4:
                state[f"{block}attn_mask"] = torch.zeros((side // 4) ** 2, 16, 16)
            state.norm(f"{block}norm1", features)
            state.thresholds(block, "shortcut1_if")
            state.draw(f"{block}attn.relative_position_bias_table", (2 * window - 1) ** 2, heads)
            state[f"{block}attn.relative_position_index"] = torch.zeros(window**2, window**2, dtype=torch.long)
            state.linear(f"{block}attn.qkv", 3 * features, features)
            state.thresholds(f"{block}attn.", "q_if", "k_if", "v_if", "attn_if", "attn_v_if")
            state.linear(f"{block}attn.proj", features, features)
            state.thresholds(f"{block}attn.", "proj_if")
            state.norm(f"{block}norm2", features)
            state.thresholds(block, "shortcut2_if")
            state.linear(f"{block}mlp.fc1", 4 * features, features)
            state.thresholds(f"{block}mlp.", "fc1_if")
            state.linear(f"{block}mlp.fc2", features, 4 * features)
            state.thresholds(f"{block}mlp.", "fc2_if")
        if i < 3:
            state.linear(f"layers.{i}.downsample.reduction", 2 * features, 4 * features, bias=False)
            state.norm(f"layers.{i}.downsample.norm", 4 * features)
            state.thresholds(f"layers.{i}.downsample.", "reduction_if")
            features *= 2
    for part in ("weight", "bias"):
        state.draw(f"norm.{part}", features)
    state.linear("head", CLASSES, features)
    return state


def quantised(state, name, x):
    theta = state[f"{name}.up"]
    return theta * ((x / theta) * LEVELS + 0.5).floor().clamp(0, LEVELS) / LEVELS


def linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def normed(state, name, x):
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return (x - mean) / (var + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def attended(state, name, tokens, places, regions):
    """The attention of one window: tokens [batch, N, F] at `places` [N, 2]; -100 between unequal `regions` [N]."""
    batch, count, features = tokens.shape
    table = state[f"{name}.relative_position_bias_table"]
    parts = linear(state, f"{name}.qkv", tokens).reshape(batch, count, 3, table.shape[1], -1).permute(2, 0, 3, 1, 4)
    q, k, v = (quantised(state, f"{name}.{part}_if", value) for part, value in zip("qkv", parts, strict=True))
    scores = quantised(state, f"{name}.attn_if", q @ k.transpose(-2, -1) / (features / table.shape[1]) ** 0.5)
    side = round(len(table) ** 0.5)  # 2 w - 1 offsets along each axis
    rows, columns = (places[:, None] - places[None]).movedim(-1, 0) + (side - 1) // 2
    bias = table[rows * side + columns].permute(2, 0, 1)
    apart = -100.0 * (regions[:, None] != regions[None])
    heads = ((scores + bias + apart).softmax(-1) @ v).transpose(1, 2).flatten(2)
    heads = quantised(state, f"{name}.attn_v_if", heads)
    return quantised(state, f"{name}.proj_if", linear(state, f"{name}.proj", heads))


def windows(state, name, x, moved):
    """The windows of a block's attention on [batch, side, side, F], moved by half a window in every second block."""
    height = x.shape[1]
    side = min(4, height)
    shift = side // 2 if moved and height > side else 0
    y = torch.roll(x, (-shift, -shift), (1, 2))
    out, places = torch.zeros_like(y), torch.cartesian_prod(torch.arange(side), torch.arange(side))
    edges = torch.tensor([height - side, height - shift])
    region = torch.bucketize(torch.arange(height), edges, right=True) * bool(shift)
    for top in range(0, height, side):
        for left in range(0, height, side):
            rows, columns = top + places[:, 0], left + places[:, 1]
            regions = 3 * region[rows] + region[columns]
            out[:, rows, columns] = attended(state, name, y[:, rows, columns], places, regions)
    return torch.roll(out, (shift, shift), (1, 2))


def answered(state, x):
    """The network's answer: norms, residuals and quantisers where the published code has them."""
    y = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 2).permute(0, 2, 3, 1)
    y = quantised(state, "patch_embed.proj_if", normed(state, "patch_embed.norm", y))
    for i in range(4):
        for j in range(BLOCKS):
            block = f"layers.{i}.blocks.{j}"
            sent = quantised(state, f"{block}.shortcut1_if", normed(state, f"{block}.norm1", y))
            y = normed(state, f"{block}.norm2", y + windows(state, f"{block}.attn", sent, j % 2))
            hidden = linear(state, f"{block}.mlp.fc1", quantised(state, f"{block}.shortcut2_if", y))
            sent = linear(state, f"{block}.mlp.fc2", quantised(state, f"{block}.mlp.fc1_if", hidden))
            y = y + quantised(state, f"{block}.mlp.fc2_if", sent)
        if i < 3:
            merge = f"layers.{i}.downsample"
            quarters = [y[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
            y = linear(state, f"{merge}.reduction", normed(state, f"{merge}.norm", torch.cat(quarters, -1)))
            y = quantised(state, f"{merge}.reduction_if", y)
    y = F.layer_norm(y, y.shape[-1:], state["norm.weight"], state["norm.bias"])
    return linear(state, "head", y.mean((1, 2)))


def loaded(state, path):
    torch.save({"model": state, "epoch": 3}, path)
    return load_checkpoint(path, "swin_tiny", LEVELS, width=WIDTH, blocks=BLOCKS).double()


def test_a_checkpoint_answers_as_the_published_network(tmp_path):
    """Two blocks of each stage: shifts, masks, merged patches, and every threshold in its place."""
    state, x, shares = published(), torch.randn(3, 3, 32, 32, dtype=torch.float64), []
    network = loaded(dict(state), tmp_path / "mst.pth")
    for module in network.modules():
        if isinstance(module, QCFS):
            module.register_forward_hook(lambda _module, _inputs, out: shares.append((out != 0).double().mean()))
    with torch.no_grad():
        wanted, found = answered({name: value.double() for name, value in state.items()}, x), network(x)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-10), "sums in another order differ by less"
    assert wanted.std() > 0.01
    assert min(shares) > 0.02, "every layer sends something"
    assert isinstance(network.norm, nn.LayerNorm)


def test_what_does_not_fit_is_named(tmp_path):
    """A missing threshold would keep its initial value, the other form has norms in its feed-forward layers."""
    state = published()
    del state["layers.1.blocks.0.attn.k_if.up"]
    with pytest.raises(InputError, match=r"swin_tiny: it lacks 'layers\.1\.blocks\.0\.attn\.k_if\.up'"):
        loaded(dict(state), tmp_path / "mst.pth")
    other = published()
    other["layers.0.blocks.0.mlp.norm1.weight"] = torch.ones(48)
    moved = {name: other.pop(name) for name in ("head.weight", "head.bias")}  # the read-out stays the last
    with pytest.raises(
        InputError, match=r"it has 'layers\.0\.blocks\.0\.mlp\.norm1\.weight', which the network has not"
    ):
        loaded({**other, **moved}, tmp_path / "mst.pth")
