"""Whether what a run is asked for can be done: constraints as data, and "auto" carried out."""

import re
from dataclasses import fields, replace

import torch

from .. import data as datasets
from ..activation import MASKS, VARIANTS, variant
from ..calibration import METHODS
from ..checks import InputError, one_of, positive, whole
from ..conversion import exact_levels
from ..data.augment import AUGMENTATIONS
from ..engines import ENGINES
from ..graph.timm import NORMS, STYLES
from ..initial import method_of
from ..models import MODELS, STEMS, TRANSFORMERS
from ..schedules import SCHEDULES, halving
from ..tokens import FORMS
from ..training import DECAYS
from ..units import FINEST, largest_step
from . import learning, tracking
from .config import Config, default_name

QUICK = {"epochs": (3, 3, 2), "times": (1, 2, 4, 8)}
UNTIL = ("relu", "training", "simulation")
PACKAGED = ("digits", "mnist5k")
GREY = (*PACKAGED, "mnist", "fashion-mnist")  # images that are not augmented
LAYERWISE = [name for name, (kind, _) in VARIANTS.items() if kind == "layer"]

CHOICES = {
    "data": datasets.DATASETS,
    "model": MODELS,
    "stem": STEMS,
    "arithmetic": ("totals", "increments"),
    "engine": ENGINES,
    "until": UNTIL,
    "precision": learning.PRECISIONS,
    "augment": ("auto", *AUGMENTATIONS),
    "activation": VARIANTS,
    "placement": STYLES,
    "norm": NORMS,
    "optimiser": learning.OPTIMISERS,
    "decay": DECAYS,
    "track": ("none", *tracking.TRACKERS),
    "derivative": MASKS,
    "stage1": ("auto", *LAYERWISE),
}
EACH = {  # fields that name several: (choices, what one is called)
    "schedules": (SCHEDULES, "schedule"), "calibrations": (("none", *METHODS), "calibration"),
    "operators": (FORMS, "operators"),
}  # fmt: skip
AT_LEAST = dict.fromkeys(("levels", "batch", "accumulate", "pre_steps", "iterations", "test_batch", "times"), 1)
AT_LEAST |= dict.fromkeys(("size", "workers", "test_images", "blocks", "warmup", "epochs", "span", "wait"), 0)
POSITIVE = ("width", "lr", "fine_tuning")


def _streams(config):
    return any(SCHEDULES[name].streams for name in config.schedules)


def _exact(config):
    return not all(SCHEDULES[name].streams for name in config.schedules)


def _executed(config):
    """Whether any schedule executes its steps."""
    return config.audit or any("theorem" not in SCHEDULES[name].arithmetics for name in config.schedules)


def on_events(config):
    """Whether a run executes the exact schedules spike by spike: on the event engine, in whole numbers."""
    return config.engine == "event" and config.bits > 0


def _fits(config):
    """Whether the model has the features that an activation's thresholds are for."""
    fits = {"neuron": (*TRANSFORMERS, "mlp"), "head": TRANSFORMERS, "head and neuron": TRANSFORMERS}
    return config.model in fits.get(variant(config.activation)[0], MODELS)


RULES = (  # (what must hold, what is said otherwise)
    (lambda c: c.augment in ("auto", "none") or c.data not in GREY,
     "augment {c.augment!r} is for images in colour: choose none for {c.data}"),
    (_fits, "activation {c.activation!r} does not fit model {c.model!r}: choose cs-qcfs or c-qcfs"),
    (lambda c: 0 <= c.mask < 1, "mask, a share of the spikes, must lie in [0, 1), got {c.mask}"),
    (lambda c: not c.mask or not _exact(c),
     "mask drops spikes at random, and no other schedule than streaming takes that"),
    (lambda c: 0 <= c.distillation <= 1, "distillation, a weight, must lie in [0, 1], got {c.distillation}"),
    (lambda c: not c.distillation or c.epochs[0] or c.pretrained or c.start,
     "distillation needs a teacher: give the first of the --epochs, --start or --pretrained"),
    (lambda c: not (c.start and c.pretrained), "start and pretrained both say what to begin with: choose one"),
    (lambda c: all(0 < margin < 1 for margin in c.margins), "margins must lie between 0 and 1, got {c.margins}"),
    (lambda c: 0 <= c.seed < 2**63, "seed must lie in 0..2^63 - 1, got {c.seed}"),
    (lambda c: re.fullmatch(r"[\w.-]{0,100}", c.name) and not c.name.startswith("."),
     "name must be at most 100 letters, digits, '-', '_' and '.', got {c.name!r}"),
    (lambda c: c.bits in (0, *range(2, FINEST + 1)), f"bits must be 2 to {FINEST}, or 0, got {{c.bits}}"),
    (lambda c: c.iterations == 1 or "cos-published" not in c.calibrations,
     "cos-published calibrates once, as the authors' code: leave --iterations"),
    (lambda c: 0 <= c.weight_decay < float("inf"), "weight_decay must be 0 or positive, got {c.weight_decay}"),
)  # fmt: skip

IDLE = (  # (fields, when they do something, what is said where they are given and would do nothing)
    (("placement", "norm", "mask", "gelu", "blocks", "pretrained"), lambda c: c.model in TRANSFORMERS,
     f"is for transformers ({', '.join(TRANSFORMERS)}), got model {{c.model!r}}"),
    (("stem",), lambda c: c.model not in ("cnn", "mlp", *TRANSFORMERS),
     "is for the published CNNs, got model {c.model!r}"),
    (("download", "data_root"), lambda c: c.data not in PACKAGED,
     "is for data sets from a folder, got data {c.data!r}"),
    (("bits",), lambda c: c.model not in TRANSFORMERS, "is for networks without layer norm, got model {c.model!r}"),
    (("worths", "span", "wait"), lambda c: any(SCHEDULES[name].worths is None for name in c.schedules),
     "is for halving, got schedules {c.schedules}"),
    (("span", "wait"), lambda c: c.worths != "auto", "is chosen with the worths: give --worths, too"),
    (("operators", "calibrations"), _streams, "is for streaming, got schedules {c.schedules}"),
    (("engine",), lambda c: _streams(c) or on_events(c),
     "is for streaming, or event with --bits for the exact schedules; got {c.engine!r}, schedules {c.schedules}"),
    (("pre_steps",), lambda c: set(c.calibrations) & set(METHODS),
     "is for calibrations, got calibrations {c.calibrations}"),
    (("iterations",), lambda c: "cos" in c.calibrations, "is for cos, got calibrations {c.calibrations}"),
    (("decay",), lambda c: c.weight_decay > 0, "is for weights that decay: weight_decay is 0"),
    (("derivative",), lambda c: c.until != "relu" and any(c.epochs[1:]),
     "is for training quantised networks, got epochs {c.epochs} until {c.until}"),
    (("arithmetic",), _exact, "is for the exact schedules, got schedules {c.schedules}"),
    (("arithmetic", "engine", "margins"), _executed,
     "is for steps that are executed, got schedules {c.schedules} with --no-audit"),
    (("audit",), lambda c: any("theorem" in SCHEDULES[name].arithmetics for name in c.schedules),
     "is for integrate-then-fire, got schedules {c.schedules}"),
)  # fmt: skip


def device(name):
    """The device to compute on; "auto" is cuda where there is one. InputError for one that is not here."""
    usable = ["cpu"]
    if torch.cuda.is_available():
        usable += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if name not in ("auto", *usable):
        raise InputError(f"device {name!r} is not available: choose auto, {', '.join(usable)}")
    return name if name != "auto" else usable[min(1, len(usable) - 1)]


def _numbers(config):
    """InputError for a number, or one of several, that is too small or no number."""
    for name, least in AT_LEAST.items():
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            whole(number, name, least)
    for name in POSITIVE:
        positive(getattr(config, name), name)
    exact_levels(config.levels, torch.get_default_dtype(), "the run")
    exact_levels(max(config.times), torch.get_default_dtype(), "the run", "times")
    if config.bits:
        largest_step(config.levels)


def _names(config):
    """InputError for what must be one of a few, or some of them."""
    for name, choices in CHOICES.items():
        one_of(getattr(config, name), choices, "stage-1 activation" if name == "stage1" else name)
    for name, (choices, called) in EACH.items():
        for value in getattr(config, name):
            one_of(value, choices, called)
    for name in (*EACH, "times"):
        if not getattr(config, name):
            raise InputError(f"{name} must name at least one")


def _initial_threshold(given):
    """A number, or how it is taken from a sample."""
    try:
        number = float(given)
    except ValueError:
        method_of(given)
        return "max" if given == "calibrated" else given
    return positive(number, "initial_threshold")


def schedule_with(worths, span, wait):
    """The halving schedule of the settings; None where it is chosen on training images. InputError for no worths."""
    if worths == "auto":
        return None
    if not re.fullmatch(r"\d+(,\d+)*", worths):
        raise InputError(f"worths are numbers, such as 4,2,1, or auto, got {worths!r}")
    return halving([int(worth) for worth in worths.split(",")], span, wait)


def _carried_out(config):
    """The config with `quick` and "auto" as what they stand for, but for the device."""
    values: dict = {}
    if config.quick:  # what was asked for by name stays
        values = {name: value for name, value in QUICK.items() if getattr(config, name) == getattr(Config, name)}
    if config.stage1 == "auto":
        values["stage1"] = learning.first_stage(config.activation)
    values["initial_threshold"] = _initial_threshold(config.initial_threshold)
    values["name"] = config.name or default_name(config)
    return replace(config, **values)


def checked(config):
    """The config with `quick` and "auto" carried out; InputError naming the first field that is wrong.

    A field that was given and would do nothing with the others is wrong, too. The device is left to `placed`: a job is
    planned on another machine than it runs on.
    """
    _names(config)
    _numbers(config)
    for holds, otherwise in RULES:
        if not holds(config):
            raise InputError(otherwise.format(c=config))
    given = {field.name for field in fields(config) if getattr(config, field.name) != field.default}
    for names, matters, otherwise in IDLE:
        for name in names:
            if name in given and not matters(config):
                raise InputError(f"{name} {otherwise.format(c=config)}")
    schedule_with(config.worths, config.span, config.wait)
    tracking.installed(config.track)
    return _carried_out(config)


def placed(config):
    """The config with the device of this machine that it computes on; InputError where it asks for what is not here."""
    config = replace(config, device=device(config.device))
    if config.engine == "graph" and config.device == "cpu":
        raise InputError("engine 'graph' needs a GPU: choose dense, event or auto")
    if config.precision == "float16" and config.device == "cpu":
        raise InputError("precision 'float16' needs a GPU: choose float32 or bfloat16")
    return config
