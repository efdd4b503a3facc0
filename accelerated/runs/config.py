"""What a run is asked for, as data; and whether that can be done."""

import re
from dataclasses import dataclass, fields

import torch

from .. import data as datasets
from . import training
from ..activation import VARIANTS, variant
from ..data.augment import AUGMENTATIONS
from ..calibration import METHODS
from ..checks import InputError, one_of, positive, whole
from ..conversion import SCHEDULES, exact_levels
from ..models import MODELS, STEMS, TRANSFORMERS
from ..engines import ENGINES
from ..graph.timm import NORMS, STYLES
from ..tokens import OPERATORS


@dataclass(frozen=True)
class Config:
    """Train a network, convert it to a spiking one, and compare the two. Writes runs/NAME/."""

    data: str = "digits"
    """What to learn: digits (8 x 8, comes with scikit-learn), mnist5k (28 x 28, needs the extra "mnist"), or from
    --data-root cifar10, cifar100, tiny-imagenet, imagefolder (a folder with train/ and test/ or val/)."""
    data_root: str = "data"
    """Folder that holds the data set."""
    download: bool = False
    """Fetch CIFAR or Tiny-ImageNet into --data-root first."""
    size: int = 0
    """Side of the images: digits and mnist5k are padded to it, CIFAR enlarged, photographs cut; 0 is their own."""
    augment: str = "auto"
    """none, standard (crop and flip) or full (AutoAugment and Cutout too); auto is full for images in colour."""
    model: str = "cnn"
    """The network: cnn (residual, 5 spiking layers), mlp (2), vgg16, resnet18, -20, -34, -50 or -101, or a transformer:
    vit_tiny, vit_small, vit_base, swin_tiny."""
    width: float = 1.0
    """Scale of the channels: 1 is the published network, 0.25 has a quarter of its channels."""
    stem: str = "auto"
    """How the published networks begin: cifar, imagenet (strides and pooling), or auto: by the images' size."""
    blocks: int = 0
    """Of a transformer (Swin: in each stage); 0 is as published."""
    pretrained: bool = False
    """Begin with a transformer's published weights (at width 1), which timm fetches."""
    placement: str = "hn"
    """Where a transformer is quantised: hn (softmax, Eq. 4-3) or mst (scores and norms: Masked Spiking Transformer)."""
    norm: str = "layer"
    """A transformer's normalisation: layer, or batch as MST has it."""
    mask: float = 0.0
    """Share of a transformer's spikes that are dropped at random, as MST does; streaming only."""
    gelu: bool = False
    """Let the first stage train a transformer as timm has it, with GELU, in place of the form with ReLUs."""
    start: str = ""
    """Begin with the weights of a file (weights.safetensors of another run): of the ReLU network, or of the quantised
    one with the same activation and levels. --epochs of the stages that it has behind it must be 0."""
    until: str = "simulation"
    """The last thing to do: relu (train the ReLU network), training (the quantised one too), or simulation."""
    activation: str = "cs-qcfs"
    """The quantised activation: cs-qcfs (thresholds per channel, always positive), qcfs, s-, c-, e- or ce-qcfs; for
    transformers hn-qcfs (a threshold for each head and neuron), h-qcfs, n-qcfs; raw- before these: no Softplus."""
    stage1: str = "auto"
    """The layer-wise activation of stage 1; auto is s-qcfs, or `activation` itself where that is layer-wise."""
    levels: int = 8
    """L, the steps of the quantised activation. The spiking network equals the quantised one at T = L."""
    initial_threshold: str = "calibrated"
    """Where thresholds start: a positive number (theta), or calibrated: the largest activation of the ReLU network."""
    epochs: tuple[int, int, int] = (12, 10, 6)
    """Epochs of the ReLU network, of stage 1 (layer thresholds) and of stage 2 (expanded thresholds)."""
    lr: float = 0.1
    """Learning rate at the start of the ReLU stage and of stage 1; annealed to 0 by a cosine in each stage."""
    optimiser: str = "sgd"
    """sgd (momentum 0.9) or adamw."""
    warmup: int = 0
    """Epochs in which the learning rate grows from 0, in each stage."""
    distillation: float = 0.0
    """Weight of the first stage's answers (which it must have learnt) in the loss of the others."""
    fine_tuning: float = 0.1
    """Learning rate of stage 2, as a share of lr."""
    weight_decay: float = 5e-4
    """Decay of weights; biases and batch norm do not decay."""
    decay_thresholds: bool = False
    """Let thresholds decay with the weights, as published code does."""
    batch: int = 64
    """Images per training step, over all processes."""
    accumulate: int = 1
    """Parts in which a batch is worked on, one after another; saves memory."""
    precision: str = "float32"
    """Of the forward pass in training: float32, bfloat16, or float16 (GPU only)."""
    channels_last: bool = False
    """Keep images with their channels last in memory: faster convolutions on GPUs."""
    compile: bool = False
    """Train under torch.compile: fewer passes over memory, after a minute of compiling. It needs a C++ compiler (on a
    GPU: Triton); where that is missing, one line says so and training goes on without."""
    workers: int = 2
    """Processes that read and augment images (0: none of their own)."""
    seed: int = 0
    """Seed of weights, order and augmentation. The split into training and test images never changes."""
    schedules: tuple[str, ...] = SCHEDULES
    """How to simulate: streaming, integrate-then-fire, signed."""
    operators: tuple[str, ...] = ("accumulated",)
    """What layer norm, softmax and products see when streaming: accumulated, or per-step as published."""
    calibrations: tuple[str, ...] = ("none",)
    """Of streaming networks: none, srp, cos, one row for each."""
    pre_steps: int = 4
    """Steps of a calibration: tau (srp) or rho in every layer (cos). They count as latency."""
    iterations: int = 1
    """How often cos calibrates each layer."""
    times: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """The time steps T to simulate."""
    margins: tuple[float, ...] = ()
    """Read each image out of the longest streaming run once its best class leads by so much probability."""
    arithmetic: str = "totals"
    """totals, or increments: runs the drifting form of integrate-then-fire and signed beside it."""
    audit: bool = True
    """Execute the steps of integrate-then-fire; --no-audit takes its counts from T2, and leaves equality empty."""
    engine: str = "dense"
    """Of streaming networks: dense (PyTorch), event (CPU: skips what did not fire), auto (by layer, the faster) or
    graph (GPU: dense, recorded once and replayed)."""
    test_batch: int = 256
    """Test images that are simulated at once; less saves memory."""
    test_images: int = 0
    """Simulate only the first so many test images; 0 is all."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, ..."""
    quick: bool = False
    """Shorter training and fewer time steps: a look at everything in well under a minute."""
    name: str = ""
    """Name of the run's folder; made from the settings if it is not given."""
    out: str = "runs"
    """Folder that holds the runs."""
    resume: bool = False
    """Go on where an interrupted run with the same settings was."""


QUICK = {"epochs": (3, 3, 2), "times": (1, 2, 4, 8)}
UNTIL = ("relu", "training", "simulation")
NOT_PART_OF_A_RUN = ("out", "name", "resume", "device", "workers", "data_root", "download")


def default_name(config):
    """The folder name that the settings make."""
    parts = [config.data, config.model, config.activation, f"L{config.levels}", f"seed{config.seed}"]
    return "-".join(parts + ["quick"] * config.quick)


def device(name):
    """The device to compute on; "auto" is cuda where there is one. InputError for one that is not here."""
    usable = ["cpu"] + (
        ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))] if torch.cuda.is_available() else []
    )
    if name not in ("auto", *usable):
        raise InputError(f"device {name!r} is not available: choose auto, {', '.join(usable)}")
    return name if name != "auto" else usable[min(1, len(usable) - 1)]


def _each(config, field, choices, name):
    if not getattr(config, field):
        raise InputError(f"{field} must name at least one")
    for value in getattr(config, field):
        one_of(value, choices, name)


def checked(config):
    """The config with `quick` and "auto" carried out; InputError naming the first field that is wrong."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    if config.quick:  # what was asked for by name stays
        values |= {name: value for name, value in QUICK.items() if values[name] == getattr(Config, name)}
    one_of(config.data, datasets.DATASETS, "data")
    one_of(config.model, MODELS, "model")
    one_of(config.stem, STEMS, "stem")
    one_of(config.arithmetic, ("totals", "increments"), "arithmetic")
    one_of(config.engine, ENGINES, "engine")
    one_of(config.until, UNTIL, "until")
    one_of(config.precision, training.PRECISIONS, "precision")
    one_of(config.augment, ("auto", *AUGMENTATIONS), "augment")
    colour = config.data not in ("digits", "mnist5k")
    values["augment"] = ("full" if colour else "none") if config.augment == "auto" else config.augment
    if values["augment"] != "none" and not colour:
        raise InputError(f"augment {config.augment!r} is for images in colour: choose none for {config.data}")
    one_of(config.activation, VARIANTS, "activation")
    fits = {"neuron": (*TRANSFORMERS, "mlp"), "head": TRANSFORMERS, "head and neuron": TRANSFORMERS}
    if config.model not in fits.get(variant(config.activation)[0], MODELS):
        raise InputError(
            f"activation {config.activation!r} does not fit model {config.model!r}: choose cs-qcfs or c-qcfs"
        )
    one_of(config.placement, STYLES, "placement"), one_of(config.norm, NORMS, "norm")
    one_of(config.optimiser, training.OPTIMISERS, "optimiser")
    changed = [n for n in ("placement", "norm", "mask", "gelu") if getattr(config, n) != getattr(Config, n)]
    if changed and config.model not in TRANSFORMERS:
        raise InputError(f"{changed[0]} is for transformers ({', '.join(TRANSFORMERS)}), got model {config.model!r}")
    if not 0 <= config.mask < 1:
        raise InputError(f"mask, a share of the spikes, must lie in [0, 1), got {config.mask}")
    if config.mask and config.schedules != ("streaming",):
        raise InputError("mask drops spikes at random, and no other schedule than streaming takes that")
    if not 0 <= config.distillation <= 1:
        raise InputError(f"distillation, a weight, must lie in [0, 1], got {config.distillation}")
    if config.distillation and not (config.epochs[0] or config.pretrained or config.start):
        raise InputError("distillation needs a teacher: give the first of the --epochs, --start or --pretrained")
    if config.start and config.pretrained:
        raise InputError("start and pretrained both say what to begin with: choose one")
    values["stage1"] = training.first_stage(config.activation) if config.stage1 == "auto" else config.stage1
    layerwise = [name for name, (kind, _) in VARIANTS.items() if kind == "layer"]
    one_of(values["stage1"], layerwise, "stage-1 activation")
    _each(config, "schedules", SCHEDULES, "schedule")
    _each(config, "calibrations", ("none", *METHODS), "calibration")
    _each(config, "operators", OPERATORS, "operators")
    if not values["times"]:
        raise InputError("times must name at least one")
    positive(config.width, "width")
    for name in ("levels", "batch", "accumulate", "pre_steps", "iterations", "test_batch"):
        whole(values[name], name)
    for name in ("size", "workers", "test_images", "blocks", "warmup"):
        whole(values[name], name, least=0)
    exact_levels(config.levels, torch.get_default_dtype(), "the run")
    for steps in values["times"]:
        whole(steps, "times")
        exact_levels(steps, torch.get_default_dtype(), "the run", "times")
    for margin in config.margins:
        if not 0 < margin < 1:
            raise InputError(f"margins must lie between 0 and 1, got {margin}")
    if not 0 <= config.seed < 2**63:
        raise InputError(f"seed must lie in 0..2^63 - 1, got {config.seed}")
    if not re.fullmatch(r"[\w.-]{0,100}", config.name) or config.name.startswith("."):
        raise InputError(f"name must be at most 100 letters, digits, '-', '_' and '.', got {config.name!r}")
    for epochs in values["epochs"]:
        whole(epochs, "epochs", least=0)
    positive(config.lr, "lr"), positive(config.fine_tuning, "fine_tuning")
    if not 0 <= config.weight_decay < float("inf"):
        raise InputError(f"weight_decay must be 0 or positive, got {config.weight_decay}")
    if config.initial_threshold != "calibrated":
        try:
            values["initial_threshold"] = float(config.initial_threshold)
        except ValueError:
            raise InputError(
                f"initial_threshold must be a number or 'calibrated', got {config.initial_threshold!r}"
            ) from None
        positive(values["initial_threshold"], "initial_threshold")
    values["device"] = device(config.device)
    if config.engine == "graph" and values["device"] == "cpu":
        raise InputError("engine 'graph' needs a GPU: choose dense, event or auto")
    if config.precision == "float16" and values["device"] == "cpu":
        raise InputError("precision 'float16' needs a GPU: choose float32 or bfloat16")
    values["name"] = config.name or default_name(config)
    return Config(**values)
