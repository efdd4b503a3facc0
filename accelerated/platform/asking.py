"""From answered fields to the settings of a run, or to one sentence about the answer that is wrong."""

from collections.abc import Iterable
from pathlib import Path

import psutil
import torch

from ..checks import InputError
from ..runs.config import Config
from ..runs.validation import checked
from ..schedules import SCHEDULES
from . import networks
from .database import Record
from .fields import ANN, CNN_TYPES, FORMS, QANN, TEST, TRANSFORMER_TYPES, UPLOAD, Field
from .options import PlatformOptions
from .records import BROKEN, checkpoint
from .refusals import Refused

RATES = {"sgd": 0.1, "adamw": 0.001}
WANTED = {
    None: "Choose a record of a network.",
    "ann": "Choose a record of ANN pre-training.",
    "qann": "A spiking network is made from a quantised one: choose a record of QANN training.",
}


def read(form: Iterable[Field], answers: dict) -> dict:
    """{field: value} of all answers but those about files and records; Refused with the first that is wrong."""
    unknown = sorted(set(answers) - {field.name for field in form} - set(networks.SHARED))
    if unknown:
        raise Refused("There is no field {got} here.", got=unknown[0])
    values = {}
    for field in form:
        if field.name == "lr" and not str(answers.get("lr") or "").strip():
            values["lr"] = None
        elif field.kind not in ("file", "record"):
            values[field.name] = field.read(answers.get(field.name))
    return values


def _restarting(values):
    return {"after_restart": "wait"} if values["after_restart"] == "wait" else {}


def _usual(values, model):
    """The optimiser and the learning rate, by default those usual for the network."""
    optimiser = values["optimiser"] or ("adamw" if networks.is_transformer(model) else "sgd")
    rate = RATES[optimiser] if values["lr"] is None else values["lr"]
    return {"optimiser": optimiser, "lr": rate}


def _checked(settings, options):
    """The settings, if `accelerated.run` accepts them; Refused with its error otherwise."""
    most = networks.DATA[settings["data"]].training
    if settings.get("batch", 1) > most:
        limits = {"got": settings["batch"], "least": 1, "most": most}
        raise Refused("{got} is not a whole number from {least} to {most}.", field="batch", **limits)
    try:
        _fits(networks.least_memory(settings, options.processes) if any(settings["epochs"]) else 0, options)
        networks.build(settings)
        values: dict = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
        checked(Config(**{key: value for key, value in values.items() if key != "start"}))
    except InputError as error:
        raise Refused("This cannot be run.", field=str(error).split()[0], detail=str(error)) from None
    if networks.missing(settings["data"], options.data):
        raise Refused("This data set is not on this machine: ask the administrator to get it.", field="data")
    return settings


def _fits(needed, options):
    """Refused if training needs more memory than a run may take, or than there is."""
    most = options.memory or psutil.virtual_memory().total // 2**20 // options.jobs
    if needed > most and not torch.cuda.is_available():
        raise Refused("Training this needs {needed} MiB of memory at the least, and a run may take {most} here: choose "
                      "a smaller batch, network or image size.", field="batch", needed=needed, most=most)  # fmt: skip


def _shared(values):
    return networks.sized({key: values[key] for key in networks.SHARED})


def ann(answers: dict, options: PlatformOptions) -> dict:
    """Settings of the training of a ReLU network."""
    values = read(ANN, answers)
    more = _usual(values, values["model"]) | {key: values[key] for key in ("batch", "seed", "weight_decay")}
    more |= {"epochs": [values["epochs"], 0, 0], "until": "relu"}
    return _checked(_shared(values) | more | _restarting(values), options)


def shared(answers: dict, options: PlatformOptions) -> dict:
    """The settings of a network that is to be uploaded, without a file and a name."""
    named = {"name": "upload"} | {key: value for key, value in answers.items() if value != ""}
    return _checked(_shared(read(UPLOAD, named)) | {"epochs": [0, 0, 0], "until": "relu"}, options)


def upload(answers: dict, options: PlatformOptions, path: Path) -> dict:
    """Settings of a network whose weights are in a file."""
    settings = _checked(_shared(read(UPLOAD, answers)) | {"epochs": [0, 0, 0], "until": "relu"}, options)
    try:
        networks.check_upload(path, settings)
    except InputError as error:
        raise Refused("This file cannot be used.", field="file", detail=str(error)) from None
    return settings | {"start": "upload"}


def qann(answers: dict, options: PlatformOptions, source: Record | None) -> dict:
    """Settings of a quantised network, trained from the weights of `source` or (None) from scratch."""
    values = read([field for field in QANN if source is None or field.name not in networks.SHARED], answers)
    _usable(source, "ann", options)
    shared = _shared(values if source is None else source.settings)
    transformer = networks.is_transformer(shared["model"])
    offered = dict(TRANSFORMER_TYPES if transformer else CNN_TYPES)
    activation = values["activation"] or ("hn-qcfs" if transformer else "cs-qcfs")
    if activation not in offered:
        raise Refused("This type does not fit this kind of network.", field="activation",
                      detail=f"{shared['model']}: {', '.join(offered)}")  # fmt: skip
    layerwise = activation in ("qcfs", "s-qcfs")
    epochs = [0, values["epochs1"], 0 if layerwise else values["epochs2"]]
    _threshold(values["initial_threshold"])
    more = {key: values[key] for key in ("levels", "initial_threshold", "batch", "seed", "weight_decay")}
    more |= _usual(values, shared["model"])
    settings = shared | more | {"activation": activation, "epochs": epochs, "until": "training"}
    return _checked(settings | _restarting(values) | (_start(source) if source else {}), options)


def test(answers: dict, options: PlatformOptions, source: Record | None) -> dict:
    """Settings of a test of `source`, as it is or as a spiking network."""
    values = read(TEST, answers)
    if source is None:
        raise Refused("Choose a record.", field="source")
    spiking = values["network"] == "snn"
    _usable(source, "qann" if spiking else None, options)
    quantised = ("activation", "levels", "initial_threshold")
    kept = {key: source.settings[key] for key in (*networks.SHARED, *quantised) if key in source.settings}
    settings = kept | {"epochs": [0, 0, 0], "test_batch": values["test_batch"], "test_images": values["test_images"],
                       "until": "training" if source.kind == "qann" else "relu"}  # fmt: skip
    settings |= _restarting(values) | _start(source)
    if spiking:
        chosen = SCHEDULES.values() if values["schedule"] == "all" else [SCHEDULES[values["schedule"]]]
        if values["calibration"] != "none" and not any(schedule.streams for schedule in chosen):
            raise Refused(
                "Calibration is for streaming: the other schedules are exact without it.", field="calibration"
            )
        steps = sorted({values["steps"], *(2**i for i in range(20) if 2**i <= values["steps"])})
        settings |= {
            "schedules": [schedule.name for schedule in chosen],
            "times": steps,
            "calibrations": [values["calibration"]],
            "bits": int(values["bits"]),
            "until": "simulation",
        }
        if values["calibration"] != "none":
            settings["pre_steps"] = values["pre_steps"]
    return _checked(settings, options)


def again(record: Record) -> dict:
    """The answers that give a record's settings again."""
    settings = record.settings
    kind = record.kind
    answers = {field.name: settings[field.name] for field in FORMS[kind] if field.name in settings}
    answers["name"] = record.name
    if kind == "ann":
        return answers | {"epochs": settings["epochs"][0]}
    answers["source"] = str(record.source_id or ("" if "start" in settings else "scratch"))
    if kind == "qann":
        _, first, second = settings["epochs"]
        return answers | {"epochs1": first} | ({"epochs2": second} if second else {})
    if settings["until"] != "simulation":
        return answers | {"network": "ann"}
    (calibration,) = settings["calibrations"]
    schedules = settings["schedules"]
    schedule = "all" if len(schedules) > 1 else schedules[0]
    return answers | {
        "network": "snn",
        "steps": max(settings["times"]),
        "schedule": schedule,
        "calibration": calibration,
    }


def _threshold(text):
    try:
        valid = text == "max" or 0 < float(text) < float("inf")
    except ValueError:
        valid = False
    if not valid:
        raise Refused("{got} is neither a positive number nor max.", field="initial_threshold", got=text)


def _usable(source, kind, options):
    if source is None:
        return
    if source.kind == "test" or (kind and source.kind != kind):
        raise Refused(WANTED[kind], field="source")
    if source.request == "delete" or (source.state in BROKEN and not checkpoint(options, source)):
        raise Refused("That record learnt nothing before it ended: choose another.", field="source")


def _start(source):
    """How a record starts from another: as soon as that is finished, or with what it had learnt when it ended."""
    return {"start": "checkpoint" if source.state in BROKEN else "source"}


EXAMPLE: dict = {  # the five-minute example: answers of the three forms
    "ann": {"name": "example", "data": "digits", "model": "cnn"},
    "qann": {"name": "example"},
    "test": {"name": "example", "schedule": "all", "steps": "32"},
}
