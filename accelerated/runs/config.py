"""The settings of a run, as data. validation.py checks them."""

from dataclasses import dataclass

from ..activation import PAPER
from ..schedules import SCHEDULES


@dataclass(frozen=True)
class Config:
    """Train a network, convert it to a spiking one, and compare the two. Writes runs/NAME/."""

    data: str = "digits"
    """What to learn: digits (8 x 8, comes with scikit-learn), mnist5k (28 x 28, needs the extra "mnist"), or from
    --data-root mnist, fashion-mnist, cifar10, cifar100, tiny-imagenet, imagefolder (a folder with train/ and test/ or
    val/)."""
    data_root: str = "data"
    """Folder that holds the data set."""
    download: bool = False
    """Fetch MNIST, Fashion-MNIST, CIFAR or Tiny-ImageNet into --data-root first."""
    size: int = 0
    """Side of the images: grey ones are padded to it, CIFAR enlarged, photographs cut; 0 is their own (of
    photographs at most 224)."""
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
    """Begin with the weights of a file, or of a run by its name in --out: of the ReLU network, or of the quantised one
    with the same activation and levels. --epochs of the stages that it has behind it must be 0."""
    until: str = "simulation"
    """The last thing to do: relu (train the ReLU network), training (the quantised one too), or simulation."""
    activation: str = "cs-qcfs"
    """The quantised activation: cs-qcfs (thresholds per channel, always positive), qcfs, s-, c-, e- or ce-qcfs; for
    transformers hn-qcfs (a threshold for each head and neuron), h-qcfs, n-qcfs; raw- before these: no Softplus."""
    stage1: str = "auto"
    """The layer-wise activation of stage 1; auto is s-qcfs, or `activation` itself where that is layer-wise."""
    levels: int = 8
    """L, the steps of the quantised activation. The spiking network equals the quantised one at T = L."""
    derivative: str = PAPER
    """Where the derivative of a quantised activation passes, by u = z L / theta + 1/2: as in the paper, or as in
    published code (docs/errata.md)."""
    initial_threshold: str = "max"
    """Where thresholds start: a positive number (theta), or max: the largest activation of the ReLU network."""
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
    """How fast the weights decay."""
    decay: str = "weights"
    """What decays: weights, or all (thresholds, biases and batch norm too, as in the published code of QCFS)."""
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
    bits: int = 0
    """Convert the trained network in whole numbers, with weights of 2 to 8 bits: exact on increments, too; 0: real
    numbers. For convolutional and fully connected networks."""
    schedules: tuple[str, ...] = tuple(SCHEDULES)
    """How to simulate: streaming, integrate-then-fire, signed, halving."""
    worths: str = "auto"
    """What the first spikes of halving are worth, in levels: auto (what is early and frugal on training images, with
    the span), or numbers that end in 1: 4,2,1."""
    span: int = 0
    """Of halving with given worths: by up to so many steps deeper layers go on later to their next worth."""
    wait: int = 0
    """Of halving with given worths: by up to so many steps deeper layers begin later, which takes fewer spikes."""
    operators: tuple[str, ...] = ("accumulated",)
    """What layer norm, softmax and products see when streaming: accumulated, or per-step as published."""
    calibrations: tuple[str, ...] = ("none",)
    """Of streaming networks: none, srp, cos, cos-published (as the authors' code does it), one row for each."""
    pre_steps: int = 4
    """Steps of a calibration: tau (srp) or rho in every layer (cos). They count as latency."""
    iterations: int = 1
    """How often cos calibrates each layer."""
    times: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 32)
    """The time steps T to simulate."""
    margins: tuple[float, ...] = ()
    """Read each image out of the longest run of each schedule once its best class leads by so much probability."""
    arithmetic: str = "totals"
    """totals, or increments: runs the drifting form of the exact schedules beside it."""
    audit: bool = True
    """Execute the steps of integrate-then-fire; --no-audit takes its counts from T2, and leaves equality empty."""
    engine: str = "dense"
    """dense (PyTorch), event (CPU: skips what did not fire; with --bits the exact schedules, too) and, of streaming
    networks, auto (by layer, the faster) or graph (GPU: dense, recorded once and replayed)."""
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
    track: str = "none"
    """Mirror the lines of the run to mlflow or wandb, if installed; or none."""
    resume: bool = False
    """Go on where an interrupted run with the same settings was."""


GROUPS = {  # of options, as --help shows them; those for newcomers first
    "first of all": (
        "data",
        "model",
        "activation",
        "levels",
        "epochs",
        "schedules",
        "times",
        "seed",
        "quick",
        "resume",
    ),
    "data": ("data_root", "download", "size", "augment"),
    "network": ("width", "stem", "blocks", "pretrained", "placement", "norm", "mask", "gelu", "start"),
    "quantisation": ("stage1", "derivative", "initial_threshold"),
    "training": (
        "until",
        "lr",
        "optimiser",
        "warmup",
        "distillation",
        "fine_tuning",
        "weight_decay",
        "decay",
        "batch",
        "accumulate",
        "precision",
        "compile",
    ),
    "simulation": (
        "bits",
        "worths",
        "span",
        "wait",
        "operators",
        "calibrations",
        "pre_steps",
        "iterations",
        "margins",
        "arithmetic",
        "audit",
        "engine",
        "test_batch",
        "test_images",
    ),
    "machine": ("device", "workers", "channels_last"),
    "output": ("name", "out", "track"),
}
NOT_PART_OF_A_RUN = ("out", "name", "track", "resume", "device", "workers", "data_root", "download")


def default_name(config):
    """The folder name made from the settings."""
    parts = [config.data, config.model, config.activation, f"L{config.levels}", f"seed{config.seed}"]
    return "-".join(parts + (["quick"] if config.quick else []))
