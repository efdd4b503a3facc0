"""timm's transformers: quantised where the thesis does it, converted bit for bit, or refused by name."""

import functools
import itertools
import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import Mlp
from torch import nn

import accelerated as acc
from accelerated import run
from accelerated.activation import QCFS, Site
from accelerated.graph.modules import FeatureBatchNorm
from accelerated.graph.timm import with_sites
from accelerated.models import make
from accelerated.models.vit import xavier
from accelerated.runs import config, experiment, learning

NAMES = ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224")


def call(*arguments):
    return run.main([*map(str, arguments)])


def small(name, **settings):
    """A timm model of the same code, small enough for a test, with random weights."""
    sizes: dict = {"embed_dim": 24, "img_size": 32, "num_classes": 5}
    if name == "vit":
        sizes |= {"depth": 2, "num_heads": 3, "patch_size": 8}
    else:
        sizes |= {"depths": (2, 2), "num_heads": (2, 4), "patch_size": 2, "window_size": 4}
    torch.manual_seed(0)
    kinds = {"vit": timm.models.vision_transformer.VisionTransformer, "swin": timm.models.SwinTransformer}
    return kinds[name](**sizes | settings).eval()


def exact(network, x, schedule, record, what, least=0.05):
    """The quantised network's logits in every bit, and no attention or feed-forward layer dead."""
    spiking = acc.convert(network, schedule)
    levels = next(iter(spiking.layers.values())).levels
    s = acc.simulate(spiking, x, spiking.schedule.exact_at(spiking.latency_depth, levels, -levels))
    assert torch.equal(s.logits[-1], acc.answer(network, x)), f"{what}: logits differ"
    assert s.units_that_differ == 0
    dead = {name: share for name, share in s.nonzero_share.items() if share < least}
    assert not dead, f"dead layers make an equality free: {dead}"
    assert s.settled in (True, None)
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in list(s.nonzero_share.items())[:6])
    record("seen", f"T5 {what}, {schedule}: D = {spiking.latency_depth}, {s.latency} steps, all bits equal; "
           f"levels other than 0: {shares}, ...; least {100 * min(s.nonzero_share.values()):.0f} %")  # fmt: skip
    return s


TIMMS: list = [(NAMES[0], "float32", 64), (NAMES[0], "bfloat16", 64), (NAMES[1], "float32", 64)]
TIMMS += [pytest.param(*case, marks=pytest.mark.long) for case in
          ((NAMES[1], "bfloat16", 64), *itertools.product(NAMES, ("float32", "bfloat16"), (224,)))]  # fmt: skip


@pytest.mark.timeout(900)  # 58 phases of 8 steps are minutes where a core is slow or shared
@pytest.mark.parametrize(("name", "format", "size"), TIMMS)
def test_T5_timms_transformers_bit_for_bit(name, format, size, record_property):
    """All blocks and stages, random weights, thresholds from the maximum: 64 x 64, L = 8; if long 224, L = 16."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, img_size=size).eval()
    x = torch.randn(2, 3, size, size)
    q = acc.quantise(model, "hn-qcfs", 8 if size == 64 else 16, "max", x).to(getattr(torch, format)).eval()
    for schedule in ("integrate-then-fire", "signed"):
        s = exact(q, x.to(getattr(torch, format)), schedule, record_property, f"{name} at {size}, {format}")
        assert len(s.counts) > 12 * 3  # GELU and both branches of each block; more where a batch's rows are images


@pytest.mark.parametrize("kind", ["vit", "swin"])
@pytest.mark.parametrize("settings", [{}, {"style": "mst", "norm": "batch"}], ids=["hn", "mst"])
def test_both_placements_are_exact(kind, settings, record_property):
    x = torch.randn(4, 3, 32, 32)
    q = acc.quantise(with_sites(small(kind), **settings), "qcfs", 8, "max", x).eval()
    for schedule in ("integrate-then-fire", "signed"):
        exact(q, x, schedule, record_property, f"{kind}, {settings or 'hn'}")


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_our_modules_compute_what_timms_do(kind):
    """With the sites taken out and GELU put back: timm's own answer; windows, shifts, masks and biases included."""
    model, x = small(kind), torch.randn(2, 3, 32, 32)
    if kind == "swin":
        for block in model.modules():
            if hasattr(block, "relative_position_bias_table"):
                nn.init.normal_(block.relative_position_bias_table)
    ours = with_sites(model)
    for name, module in list(ours.named_modules()):
        if isinstance(module, Site):
            ours.set_submodule(name, nn.GELU() if name.endswith("relu1") else nn.Identity())
    with torch.no_grad():  # sums in another order
        assert torch.allclose(ours(x), model(x), rtol=0, atol=1e-5)


SHAPES = {  # activation: (shape of Q, K, V, softmax and heads; of the feed-forward layers; of the projection)
    "hn-qcfs": ((3, 1, 1), (96,), ()), "h-qcfs": ((3, 1, 1), (), ()), "n-qcfs": ((), (96,), ()), "qcfs": ((), (), ()),
    "raw-hn-qcfs": ((3, 1, 1), (96,), ()), "cs-qcfs": ((3, 1, 1), (96,), ()),
}  # fmt: skip


@pytest.mark.parametrize("activation", SHAPES)
def test_thresholds_stand_where_the_thesis_puts_them(activation):
    """4.2.3: one per head in attention, one per neuron in the feed-forward layers, one for the projection (Eq. 4-5)."""
    x = torch.randn(4, 3, 32, 32)
    network = with_sites(small("vit"))
    layers = acc.quantise(network, "s-qcfs", 8, "max", x)
    for q in (acc.quantise(network, activation, 8, "max", x), acc.expand(layers, activation)):
        found = {name: m.parameter.shape for name, m in q.named_modules() if isinstance(m, QCFS)}
        assert len(found) == 2 * 8
        head, neuron, layer = SHAPES[activation]
        for part in ("q", "k", "v", "attention", "head"):
            assert found[f"blocks.1.attn.{part}"] == head, part
        assert found["blocks.1.mlp.relu1"] == neuron
        assert found["blocks.1.attn.projection"] == layer


def test_what_is_replaced_is_counted():
    said = acc.summary(acc.quantise(with_sites(small("vit")), "hn-qcfs"))
    parts = "10 activation of a head -> QCFS, 2 activation of a layer -> QCFS, 4 activation of a neuron -> QCFS"
    assert said == f"{parts}; real-valued operators: 5 LayerNorm, 4 matmul, 2 softmax"


def test_no_gelu_is_left_and_weights_stay():
    model = small("vit")
    ours = with_sites(model)
    assert not any(isinstance(m, (nn.GELU, Mlp)) for m in ours.modules())
    assert torch.equal(ours.blocks[1].attn.qkv.weight, model.blocks[1].attn.qkv.weight)
    assert set(model.state_dict()) == set(ours.state_dict())
    mst = with_sites(model, "mst", "batch")
    assert sum(isinstance(m, FeatureBatchNorm) for m in mst.modules()) == 4
    assert [name for name, m in mst.named_modules() if isinstance(m, nn.LayerNorm)] == ["norm"]


def test_per_step_loses_more_than_accumulated(record_property):
    """The same quantised ViT, streaming at T = 32: softmax and products step by step, and on what has accumulated."""
    network = xavier(small("vit"))  # seeded
    x = torch.randn(8, 3, 32, 32)
    q = acc.quantise(with_sites(network), "hn-qcfs", 16, "max", x).eval()
    off = {}
    for operators in ("per-step", "accumulated"):
        spiking = acc.convert(q, "streaming", operators)
        off[operators] = (acc.simulate(spiking, x, 32).logits[-1] - acc.answer(q, x)).abs().mean().item()
        ready = acc.calibrate(spiking, x, "cos", 4)
        assert ready.pre_steps == 12 * 4
        assert acc.simulate(ready, x, 4).latency == 52
    assert off["per-step"] > 1.5 * off["accumulated"]
    record_property("seen", f"N1 small ViT, T = 32, mean error of the logits: per step {off['per-step']:.3f}, "
                    f"accumulated {off['accumulated']:.3f}")  # fmt: skip


def test_masks_drop_spikes_and_are_refused_where_nothing_random_can_be_exact():
    x = torch.randn(4, 3, 32, 32)
    q = acc.quantise(with_sites(small("vit"), mask=0.75), "qcfs", 8, "max", x).eval()
    plain = acc.quantise(with_sites(small("vit")), "qcfs", 8, "max", x).eval()
    assert not torch.equal(acc.answer(q, x), acc.answer(q, x)), "drawn anew each time, in inference too"
    for schedule in ("signed", "integrate-then-fire"):
        with pytest.raises(acc.InputError, match=f"random spike masks change in every step: '{schedule}' cannot be"):
            acc.convert(q, schedule)
    spikes = [acc.simulate(acc.convert(n, "streaming"), x, 8).counts["blocks.0.attn.head"].sum() for n in (q, plain)]
    assert spikes[0] < spikes[1], "three quarters of what attention sees is gone"


def test_attention_that_is_not_supported_is_named():
    with pytest.raises(acc.InputError, match=r"blocks\.0\.attn \(EvaAttention\) is not supported: choose a model with"):
        with_sites(eva())
    gated = small("vit")
    gated.blocks[0].attn.gate = nn.Linear(24, 24)
    with pytest.raises(acc.InputError, match=r"blocks\.0\.attn .* has a gate, which is not supported"):
        with_sites(gated)


def eva():
    """A small model of timm's with an attention of its own."""
    return timm.models.eva.Eva(img_size=28, patch_size=14, embed_dim=24, depth=1, num_heads=3, num_classes=5)


BAD = [
    (["--model", "vit_tiny", "--data", "digits", "--size", "9"], "images of 9 x 9 do not divide into patches of 2"),
    (["--model", "swin_tiny", "--size", "20"], "do not divide into patches of 1, halved three times"),
    (["--model", "vit_tiny", "--mask", "0.5"], "mask drops spikes at random, and no other schedule than streaming"),
    (["--model", "cnn", "--placement", "mst"], "placement is for transformers (vit_tiny"),
    (["--model", "vit_tiny", "--distillation", "0.5", "--epochs", "0", "1", "1"], "distillation needs a teacher"),
    (["--model", "vit_tiny", "--operators", "both"], "unknown operators 'both': choose from accumulated, per-step"),
    (["--model", "vit_tiny", "--norm", "group"], "unknown norm 'group': choose from layer, batch"),
    (["--model", "vit_tiny", "--optimiser", "adam"], "unknown optimiser 'adam': choose from sgd, adamw; did you mean"),
    (["--model", "vit_huge"], "unknown model 'vit_huge'"),
    (["--model", "vit_tiny", "--pretrained", "--width", "0.5"], "published weights are of width 1 and all blocks"),
    (["--model", "cnn", "--blocks", "2"], "blocks is for transformers"),
    (
        ["--model", "vit_tiny", "--pretrained", "--size", "32"],
        "the weights of vit_tiny_patch16_224 could not be fetched",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    def no_network(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", no_network)  # a test must not fetch anything
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # on a busy machine, a run would say that it takes fewer threads
    assert call("--out", tmp_path / "runs", *arguments) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not list((tmp_path / "runs").glob("*/*"))


def test_parameters_match_the_literature():
    for name, count in {
        "vit_tiny": 5_717_416,
        "vit_small": 22_050_664,
        "vit_base": 86_567_656,
        "swin_tiny": 28_288_354,
    }.items():
        with torch.device("meta"):
            network = make(name, (3, 224, 224), 1000)
        assert sum(p.numel() for p in network.parameters()) == count


TINY = [
    "--model", "vit_tiny", "--width", 0.125, "--blocks", 1, "--activation", "hn-qcfs", "--levels", 4,
    "--times", 1, 4, "--test-images", 32, "--optimiser", "adamw", "--lr", 0.002, "--warmup", 1, "--weight-decay", 0.05,
]  # fmt: skip


def test_a_run_with_everything_and_its_report(tmp_path):
    """GELU first, then distilled; per step and accumulated, COS; the exact rows are exact; the report is rebuilt."""
    more = ["--gelu", "--epochs", 1, 1, 1, "--distillation", 0.5, "--operators", "per-step", "accumulated"]
    assert call(*TINY, *more, "--calibrations", "none", "cos", "--out", tmp_path, "--name", "x") == 0
    results = json.loads((tmp_path / "x" / "results.json").read_text())
    kinds = {(r["schedule"], r["operators"], r["calibration"]) for r in results["rows"]}
    assert {("streaming", o, c) for o in ("per-step", "accumulated") for c in ("none", "cos")} < kinds
    last = [r for r in results["rows"] if r["schedule"] == "signed"][-1]
    assert last["settled"]
    assert last["logits_equal"]
    assert set(results["threshold_spreads"]) == {"all", "head", "neuron", "layer"}
    assert results["threshold_spreads"]["layer"]["max"] == 0
    assert call("report", tmp_path / "x") == 0
    assert "streaming, per step, COS" in (tmp_path / "x" / "report.md").read_text()


def test_a_distilled_run_that_is_cut_ends_with_the_same_weights(tmp_path, monkeypatch):
    """The state for resuming includes the teacher."""

    arguments = [*TINY, "--epochs", 1, 3, 1, "--distillation", 0.5, "--out", tmp_path]
    assert call(*arguments, "--name", "whole") == 0
    real, seen = learning.train_epoch, []

    def stops(*a, **k):
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return real(*a, **k)

    monkeypatch.setattr(learning, "train_epoch", stops)
    assert call(*arguments, "--name", "cut") == 130
    monkeypatch.setattr(learning, "train_epoch", real)
    assert call(*arguments, "--name", "cut", "--resume") == 0
    cut, whole = (load_file(tmp_path / name / "weights.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(cut[name], value) for name, value in whole.items())


def test_warm_up_and_what_decays():
    rate = [learning.cosine(1.0, epoch, 100, 10)(0.0) for epoch in range(100)]
    assert rate[0] == 0
    assert 0.4 < rate[5] < 0.5
    assert max(rate) == rate[10] > 0.97
    assert rate[99] < 0.001
    network = experiment.network_for(experiment.checked(config.Config(model="swin_tiny", width=0.1, size=32)), Shape)
    named = dict(network.named_parameters())
    decaying = {id(p) for p in learning.optimiser(network, 0.1, "adamw", 0.05).param_groups[0]["params"]}
    assert id(named["layers.0.blocks.0.attn.qkv.weight"]) in decaying
    for name in ("layers.0.blocks.0.attn.bias.table", "layers.0.blocks.0.norm1.weight", "head.fc.bias"):
        assert id(named[name]) not in decaying, name


class Shape:
    """What `network_for` asks of a data set."""

    shape, classes = (1, 32, 32), 10


@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny"])
def test_published_weights_fit_small_images(name, tmp_path, monkeypatch):
    """timm resamples patches and positions, so that the network is the one that is rebuilt from disk."""
    create, local = timm.create_model, tmp_path / "published.safetensors"
    published = create(next(full for full in NAMES if full.startswith(name)))
    save_file(published.state_dict(), local)
    monkeypatch.setattr(timm, "create_model", functools.partial(create, pretrained_cfg_overlay={"file": str(local)}))
    fetched = make(name, (3, 32, 32), 10, pretrained=True)
    make(name, (3, 32, 32), 10).load_state_dict(fetched.state_dict())
    assert fetched(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    first = next(key for key in published.state_dict() if key.endswith("mlp.fc1.weight"))
    assert torch.equal(fetched.state_dict()[first], published.state_dict()[first])
