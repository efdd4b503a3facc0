"""A run: Config -> train -> convert -> simulate -> results on disk. Nothing here prints but through `show`."""

import json
import os
import platform
import re
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass, fields
from itertools import count, takewhile
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import data as datasets
from . import training
from .activation import QCFS, VARIANTS, variant
from .checkpoint import save_weights, whole_file
from .checks import InputError, one_of, positive, whole
from .conversion import SCHEDULES, convert, exact_levels, fold_batch_norms
from .models import MODELS, make
from .simulation import settling_steps, simulate


@dataclass(frozen=True)
class Config:
    """Train a network, convert it to a spiking one, and compare the two. Writes runs/NAME/."""

    data: str = "digits"
    """What to learn: digits (8 x 8, comes with scikit-learn) or mnist5k (28 x 28, needs the extra "mnist")."""
    model: str = "cnn"
    """The network: cnn (residual, 5 spiking layers), mlp (2), vgg16, resnet18, -20, -34, -50 or -101."""
    width: float = 1.0
    """Scale of the channels: 1 is the published network, 0.25 has a quarter of its channels."""
    activation: str = "cs-qcfs"
    """The quantised activation: cs-qcfs (thresholds per channel, always positive), qcfs, s-qcfs, c-qcfs or n-qcfs."""
    stage1: str = "auto"
    """The layer-wise activation of stage 1; auto is s-qcfs, or `activation` itself where that is layer-wise."""
    levels: int = 8
    """L, the steps of the quantised activation. The spiking network equals the quantised one at T = L."""
    initial_threshold: str = "calibrated"
    """Where thresholds start: a positive number (theta), or calibrated: the largest activation of the ReLU network."""
    epochs: tuple[int, int, int] = (12, 10, 6)
    """Epochs of the ReLU network, of stage 1 (layer thresholds) and of stage 2 (expanded thresholds, a tenth of lr)."""
    lr: float = 0.1
    """Learning rate at the start of the ReLU stage and of stage 1; annealed to 0 by a cosine in each stage."""
    batch: int = 64
    """Images per training step."""
    seed: int = 0
    """Seed of weights and of the order of images. The split into training and test images never changes."""
    schedules: tuple[str, ...] = SCHEDULES
    """How to simulate: streaming, integrate-then-fire, signed."""
    times: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """The time steps T to simulate."""
    arithmetic: str = "totals"
    """totals, or increments: runs the drifting form of integrate-then-fire and signed beside it."""
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
NOT_PART_OF_A_RUN = ("out", "name", "resume", "device")
STATE = ("stage", "epoch", "accuracies", "metrics", "network", "sgd", "generator", "seconds")  # what resume.pt holds
MANY_STEPS = 5000  # above it, a simulation takes long enough to say so


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


def checked(config):
    """The config with `quick` and "auto" carried out; InputError naming the first field that is wrong."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    if config.quick:  # what was asked for by name stays
        values |= {name: value for name, value in QUICK.items() if values[name] == getattr(Config, name)}
    one_of(config.data, datasets.DATASETS, "data")
    one_of(config.model, MODELS, "model")
    one_of(config.arithmetic, ("totals", "increments"), "arithmetic")
    one_of(config.activation, [name for name, (kind, _) in VARIANTS.items() if kind != "head"], "activation")
    if variant(config.activation)[0] == "neuron" and config.model != "mlp":
        raise InputError(
            f"activation {config.activation!r} does not fit model {config.model!r}: choose cs-qcfs or c-qcfs"
        )
    values["stage1"] = training.first_stage(config.activation) if config.stage1 == "auto" else config.stage1
    layerwise = [name for name, (kind, _) in VARIANTS.items() if kind == "layer"]
    one_of(values["stage1"], layerwise, "stage-1 activation")
    for name in ("schedules", "times"):
        if not values[name]:
            raise InputError(f"{name} must name at least one")
    for schedule in config.schedules:
        one_of(schedule, SCHEDULES, "schedule")
    positive(config.width, "width")
    for name in ("levels", "batch"):
        whole(values[name], name)
    exact_levels(config.levels, torch.get_default_dtype(), "the run")
    for steps in values["times"]:
        whole(steps, "times")
        exact_levels(steps, torch.get_default_dtype(), "the run", "times")
    if not 0 <= config.seed < 2**63:
        raise InputError(f"seed must lie in 0..2^63 - 1, got {config.seed}")
    if not re.fullmatch(r"[\w.-]{0,100}", config.name) or config.name.startswith("."):
        raise InputError(f"name must be at most 100 letters, digits, '-', '_' and '.', got {config.name!r}")
    for epochs in values["epochs"]:
        whole(epochs, "epochs", least=0)
    positive(config.lr, "lr")
    if config.initial_threshold != "calibrated":
        try:
            values["initial_threshold"] = float(config.initial_threshold)
        except ValueError:
            raise InputError(
                f"initial_threshold must be a number or 'calibrated', got {config.initial_threshold!r}"
            ) from None
        positive(values["initial_threshold"], "initial_threshold")
    values["device"] = device(config.device)
    values["name"] = config.name or default_name(config)
    return Config(**values)


def write_json(path, value):
    """Write JSON so that the file is either the old one or the whole new one."""
    with whole_file(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n")


def folders(config):
    """Where runs of this name lie: out/NAME and, if the name was made from the settings, out/NAME-2, ..."""
    out = Path(config.out)
    yield out / config.name
    if config.name == default_name(config):
        yield from (out / f"{config.name}-{i}" for i in count(2))


def open_folder(config):
    """(folder, resume state or None) of a new run, or of the one to go on with.

    No run is ever overwritten: a name made from the settings gets a number, a name that was given is refused.
    """
    known = list(takewhile(Path.exists, folders(config)))
    settings = json.loads(json.dumps({k: v for k, v in asdict(config).items() if k not in NOT_PART_OF_A_RUN}))
    if config.resume and known:
        return known[-1], resumable(known[-1], settings, config.device)
    folder = next((path for path in folders(config) if not path.exists()), None)
    if folder is None:
        advice = (
            "choose another --name" if (known[0] / "results.json").exists() else "--resume it, or choose another --name"
        )
        raise InputError(f"{known[0]} is there already: {advice}")
    try:
        folder.mkdir(parents=True)
        write_json(folder / "config.json", settings)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    return folder, None


def resumable(folder, settings, device):
    """The state to go on from, None before the first epoch; InputError for a finished, foreign or damaged run."""
    if (folder / "results.json").exists():
        raise InputError(f"{folder} holds a finished run: nothing to resume")
    state = None
    try:
        before = json.loads((folder / "config.json").read_text())
        if not isinstance(before, dict):
            raise TypeError("config.json holds no settings")
        if (folder / "resume.pt").exists():
            state = torch.load(folder / "resume.pt", weights_only=True, map_location=device)
            _ = training.STAGES.index(state["stage"]), [state[key] for key in STATE]
    except Exception as error:  # whatever a damaged file raises
        raise InputError(f"{folder} cannot be resumed ({type(error).__name__}): delete it and start again") from error
    for key, value in settings.items():
        if before.get(key) != value:
            raise InputError(
                f"{folder} was started with {key}={before.get(key)!r}, not {value!r}: choose another --name"
            )
    return state


def environment(device):
    """Commit, device and versions: what a number is worth nothing without."""
    here = Path(__file__).parent
    describe = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    git = (
        subprocess.run(describe, cwd=here, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    )
    name = torch.cuda.get_device_name(device) if str(device).startswith("cuda") else platform.machine()
    return {
        "commit": git or None,
        "device": f"{device} ({name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads)",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def train(config, folder, state, data, progress, clock):
    """All stages; returns (network, {stage: test accuracy}). Saves what is needed to go on after every epoch.

    `clock()` is the time in seconds that the run has taken so far, interrupted parts included.
    """
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    network = make(config.model, tuple(data.train_x.shape[1:]), data.classes, config.width).to(config.device)
    accuracies, metrics = (dict(state["accuracies"]), list(state["metrics"])) if state else ({}, [])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    reached = (training.STAGES.index(state["stage"]), state["epoch"]) if state else (0, 0)
    for index, (stage, epochs) in enumerate(zip(training.STAGES, config.epochs, strict=True)):
        sample = data.train_x[:256]
        network = training.enter(
            stage, network, config.activation, config.stage1, config.levels, config.initial_threshold, sample
        )
        if index < reached[0]:
            continue
        lr = config.lr / 10 if stage == "stage 2" else config.lr
        sgd = training.optimiser(network, lr)
        start = 0
        if state and index == reached[0]:
            try:
                network.load_state_dict(state["network"])
                sgd.load_state_dict(state["sgd"])
                generator.set_state(state["generator"].cpu())
            except (RuntimeError, ValueError, KeyError, AttributeError) as error:
                raise InputError(
                    f"{folder / 'resume.pt'} does not fit the network: delete {folder} and start again"
                ) from error
            start = reached[1]
        bar = progress.add_task(f"train {stage}", total=epochs, completed=start)
        for epoch in range(start, epochs):
            rate = training.cosine(lr, epoch, epochs)
            loss = training.train_epoch(network, sgd, data.train_x, data.train_y, config.batch, generator, rate)
            right = training.accuracy(network, data.test_x, data.test_y)
            metrics.append({"stage": stage, "epoch": epoch + 1, "lr": rate(0), "loss": loss, "accuracy": right})
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(metrics[-1]) + "\n")
            accuracies[stage] = right
            now = {
                "stage": stage,
                "epoch": epoch + 1,
                "accuracies": accuracies,
                "metrics": metrics,
                "network": network.state_dict(),
                "sgd": sgd.state_dict(),
                "generator": generator.get_state(),
                "seconds": clock(),
            }
            with whole_file(folder / "resume.pt") as part:
                torch.save(now, part)
            progress.advance(bar)
        if not epochs:
            accuracies[stage] = training.accuracy(network, data.test_x, data.test_y)
    return network, accuracies


def spread(threshold):
    """(largest - smallest) / smallest threshold of a layer: how far its blocks have moved apart (3.3.5)."""
    return float((threshold.max() - threshold.min()) / threshold.min())


def simulate_all(spiking, quantised, data, steps, arithmetic, batch=256):
    """One row of results over the whole test set: shares weighted by images, `equal` bit for bit in every logit."""
    parts, right, equal = [], 0, True
    for x, y in zip(data.test_x.split(batch), data.test_y.split(batch), strict=True):
        result = simulate(spiking, x, steps, arithmetic)
        right += int((result.logits[-1].argmax(1) == y).sum())
        with torch.no_grad():
            equal &= torch.equal(result.logits[-1], quantised(x))
        parts.append((len(x), result))

    def mean(pick):
        values = [(n, pick(part)) for n, part in parts]
        return None if values[0][1] is None else sum(n * v for n, v in values) / sum(n for n, _ in values)

    signed, comparable = spiking.schedule == "signed", parts[0][1].units_that_differ is not None
    settled = all(part.settled for _, part in parts)
    return {
        "schedule": spiking.schedule,
        "arithmetic": arithmetic,
        "T": steps,
        "accuracy": right / len(data.test_y),
        "units_that_differ": mean(lambda part: part.units_that_differ),
        "units_that_differ_last": mean(lambda part: part.units_that_differ_last),
        "latency": max(part.latency for _, part in parts) if settled or not signed else None,
        "settled": settled if signed else None,
        "spikes_per_neuron": mean(lambda part: part.spikes_per_neuron),
        "logits_equal": equal if comparable else None,
        "nonzero_share": {k: mean(lambda part, k=k: part.nonzero_share[k]) for k in parts[0][1].nonzero_share},
    }


def plan(config, depth):
    """(schedule, arithmetic, T) of every row; signed ends with enough steps that every sample has settled (T5)."""
    for schedule in config.schedules:
        kinds = {"increments"} if schedule == "streaming" else {"totals", config.arithmetic}
        for arithmetic in sorted(kinds, reverse=True):
            exact = {"signed": [settling_steps(depth, config.levels) + 1], "integrate-then-fire": [config.levels]}
            for steps in sorted({*config.times, *exact.get(schedule, [])}):
                yield schedule, arithmetic, steps


def run(config, console=None):
    """Carry out a run and write its folder; returns (folder, results as in results.json, quantised network, data)."""
    config = checked(config)
    data = datasets.load(config.data)
    if config.batch > len(data.train_x):
        raise InputError(f"batch must be at most {len(data.train_x)}, the training images, got {config.batch}")
    folder, state = open_folder(config)
    try:
        return _run(config, folder, state, data, console or Console(stderr=True))
    except Exception:
        if not (folder / "resume.pt").exists():  # nothing to go on from: leave nothing behind
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _run(config, folder, state, data, console):
    data = data._replace(**{k: getattr(data, k).to(config.device) for k in data._fields if k != "classes"})
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    started, where = time.perf_counter(), environment(config.device)  # before the code can change under a long run
    before = state["seconds"] if state else 0.0
    if config.resume and not state:
        console.print(f"nothing to resume in {folder}: starting at the beginning", highlight=False)

    def clock():
        return before + time.perf_counter() - started

    columns = TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        network, accuracies = train(config, folder, state, data, progress, clock)
        quantised = fold_batch_norms(network)
        depth = convert(quantised, config.schedules[0]).latency_depth
        rows, jobs = [], list(plan(config, depth))
        longest = max(steps * convert(quantised, schedule).phases for schedule, _, steps in jobs)
        if longest > MANY_STEPS:
            console.print(
                f"the longest simulation has {longest} steps and takes long: choose smaller --levels or --times",
                highlight=False,
            )
        bar = progress.add_task("simulate", total=len(jobs))
        for schedule, arithmetic, steps in jobs:
            progress.update(bar, description=f"simulate {schedule}, T = {steps}")
            rows.append(simulate_all(convert(quantised, schedule), quantised, data, steps, arithmetic))
            progress.advance(bar)
        progress.update(bar, description="simulate")
    results = {
        "config": json.loads((folder / "config.json").read_text()),
        "environment": where,
        "accuracy": accuracies | {"folded": training.accuracy(quantised, data.test_x, data.test_y)},
        "test_images": len(data.test_y),
        "depth": depth,
        "threshold_spread": max(spread(m.threshold.detach()) for m in quantised.modules() if isinstance(m, QCFS)),
        "seconds": round(clock(), 1),
        "rows": rows,
    }
    save_weights(network, folder / "weights.safetensors")
    write_json(folder / "results.json", results)
    return folder, results, quantised, data
