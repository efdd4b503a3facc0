"""A run: Config -> train -> convert -> simulate -> results on disk. Nothing here prints but through a console."""

import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .. import data as datasets
from ..activation import QCFS
from ..conversion import convert, fold_batch_norms
from ..exports.weights import save_weights
from ..network import answer
from ..schedules import SCHEDULES
from ..sums import largest_sums
from . import distributed, learning
from .config import Config
from .evaluation import converted, halving_of, plan, rows_of, shown
from .folders import environment, lock, open_folder, read_state, settings_of, write_json
from .journal import Journal
from .stages import Stages, form_of, network_for
from .tracking import tracked
from .validation import checked, placed

MANY_STEPS = 5000  # above it, a simulation takes long enough to say so
PASSES = 3  # of the network, that a training step takes, forward and back

__all__ = ["Config", "checked", "form_of", "network_for", "run"]


@torch.no_grad()
def channel_means(quantised, x):
    """{layer: mean of each channel before its activation}, over images and places (Figure 3-2); to four digits."""
    means, hooks = {}, []
    for name, module in quantised.named_modules():
        if isinstance(module, QCFS):
            hooks.append(module.register_forward_hook(lambda _, z, __, name=name: means.__setitem__(name, z[0])))
    try:
        answer(quantised, x)
    finally:
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


def thresholds_of(quantised):
    """How far thresholds have moved apart, as results.json has it."""
    spreads = spreads_of(quantised)
    return {
        "threshold_spread": max(spreads["all"]),
        "threshold_spread_mean": sum(spreads["all"]) / len(spreads["all"]),
        "threshold_spreads": {site: {"max": max(s), "avg": sum(s) / len(s)} for site, s in spreads.items()},
    }


def seen_to_fit(config, data):
    """The config with what only the data set decides; InputError where it does not fit."""
    if config.data == "imagefolder":
        config = replace(config, size=data.size)  # the images' own, where none was asked for
    if config.augment == "auto":
        config = replace(config, augment="none" if data.in_memory else "full")
    if config.augment != "none" and data.in_memory:
        distributed.refuse(f"augment {config.augment!r} is for images in colour: choose none for {config.data}")
    return config


def run(config, console=None, announce=True):
    """Carry out a run and write its folder; returns (folder, results as in results.json, quantised network, image).

    The last two are None where the run ends before the simulation.

    `announce` says when there was nothing to resume.
    """
    config = placed(checked(config))
    config = replace(config, device=distributed.join(config.device))
    console = Console(quiet=True) if distributed.rank() else console or Console(stderr=True)
    place = config.data, config.data_root, config.size
    if config.download:
        distributed.on_first(lambda: datasets.load(*place, download=True) and None)
    data = distributed.everywhere(lambda: datasets.load(*place))
    config = seen_to_fit(config, data)
    if config.batch > len(data.train_y):
        distributed.refuse(f"batch must be at most {len(data.train_y)}, the training images, got {config.batch}")
    folder, goes_on = distributed.on_first(lambda: open_folder(config))
    with distributed.on_first_only(lambda: lock(folder)):  # a folder that another process has locked stays as it is
        try:
            state = read_state(folder, settings_of(config), config.device) if goes_on else None
            if state and state.get("threads") and "OMP_NUM_THREADS" not in os.environ:
                torch.set_num_threads(state["threads"])  # sums round by them, however busy the machine is now
            if announce and config.resume and not state:
                console.print(f"nothing to resume in {folder}: starting at the beginning", highlight=False)
            tracker, say = "none" if distributed.rank() else config.track, partial(console.print, highlight=False)
            with tracked(tracker, folder, settings_of(config), say) as mirror:
                return _Run(config, folder, state, data, console, mirror).carry_out()
        except Exception:
            kept = any((folder / name).exists() for name in ("resume.pt", "results.json"))
            if distributed.rank() == 0 and not kept and not goes_on:
                shutil.rmtree(folder, ignore_errors=True)  # nothing to go on from: leave nothing behind
            raise


def sums_of(quantised, config):
    """{layer: bits of the largest number that its neurons can hold}, with its sign; {} of real numbers."""
    layers = [name for name, module in quantised.named_modules() if isinstance(module, QCFS)]
    sums = largest_sums(quantised) if config.bits else {}
    return {name: int(sums[name]).bit_length() + 1 for name in layers if name in sums}


class _Bar:
    """One bar for the whole run; its unit is a pass of one image through the network."""

    def __init__(self, progress, config, data, images):
        self.progress, self.epoch = progress, PASSES * len(data.train_y) + images
        epochs = sum(config.epochs[:1] if config.until == "relu" else config.epochs)
        simulation = 0
        if config.until == "simulation":  # phases are not known before the network is converted: as of a small one
            simulation = sum(max(config.times) * (5 if SCHEDULES[name].waits else 1) for name in config.schedules)
        self.task = progress.add_task("begin", total=epochs * self.epoch + simulation * images, visible=False)

    def begin(self):
        """Show it: what can be wrong with what was asked for has been looked at."""
        self.progress.update(self.task, visible=True)

    def trained(self, stage, epochs=1):
        """Some epochs of a stage are over."""
        self.progress.update(self.task, description=f"train {stage}", advance=epochs * self.epoch)

    def simulating(self, jobs, phases, images):
        """What is left is known now: {job: passes of an image}."""
        done = self.progress.tasks[self.task].completed
        self.progress.update(
            self.task, total=done + sum(phases[job.schedule] * max(job.times) for job in jobs) * images
        )


class _Run:
    """One run in its folder: what is known from the beginning, and its parts in order."""

    def __init__(self, config, folder, state, data, console, mirror):
        if data.in_memory:
            parts = ("train_x", "train_y", "test_x", "test_y")
            data = data._replace(**{name: getattr(data, name).to(config.device) for name in parts})
        self.config, self.folder, self.state, self.data, self.console = config, folder, state, data, console
        self.started, self.before = time.perf_counter(), state["seconds"] if state else 0.0
        self.where = environment(config.device)  # before the code can change under a long run
        self.where |= {"processes": distributed.world(), "data_root": str(Path(config.data_root).resolve())}
        self.images = min(config.test_images or len(data.test_y), len(data.test_y))
        self.journal = Journal(folder, console, config.device, not distributed.rank(), mirror)

    def clock(self):
        """Seconds that the run has taken so far."""
        return self.before + time.perf_counter() - self.started

    def say_what(self):
        """What is learnt, and where it is written."""
        data = self.data
        images = f"{len(data.train_y):,} training and {self.images:,} test images of {data.size} x {data.size}"
        self.console.print(f"{self.config.data}: {images}; writing to {self.folder}/", highlight=False, soft_wrap=True)

    def carry_out(self):
        """(folder, results, quantised network, image); see `run`."""
        config, data = self.config, self.data
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        columns = TextColumn("{task.description:<40}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
        with Progress(*columns, TextColumn("left:"), TimeRemainingColumn(), console=self.console) as progress:
            bar = _Bar(progress, config, data, self.images)
            if self.state:
                behind = learning.STAGES.index(self.state["stage"])
                bar.trained(self.state["stage"], sum(config.epochs[:behind]) + self.state["epoch"])

            def begin():
                self.say_what()
                bar.begin()

            stages = Stages(config, self.folder, self.state, data, self.clock, self.journal, begin, bar.trained)
            network, accuracies = stages.run()
            found: dict = {"best": stages.best(), "start": stages.origin, "rows": []}
            if config.until != "simulation":
                return self.folder, self._finished(network, accuracies, found), None, None
            quantised = distributed.everywhere(lambda: converted(config, data, network))
            depth, rows = self._simulated(quantised, bar)
            test = learning.tested(quantised, shown(config, data, "test", config.test_images))
            accuracies["folded"] = test.top1
            if config.bits:
                real = learning.tested(fold_batch_norms(network), shown(config, data, "test", config.test_images))
                accuracies = {"real": real.top1} | accuracies
        if distributed.rank() == 0:
            x = next(shown(config, data, "test", config.test_batch))[0]
            write_json(self.folder / "activations.json", channel_means(quantised, x))
        found |= {
            "depth": depth,
            **thresholds_of(quantised),
            "sums": sums_of(quantised, config),
            "rows": rows,
        }
        results = self._finished(network, accuracies, found)
        image = next(shown(config, data, "test", 1 + distributed.rank()))[0][:1]
        return self.folder, results, quantised, image

    def _simulated(self, quantised, bar):
        """(depth, rows of results): the test images through every spiking network that was asked for."""
        config = self.config
        depth = distributed.everywhere(lambda: convert(quantised, config.schedules[0]).latency_depth)
        chosen = None
        if any(SCHEDULES[name].worths is None for name in config.schedules):
            bar.progress.update(bar.task, description="choose worths")
            chosen = halving_of(config, quantised, self.data)
        jobs, phases = list(plan(config, depth, chosen)), {n: SCHEDULES[n].phases(depth) for n in config.schedules}
        longest = max(max(job.times) * phases[job.schedule] for job in jobs)
        if longest > MANY_STEPS:
            self.console.print(
                f"the longest simulation has {longest} steps and takes long: choose smaller --levels or --times",
                highlight=False,
            )
        share = len(distributed.share(range(self.images)))
        bar.simulating(jobs, phases, share)
        rows = []
        for job in jobs:
            words = ", ".join(word for word in job.words if word not in ("none", "accumulated"))
            bar.progress.update(bar.task, description=f"simulate {words}")
            rows += rows_of(config, quantised, self.data, job, self._advancing(bar, job, phases[job.schedule], share))
        bar.progress.update(bar.task, description="done")
        return depth, rows

    def _advancing(self, bar, job, phases, of):
        """What the simulation calls after each batch."""
        seen = 0

        def advance(images, right):
            nonlocal seen
            bar.progress.advance(bar.task, (images - seen) * phases * max(job.times))
            seen = images
            self.journal.simulated(job, images, of, right, images == of)

        return advance

    def _finished(self, network, accuracies, found):
        """Write weights and results; returns the results."""
        results = {
            "config": settings_of(self.config), "environment": self.where, "accuracy": accuracies,
            "test_images": self.images, "image_size": self.data.size, "seconds": round(self.clock(), 1),
        } | found  # fmt: skip
        if distributed.rank() == 0:
            save_weights(network, self.folder / "weights.safetensors")
            write_json(self.folder / "results.json", results)
        return results
