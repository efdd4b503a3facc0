"""SpikeZIP-TF (You et al., ICML 2024), written down a second time, from its checkpoint."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accelerated as acc
from accelerated.checks import InputError
from accelerated.exports.spikezip import load_spikezip

LEVEL, FEATURES, BLOCKS, CLASSES, PATCH, SIDE = 8, 128, 2, 5, 4, 12
SIGNED = ("norm1.1", "attn.quan_q", "attn.quan_k", "attn.quan_v", "attn.after_attn_quan", "attn.quan_proj", "norm2.1",
          "mlp.fc2.1")  # fmt: skip


def published(last):
    """What their code saves: names and shapes of its modules; `last` is the name of the norm before the read-out."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape, low=-1.0, high=1.0):
        return torch.rand(*shape, generator=random) * (high - low) + low

    def layer(name, out, into):
        state[f"{name}.weight"], state[f"{name}.bias"] = draw(out, into) * (3 / into) ** 0.5, draw(out) / 4

    state = {"cls_token": draw(1, 1, FEATURES), "pos_embed": draw(1, 1 + (SIDE // PATCH) ** 2, FEATURES)}
    state["patch_embed.proj.0.weight"] = draw(FEATURES, 3, PATCH, PATCH) / 4
    state["patch_embed.proj.0.bias"] = draw(FEATURES)
    steps = ["patch_embed.proj.1", f"{last}.1"]
    for i in range(BLOCKS):
        block = f"blocks.{i}."
        for norm in ("norm1.0", "norm2.0"):
            state[f"{block}{norm}.weight"], state[f"{block}{norm}.bias"] = draw(FEATURES, low=0.5), draw(FEATURES) / 4
        layer(f"{block}attn.qkv", 3 * FEATURES, FEATURES)
        layer(f"{block}attn.proj", FEATURES, FEATURES)
        layer(f"{block}mlp.fc1", 4 * FEATURES, FEATURES)
        layer(f"{block}mlp.fc2.0", FEATURES, 4 * FEATURES)
        steps += [f"{block}{place}" for place in SIGNED]
        state[f"{block}attn.attn_quan.s"] = torch.tensor(1 / 16)
        steps += [f"{block}mlp.act.0"]
    for step in steps:  # few bits, so that theta = L s is exact
        state[f"{step}.s"] = draw(1, low=12, high=24)[0].round() / 64
    state[f"{last}.0.weight"], state[f"{last}.0.bias"] = draw(FEATURES, low=0.5), draw(FEATURES) / 4
    layer("head", CLASSES, FEATURES)
    return state


def answered(state, x, last):
    """The network's answer, place by place as published."""

    def quantised(name, value, signed=True):
        least, most = (-LEVEL // 2, LEVEL // 2 - 1) if signed else (0, LEVEL - 1)
        step = state[f"{name}.s"]
        seen[name] = (value / step + 0.5).floor().clamp(least, most)
        return seen[name] * step

    def linear(name, value):
        return F.linear(value, state[f"{name}.weight"], state[f"{name}.bias"])

    def normed(name, value):
        weight, bias = state[f"{name}.0.weight"], state[f"{name}.0.bias"]
        return quantised(f"{name}.1", F.layer_norm(value, (FEATURES,), weight, bias, 1e-6))

    seen: dict = {}
    patches = F.conv2d(x, state["patch_embed.proj.0.weight"], state["patch_embed.proj.0.bias"], PATCH)
    tokens = quantised("patch_embed.proj.1", patches).flatten(2).transpose(1, 2)
    y = torch.cat([state["cls_token"].expand(len(x), -1, -1), tokens], 1) + state["pos_embed"]
    for i in range(BLOCKS):
        block = f"blocks.{i}"
        q, k, v = linear(f"{block}.attn.qkv", normed(f"{block}.norm1", y)).chunk(3, -1)
        heads = []
        for part in range(FEATURES // 64):
            own = slice(64 * part, 64 * part + 64)
            qh, kh, vh = (
                quantised(f"{block}.attn.quan_{n}", z[..., own]) for n, z in zip("qkv", (q, k, v), strict=True)
            )
            scores = quantised(f"{block}.attn.attn_quan", (qh / 8 @ kh.mT).softmax(-1), signed=False)
            heads.append(quantised(f"{block}.attn.after_attn_quan", scores @ vh))
        y = y + quantised(f"{block}.attn.quan_proj", linear(f"{block}.attn.proj", torch.cat(heads, -1)))
        hidden = quantised(f"{block}.mlp.act.0", linear(f"{block}.mlp.fc1", normed(f"{block}.norm2", y)), signed=False)
        y = y + quantised(f"{block}.mlp.fc2.1", linear(f"{block}.mlp.fc2.0", hidden))
    y = normed(last, y[:, 1:].mean(1) if last == "fc_norm" else y[:, 0])
    return linear("head", y), seen


def saved(state, path):
    torch.save({"model": state, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("last", ["fc_norm", "norm"])
def test_a_checkpoint_answers_as_the_published_network_and_spikes(last, tmp_path):
    """Every place, both ways to read tokens out; each exact schedule gives the quantised answer in every bit."""
    state, x = published(last), torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).double()
    network = load_spikezip(saved(state, tmp_path / "vit.pth"), LEVEL).double()
    with torch.no_grad():
        wanted, seen = answered({name: value.double() for name, value in state.items()}, x, last)
        found = network(x)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-9), "sums in another order differ by less"
    assert wanted.std() > 0.1
    assert {norm.eps for norm in network.modules() if isinstance(norm, nn.LayerNorm)} == {1e-6}
    for name, levels in seen.items():
        assert (levels != 0).double().mean() > 0.05, name
    ends = {name.rpartition(".")[2]: levels for name, levels in seen.items()}
    assert (ends["quan_q"].min(), ends["quan_q"].max()) == (-4, 3), "both ends are reached"
    for schedule in ("integrate-then-fire", "signed", "halving"):
        spiking = acc.convert(network, schedule)
        result = acc.simulate(spiking, x, spiking.steps)
        assert torch.equal(result.logits[-1], found), schedule
        assert min(result.nonzero_share.values()) > 0.05, schedule


def test_what_does_not_fit_is_named(tmp_path):
    state = published("fc_norm")
    for change, message in (
        (
            {"blocks.1.attn.quan_k.s": None},
            r"blocks\.1\.attn\.quan_k\.s must be one positive number; the file lacks it",
        ),
        ({"blocks.0.norm1.1.s": torch.tensor(-0.5)}, r"must be one positive number; the file has \[-0\.5\]"),
        ({"blocks.0.attn.qkv.quan_w_fn.s": torch.tensor(0.5)}, "'blocks.0.attn.qkv.quan_w_fn.s' is .* nothing in the"),
        ({"blocks.1.mlp.fc1.bias": None}, "'blocks.1.mlp.fc1.bias' is nothing in the file"),
        ({"blocks.1.norm1.0.bias": torch.zeros(7)}, r"'blocks.1.norm1.0.bias' is \(7,\) in the file, \(128,\) in the"),
        ({"pos_embed": None}, "holds no network of SpikeZIP-TF: it lacks 'pos_embed'"),
        ({"head.weight": torch.zeros(5)}, "have other axes"),
    ):
        changed = {name: value for name, value in (state | change).items() if value is not None}
        with pytest.raises(InputError, match=message):
            load_spikezip(saved(changed, tmp_path / "vit.pth"), LEVEL)
    bad: tuple = (2, 7, 512, 8.0)
    for level in bad:
        with pytest.raises(InputError, match="level must be"):
            load_spikezip(saved(state, tmp_path / "vit.pth"), level)
