"""Every table and figure of the thesis's chapters 3 and 4, and the ImageNet rows of the QCFS paper, as data.

A preset is a list of rows; a row is a training configuration, the calibration under which it is read, and the
published figures. Rows that need the same network share one run. `published/` holds the thesis's tables as printed.

Assumed, since the sources do not say or contradict themselves: batches of 128 in chapter 3 (1024 in chapter 4 is read
off Figure 5-6); rho = 4 for COS (read off Figure 5-11) and tau = 4 for SRP; the thesis's own rows use COS, and begin
with layer-wise S-QCFS (Algorithm 1 says QCFS, which does not keep the thresholds positive that the switch needs);
Table 3-5's "channel-wise" and Table 3-4's "w/o Softplus" are C-QCFS after layer-wise QCFS; thresholds, biases and
norms decay as the weights do, as in the published code of QCFS, and derivatives pass as in its paper. Chapter 4: ViT is
ViT-S with patches of 16, trained from scratch; thresholds through Softplus (there raw); stage 2 at a tenth of the rate
(4.3.2 says ten times, against 3.3.2); MST without masking, from thresholds of 2 as its code has it.
"""

import csv
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..checks import InputError, one_of
from ..models import TRANSFORMERS
from ..runs.config import Config
from ..runs.validation import checked

TIMES = (1, 2, 4, 8, 16, 32)
SCALES = ("full", "cifar", "small", "smoke")
DATA = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100"}
MODEL = {"ResNet-18": "resnet18", "ResNet-20": "resnet20", "ResNet-50": "resnet50", "ResNet-101": "resnet101",
         "VGG-16": "vgg16"}  # fmt: skip
LR = {  # Table 3-1, and the text of 3.3.2 where the table has no row
    ("CIFAR-10", "ResNet-50"): 0.01, ("CIFAR-10", "ResNet-101"): 0.01, ("CIFAR-100", "VGG-16"): 0.01,
    ("CIFAR-100", "ResNet-50"): 0.01, ("CIFAR-100", "ResNet-101"): 0.01,
}  # fmt: skip
METHODS = {  # the name in a table: (activation, layer-wise activation of stage 1, second stage, calibration)
    "QCFS": ("qcfs", "qcfs", False, "none"),
    "SRP": ("qcfs", "qcfs", False, "srp"),
    "COS": ("qcfs", "qcfs", False, "cos"),
    "ours": ("cs-qcfs", "s-qcfs", True, "cos"),
    "Full": ("cs-qcfs", "s-qcfs", True, "cos"),
    "w/o channel": ("s-qcfs", "s-qcfs", True, "cos"),
    "w/o Softplus": ("c-qcfs", "qcfs", True, "cos"),
    "origin": ("qcfs", "qcfs", False, "cos"),
    "layer-wise": ("qcfs", "qcfs", True, "cos"),
    "channel-wise": ("c-qcfs", "qcfs", True, "cos"),
    "C-QCFS": ("c-qcfs", "qcfs", True, "none"),
    "CS-QCFS": ("cs-qcfs", "s-qcfs", True, "none"),
    "Exp": ("ce-qcfs", "e-qcfs", True, "cos"),
}


@dataclass(frozen=True)
class Row:
    """One row of a table: how to train, which calibration to read, and the published figures by column."""

    label: tuple
    config: Config
    calibration: str = "none"
    published: dict = field(default_factory=dict)
    operators: str = "accumulated"  # the form of layer norm, softmax and products under streaming


@dataclass(frozen=True)
class Preset:
    """A table or figure: what it shows, its rows, and the kind of value that it compares."""

    title: str
    rows: tuple
    kind: str = "accuracy"  # or ann (of the ordinary network), spread, positive, activations, response


def published(table):
    """The rows of a published table as printed, {column: text}."""
    path = Path(__file__).parent / "published" / f"{table}.csv"
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def figures(row):
    """The printed numbers of a row, in per cent: {"ann": 95.6, 1: 94.2, ...} or {"max": 339.7, "avg": 153.4}."""
    named = {"ann": "ann", "max_diff_percent": "max", "avg_diff_percent": "avg"} | {f"T{t}": t for t in TIMES}
    named |= {f"{kind}_diff_{site}_percent": f"{kind} {site}" for kind in ("max", "avg") for site in ("head", "neuron")}
    return {named[key]: float(value) for key, value in row.items() if key in named and value}


def thesis(dataset, architecture, method, levels=None, threshold=None):
    """The training configuration of 3.3.2 for a row."""
    wide = dataset == "CIFAR-100" and architecture == "ResNet-20"  # L = 8, initial threshold 8
    activation, stage1, second, _ = METHODS[method]
    return Config(
        data=DATA[dataset], model=MODEL[architecture], activation=activation, stage1=stage1,
        levels=levels or (8 if wide else 4), initial_threshold=str(threshold or (8 if wide else 4)),
        epochs=(0, 300, 100 if second else 0),
        lr=LR.get((dataset, architecture), 0.1 if dataset == "CIFAR-10" else 0.05),
        batch=128, augment="full", calibrations=("none", "srp", "cos"), pre_steps=4, times=TIMES, margins=(0.5, 0.9),
        decay="all",
    )  # fmt: skip


def named(method):
    """The name of a method in our tables: the thesis's "ours" is CS-QCFS read with COS."""
    return "CS-QCFS with COS" if method == "ours" else method


def rows_of(table):
    """The rows of a published table."""
    for row in published(table):
        method = row.get("method") or row["activation"]
        config = thesis(row["dataset"], row["architecture"], method)
        yield Row((row["dataset"], row["architecture"], named(method)), config, METHODS[method][3], figures(row))


def relu_alone(config, epochs):
    """The run of the ReLU network alone: the same for all activations, levels and simulations; all images test it."""
    unread = ("activation", "stage1", "levels", "initial_threshold", "derivative", "schedules", "times",
              "margins", "calibrations", "pre_steps", "test_images")  # fmt: skip
    return replace(config, until="relu", epochs=(epochs, 0, 0), **{name: getattr(Config(), name) for name in unread})


def over_levels(methods, levels):
    """VGG-16 and ResNet-20 on both data sets, for each L."""
    for dataset in DATA:
        for architecture in ("VGG-16", "ResNet-20"):
            for method in methods:
                for steps in levels:
                    label = (dataset, architecture, f"{named(method)}, L = {steps}")
                    yield Row(label, thesis(dataset, architecture, method, levels=steps), METHODS[method][3])
            if len(methods) > 1:
                yield Row((dataset, architecture, "ReLU"), relu_alone(thesis(dataset, architecture, "QCFS"), 300))


def falling_thresholds():
    """Raw QCFS from small initial thresholds, decaying as published, and with Softplus for comparison."""
    cases = [("CIFAR-10", "ResNet-20", 4), ("CIFAR-100", "ResNet-20", 8)] + [
        ("CIFAR-10", "VGG-16", n) for n in (2, 4, 8)
    ]
    for dataset, architecture, levels in cases:
        for method in ("QCFS", "w/o channel"):
            for start in (0.25, 1.0) if architecture == "ResNet-20" else (4.0,):
                name = f"{METHODS[method][0]}, L = {levels}, from {start:g}"
                config = replace(
                    thesis(dataset, architecture, method, levels, start),
                    schedules=("streaming",), calibrations=("none",), times=(levels,), margins=(),
                )  # fmt: skip
                yield Row((dataset, architecture, name), config)


def imagenet():
    """Bu et al. 2022 and their code: L = 8, thresholds from 8, ResNet-34 with CIFAR's stem; 120 epochs at 0.1 with a
    weight decay of 1e-4 are assumed.
    """
    for architecture in ("VGG-16", "ResNet-34"):
        config = Config(
            data="imagefolder", size=224, model=architecture.lower().replace("-", ""), activation="qcfs", stage1="qcfs",
            levels=8, initial_threshold="8", epochs=(0, 120, 0), lr=0.1, weight_decay=1e-4, batch=256,
            augment="standard", times=(16, 32, 64, 128), schedules=("streaming",), decay="all", derivative="0<=u<L+1",
            stem="auto" if architecture == "VGG-16" else "cifar",
        )  # fmt: skip
        yield Row(("ImageNet", architecture, "QCFS"), config)


def only(label):
    """The one row of this label."""
    return (Row((*label[:2], named(label[2])), thesis(*label), METHODS[label[2]][3]),)


def _exp():
    for architecture in ("VGG-16", "ResNet-20"):
        for method in ("ours", "Exp"):
            label = ("CIFAR-10", architecture, "Softplus" if method == "ours" else method)
            yield Row(label, thesis("CIFAR-10", architecture, method), METHODS[method][3])


TRANSFORMER = {"ViT": "vit_small", "Swin-T": "swin_tiny"}
HN: dict = {"stage1": "s-qcfs", "epochs": (0, 300, 100), "calibrations": ("none", "cos")}
ATTENTION: dict = {  # chapter 4: the name in a table -> what it sets
    "MST": {
        "activation": "qcfs",
        "stage1": "qcfs",
        "epochs": (0, 300, 0),
        "placement": "mst",
        "norm": "batch",
        "initial_threshold": "2",
    },
    "ours": {"activation": "hn-qcfs", **HN},
    "Full": {"activation": "hn-qcfs", **HN},
    "HN-QCFS": {"activation": "hn-qcfs", **HN},
    "w/o neuron": {"activation": "h-qcfs", **HN},
    "w/o head": {"activation": "n-qcfs", **HN},
}


def transformer(dataset, architecture, method):
    """The training configuration of 4.3.2 for a row."""
    return Config(
        data=DATA[dataset], size=224, model=TRANSFORMER[architecture], levels=16, lr=1e-4,
        optimiser="adamw", warmup=10, weight_decay=0.05, batch=1024, augment="standard", times=TIMES, test_batch=64,
        operators=("per-step", "accumulated"), pre_steps=4, **{"initial_threshold": "3"} | ATTENTION[method],
    )  # fmt: skip


def transformer_rows(table):
    """The rows of a published table of chapter 4: per-step operators; the thesis's own are read with COS."""
    for row in published(table):
        method = row.get("method") or row["activation"]
        config = transformer(row["dataset"], row["architecture"], method)
        label = row["dataset"], row["architecture"], "HN-QCFS with COS" if method == "ours" else method
        calibration = "none" if method in ("MST", "HN-QCFS") else "cos"
        yield Row(label, config, calibration, figures(row), "per-step")
        if method == "ours":  # beyond the thesis: the same network, operators accumulated
            yield Row((*label[:2], "HN-QCFS, accumulated"), config, "none", {}, "accumulated")


PRESETS = {
    "table-3-2": Preset("CIFAR-10: QCFS, SRP, COS and CS-QCFS", tuple(rows_of("table_3_2"))),
    "table-3-3": Preset("CIFAR-100: QCFS, SRP, COS and CS-QCFS", tuple(rows_of("table_3_3"))),
    "table-3-4": Preset("Ablation: channel thresholds and Softplus", tuple(rows_of("table_3_4"))),
    "table-3-5": Preset("Ablation: two-stage training", tuple(rows_of("table_3_5"))),
    "table-3-6": Preset("How far the thresholds of a layer move apart", tuple(rows_of("table_3_6")), "spread"),
    "table-4-2": Preset("CIFAR-10: MST and HN-QCFS on ViT and Swin-T", tuple(transformer_rows("table_4_2"))),
    "table-4-3": Preset("CIFAR-100: MST and HN-QCFS on ViT and Swin-T", tuple(transformer_rows("table_4_3"))),
    "table-4-4": Preset("Ablation: thresholds per head and per neuron", tuple(transformer_rows("table_4_4"))),
    "table-4-5": Preset("How far the thresholds of heads and neurons move apart",
                        tuple(transformer_rows("table_4_5")), "site spread"),
    "figure-3-1": Preset("Response of QCFS, ReLU and IF to positive and negative thresholds", (), "response"),
    "figure-3-2": Preset("Mean activation of each channel, VGG-16 on CIFAR-10",
                         only(("CIFAR-10", "VGG-16", "ours")), "activations"),
    "figure-3-3": Preset("Accuracy of ReLU, QCFS and CS-QCFS networks over L",
                         tuple(over_levels(("QCFS", "ours"), (2, 4, 8, 16, 32))), "ann"),
    "figure-3-4": Preset("Accuracy over T for different L", tuple(over_levels(("ours",), (2, 4, 8, 16, 32)))),
    "figure-3-5": Preset("Thresholds that turn negative in training", tuple(falling_thresholds()), "positive"),
    "softplus-or-exp": Preset("Softplus against Exp as the map to positive thresholds (3.2.1)", tuple(_exp())),
    "cifar100-resnet18": Preset("Table 3-1's ResNet-18 on CIFAR-100, for which no result was published",
                                only(("CIFAR-100", "ResNet-18", "ours"))),
    "imagenet": Preset("QCFS on ImageNet (Bu et al. 2022)", tuple(imagenet())),
}  # fmt: skip


AFTER_RELU = 5  # at the whole rate, 8 epochs of S-QCFS (L = 4) end at 70 %, where 77 % is the beginning
SHALLOW: dict = {"vit_small": {"model": "vit_tiny", "blocks": 3}, "swin_tiny": {"blocks": 1}}


def scaled_transformer(config, scale):
    """A transformer's row, smaller. Initial thresholds are from the maximum: with 3, attention would be silent."""
    second = bool(config.epochs[2])
    common = {"size": 32, "augment": "none", "initial_threshold": "max", "lr": 1e-3, "warmup": 1, "batch": 64,
              "test_batch": 64, "width": 0.25, **SHALLOW[config.model]}  # fmt: skip
    if scale == "cifar":
        return replace(config, epochs=(0, 40, 10 * second), test_images=1000, **common | {"augment": "standard"})
    if scale == "small":
        return replace(config, data="mnist5k", epochs=(0, 16, 4 * second), test_images=500, **common)
    return replace(config, data="digits", epochs=(0, 4, 1 * second), **common | {"width": 0.125, "warmup": 0})


def scaled(config, scale):
    """The same row, smaller.

    "cifar" keeps the data: 30 epochs of ReLU, then 4 and 2 of the stages from thresholds by least squares, with less
    augmentation and 2,000 of the test images; ResNet-20 at full width, others narrow. "small" trains narrow networks on
    MNIST-5k, "smoke" shows in minutes that it runs.
    """
    one_of(scale, SCALES, "scale")
    relu, first, second = config.epochs
    if scale == "full":
        return config
    if scale == "cifar" and config.data not in DATA.values():
        raise InputError(f"scale 'cifar' is for rows on {' and '.join(DATA)}: choose another")
    if config.model in TRANSFORMERS:
        return scaled_transformer(config, scale)
    if scale == "cifar":
        width = 1.0 if config.model == "resnet20" else 0.25
        fewer = {"epochs": (30, first and 4, second and 2), "lr": min(config.lr, 0.05), "initial_threshold": "mse"}
        less = replace(config, width=width, augment="standard", margins=(), test_images=2000, **fewer)
        return relu_alone(less, 30) if config.until == "relu" else less
    # a cosine to 0 leaves almost nothing for the last epoch: fine-tuning takes a third of the epochs, as published
    epochs = {"small": (relu and 12, first and 12, second and 4), "smoke": (relu and 1, first and 1, second and 1)}
    common = {"size": 32, "augment": "none", "epochs": epochs[scale]}
    if scale == "small":
        width = 0.25 if config.model == "resnet20" else 0.125
        lr = 0.05 if config.model in ("resnet20", "vgg16") else min(config.lr, 0.05)
        return replace(config, data="mnist5k", width=width, batch=64, lr=lr, **common)
    times = tuple(steps for steps in config.times if steps <= 32) or (1,)
    small = {
        "width": 0.125 if config.model == "resnet20" else 0.0625,
        "batch": 64,
        "test_images": 64,
        "times": times,
        "margins": (),
    }
    return replace(config, data="digits", lr=0.005, **small, **common)  # lr: stable at any depth


def run_name(config, scale):
    """The folder of a row's run: the same for every table that needs this network."""
    epochs = ".".join(map(str, config.epochs))
    quantised = [config.activation, f"L{config.levels}", f"theta{config.initial_threshold}"]
    parts = [config.data, config.model, *(["relu"] if config.until == "relu" else quantised)]
    parts += ["mst"] if config.placement == "mst" else []
    parts += [f"e{epochs}", f"seed{config.seed}"]
    return "-".join([*parts, *([scale] if scale != "full" else [])])


def lineage(config, scale):
    """The runs of a row, as checked Configs: each goes on from the one before, the last is the row's own.

    Every stage that is trained is a run, so that rows share what they have in common: a two-stage row goes on from the
    row that stops after its stage 1, which is simulated only where it is a row itself (QCFS). Quantised networks that
    begin with a trained one take a smaller rate.
    """
    relu, first, second = config.epochs
    own: dict = {"lr": config.lr / AFTER_RELU} if first and relu else {}
    before = []
    if second and first:
        until = "simulation" if config.stage1 == "qcfs" else "training"
        before = lineage(replace(config, activation=config.stage1, epochs=(relu, first, 0), until=until), scale)
        own |= {"epochs": (0, 0, second)}
    elif first and relu:
        before = lineage(relu_alone(config, relu), scale)
        own |= {"epochs": (0, first, 0)}
    start = {"start": before[-1].name} if before else {}
    return [*before, checked(replace(config, name=run_name(config, scale), resume=True, **own, **start))]


def jobs(name, scale="full", seeds=(0,), **overrides):
    """(preset, [(row, [`lineage` for each seed])]); rows may share runs."""
    preset = PRESETS[one_of(name, PRESETS, "preset")]
    made = []
    if preset.kind == "positive" and scale == "cifar":
        raise InputError(f"{name} is about where thresholds start, which scale 'cifar' decides: choose another")
    for row in preset.rows:
        configs = [replace(scaled(row.config, scale), seed=seed, **overrides) for seed in seeds]
        made.append((row, [lineage(config, scale) for config in configs]))
    return preset, made
