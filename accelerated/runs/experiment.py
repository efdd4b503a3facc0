"""A run: Config -> train -> convert -> simulate -> results on disk. Nothing here prints but through a console."""

import copy
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from .. import data as datasets
from . import distributed, training
from ..activation import QCFS
from ..exports.weights import load_weights, save_weights, thresholds_in, whole_file
from ..checks import InputError
from .compiling import compiled
from .config import Config, checked
from ..conversion import convert, fold_batch_norms
from .evaluation import laid_out, plan, rows_of, shown
from .folders import environment, lock, open_folder, read_state, settings_of, write_json
from .journal import Journal, memory, per_cent
from ..models import TRANSFORMERS, make
from ..graph.timm import with_sites

MANY_STEPS = 5000  # above it, a simulation takes long enough to say so

__all__ = ["Config", "checked", "run"]


def form_of(config):
    """How a transformer is brought into the form that is quantised."""
    return {"style": config.placement, "norm": config.norm, "mask": config.mask}


def network_for(config, data):
    """The untrained network of a run (or with published weights): of ReLU, or of GELU where the first stage asks so."""
    network = make(
        config.model, data.shape, data.classes, config.width, config.stem, config.blocks, config.pretrained
    )  # fmt: skip
    return with_sites(network, **form_of(config)) if config.model in TRANSFORMERS and not config.gelu else network


def learnt_from(config, data, rows, epoch_seed):
    """Batches to train on, augmented, this process's share of each."""
    rows = [distributed.share(step) for step in rows]
    drawn = datasets.batches(data, "train", rows, config.device, config.augment, epoch_seed, config.workers)
    return laid_out(config, drawn)


def train(config, folder, state, data, progress, clock, journal):
    """All stages; returns (network, {stage: test accuracy}). Saves what is needed to go on after every epoch.

    `clock()` is the time in seconds that the run has taken so far, interrupted parts included. Of stages before the one
    whose weights the run starts with, nothing is known.
    """
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    network = network_for(config, data).to(config.device)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    sample = datasets.first(data, "train", 256, config.device)
    teacher = None
    accuracies, metrics = (dict(state["accuracies"]), list(state["metrics"])) if state else ({}, [])
    journal.begin(metrics)
    start = distributed.everywhere(lambda: stage_of(config)) if config.start else -1
    reached = (training.STAGES.index(state["stage"]), state["epoch"]) if state else (0, 0)
    stages = training.STAGES[: 1 if config.until == "relu" else 3]
    for index, (stage, epochs) in enumerate(zip(stages, config.epochs, strict=False)):
        first = 1.0 if index <= start else config.initial_threshold  # weights from a file bring their own thresholds
        settings = config.activation, config.stage1, config.levels, first, sample, form_of(config)
        if config.distillation and stage == "stage 1":
            teacher = copy.deepcopy(network).eval()
            if state and state.get("teacher"):
                teacher.load_state_dict(state["teacher"])
        network = distributed.everywhere(partial(training.enter, stage, network, *settings))
        if index == start:
            distributed.everywhere(partial(load_weights, network, config.start))
        if index < max(reached[0], start):
            continue
        lr = config.lr * config.fine_tuning if stage == "stage 2" else config.lr
        sgd = training.optimiser(network, lr, config.optimiser, config.weight_decay, config.decay_thresholds)
        scaler = torch.amp.GradScaler(config.device) if config.precision == "float16" else None
        done = 0
        if state and index == reached[0]:
            try:
                network.load_state_dict(state["network"])
                sgd.load_state_dict(state["sgd"])
                generator.set_state(state["generator"].cpu())
                if scaler:
                    scaler.load_state_dict(state["scaler"])
            except (RuntimeError, ValueError, KeyError, AttributeError) as error:
                raise InputError(
                    f"{folder / 'resume.pt'} does not fit the network: delete {folder} and start again"
                ) from error
            done = reached[1]
        bar = progress.add_task(f"train {stage}", total=epochs, completed=done)
        teach = (teacher, config.distillation) if teacher is not None else None
        trained = compiled(network, config.device) if config.compile and epochs > done else network
        if distributed.launched() and epochs > done:
            trained = nn.parallel.DistributedDataParallel(trained)
        for epoch in range(done, epochs):
            began = time.perf_counter()
            seed = (config.seed * 1_009 + index * 100_003 + epoch * 10_007 + distributed.rank()) % 2**40
            torch.manual_seed(seed)  # for dropout; whoever resumes here draws the same
            rows = training.order(len(data.train_y), config.batch, generator)
            rate = training.cosine(lr, epoch, epochs, config.warmup)
            shares, sizes = learnt_from(config, data, rows, seed), [len(step) for step in rows]
            seen = training.train_epoch(
                trained, sgd, shares, rate, sizes, config.precision, config.accumulate, scaler, teach,
                journal.watch(stage, epoch + 1, epochs, len(sizes)),
            )  # fmt: skip
            test = training.evaluate(network, shown(config, data, "test", config.test_images))
            accuracies[stage] = test.top1
            line = {
                "stage": stage, "epoch": epoch + 1, "lr": rate(0), "loss": seen.loss, "accuracy": test.top1,
                "accuracy5": test.top5, "test_loss": test.loss, "train_accuracy": seen.top1,
                "train_accuracy5": seen.top5, "seconds": round(time.perf_counter() - began, 3),
                "memory": memory(config.device),
            }  # fmt: skip
            metrics.append(line | {"thresholds": smallest(network)} if index else line)
            now = {
                "stage": stage,
                "epoch": epoch + 1,
                "accuracies": accuracies,
                "metrics": metrics,
                "network": network.state_dict(),
                "sgd": sgd.state_dict(),
                "generator": generator.get_state(),
                "scaler": scaler.state_dict() if scaler else None,
                "seconds": clock(),
                "teacher": teacher.state_dict() if teacher is not None else None,
            }
            if distributed.rank() == 0:
                with whole_file(folder / "resume.pt") as part:
                    torch.save(now, part)
            journal.epoch(metrics[-1], epochs)
            progress.advance(bar)
        if not epochs:
            accuracies[stage] = training.evaluate(network, shown(config, data, "test", config.test_images)).top1
            journal.say(f"{stage}: no epochs; test Acc@1 {per_cent(accuracies[stage])}")
    return network, accuracies


def smallest(network):
    """{layer: its smallest threshold}: raw ones may leave the positive range while they train (3.3.5)."""
    return {name: float(m.threshold.detach().min()) for name, m in network.named_modules() if isinstance(m, QCFS)}


def stage_of(config):
    """The number of the stage whose network `config.start` holds; InputError if stages before it are to be trained."""
    shapes = thresholds_in(config.start).values()
    stage = 0 if not shapes else 1 if not any(shapes) else 2
    if any(config.epochs[:stage]):
        zeros = " ".join(["0"] * stage)
        raise InputError(f"{config.start} holds a network of {training.STAGES[stage]}: begin --epochs with {zeros}")
    if stage and config.until == "relu":
        raise InputError(f"{config.start} holds a quantised network: choose until training or simulation")
    return stage


@torch.no_grad()
def channel_means(quantised, x):
    """{layer: mean of each channel before its activation}, over images and places (Figure 3-2); to four digits."""
    means, hooks = {}, []
    for name, module in quantised.named_modules():
        if isinstance(module, QCFS):
            hooks.append(module.register_forward_hook(lambda _, z, __, name=name: means.__setitem__(name, z[0])))
    quantised.eval()(x)
    for hook in hooks:
        hook.remove()
    over = {name: z.mean(dim=(0, *range(2, z.ndim))) for name, z in means.items()}
    return {name: [float(f"{v:.4g}") for v in values.tolist()] for name, values in over.items()}


def spread(threshold):
    """(largest - smallest) / smallest threshold of a layer: how far its blocks have moved apart (3.3.5)."""
    return float((threshold.max() - threshold.min()) / threshold.min())


def spreads_of(quantised):
    """{"all", and in transformers "head", "neuron" and "layer": `spread` of each of these layers} (4.3.5)."""
    found: dict = {"all": []}
    for module in quantised.modules():
        if isinstance(module, QCFS):
            value = spread(module.threshold.detach())
            for site in ("all", *([module.site] if module.site else [])):
                found.setdefault(site, []).append(value)
    return found


def run(config, console=None, announce=True):
    """Carry out a run and write its folder; returns (folder, results as in results.json, quantised network, image).

    The last two are None where the run ends before the simulation.

    `announce` says when there was nothing to resume.
    """
    config = checked(config)
    config = replace(config, device=distributed.join(config.device))
    console = Console(quiet=True) if distributed.rank() else console or Console(stderr=True)
    place = config.data, config.data_root, config.size
    if config.download:
        distributed.on_first(lambda: datasets.load(*place, download=True) and None)
    data = distributed.everywhere(lambda: datasets.load(*place))
    if config.batch > len(data.train_y):
        distributed.refuse(f"batch must be at most {len(data.train_y)}, the training images, got {config.batch}")
    folder, goes_on = distributed.on_first(lambda: open_folder(config))
    try:
        with distributed.on_first_only(lambda: lock(folder)):
            state = read_state(folder, settings_of(config), config.device) if goes_on else None
            if announce and config.resume and not state:
                console.print(f"nothing to resume in {folder}: starting at the beginning", highlight=False)
            return _run(config, folder, state, data, console)
    except Exception:
        if distributed.rank() == 0 and not (folder / "resume.pt").exists() and not goes_on:
            shutil.rmtree(folder, ignore_errors=True)  # nothing to go on from: leave nothing behind
        raise


def advancing(progress, bar, journal, job, of):
    """What the simulation calls after each batch."""

    def advance(images, right):
        progress.advance(bar)
        journal.simulated(job, images, of, right, images == of)

    return advance


def _run(config, folder, state, data, console):
    if data.in_memory:
        tensors = {name: getattr(data, name).to(config.device) for name in ("train_x", "train_y", "test_x", "test_y")}
        data = data._replace(**tensors)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    started, where = time.perf_counter(), environment(config.device)  # before the code can change under a long run
    where |= {"processes": distributed.world(), "data_root": str(Path(config.data_root).resolve())}
    before = state["seconds"] if state else 0.0
    images = min(config.test_images or len(data.test_y), len(data.test_y))

    def clock():
        return before + time.perf_counter() - started

    journal = Journal(folder, console, config.device, not distributed.rank())
    columns = TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        network, accuracies = train(config, folder, state, data, progress, clock, journal)

        def finished_with(accuracies, found):
            results = {
                "config": settings_of(config), "environment": where, "accuracy": accuracies, "test_images": images,
                "seconds": round(clock(), 1),
            } | found  # fmt: skip
            if distributed.rank() == 0:
                save_weights(network, folder / "weights.safetensors")
                write_json(folder / "results.json", results)
            return results

        if config.until != "simulation":
            return folder, finished_with(accuracies, {"rows": []}), None, None
        quantised = distributed.everywhere(lambda: fold_batch_norms(network))
        depth = distributed.everywhere(lambda: convert(quantised, config.schedules[0]).latency_depth)
        rows, jobs = [], list(plan(config, depth))
        longest = max(max(job.times) * convert(quantised, job.schedule).phases for job in jobs)
        if longest > MANY_STEPS:
            console.print(
                f"the longest simulation has {longest} steps and takes long: choose smaller --levels or --times",
                highlight=False,
            )
        share = len(distributed.share(range(images)))
        bar = progress.add_task("simulate", total=len(jobs) * -(-share // config.test_batch))
        for job in jobs:
            progress.update(
                bar, description="simulate " + ", ".join(w for w in job.words if w not in ("none", "accumulated"))
            )
            rows += rows_of(config, quantised, data, job, advancing(progress, bar, journal, job, share))
        progress.update(bar, description="simulate")
        accuracies["folded"] = training.evaluate(quantised, shown(config, data, "test", config.test_images)).top1
    if distributed.rank() == 0:
        write_json(
            folder / "activations.json",
            channel_means(quantised, next(shown(config, data, "test", config.test_batch))[0]),
        )
    spreads = spreads_of(quantised)
    results = finished_with(accuracies, {
        "depth": depth,
        "threshold_spread": max(spreads["all"]),
        "threshold_spread_mean": sum(spreads["all"]) / len(spreads["all"]),
        "threshold_spreads": {site: {"max": max(s), "avg": sum(s) / len(s)} for site, s in spreads.items()},
        "rows": rows,
    })  # fmt: skip
    return folder, results, quantised, next(shown(config, data, "test", 1 + distributed.rank()))[0][:1]
