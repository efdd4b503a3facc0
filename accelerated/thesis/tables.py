"""A whole table or figure of presets.py: run what is missing, and print ours with the published figures under it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ..checks import InputError, one_of, whole
from ..exports.weights import whole_file
from ..reports import report
from ..runs import distributed, experiment
from ..runs.folders import finished
from ..runs.validation import device, placed
from . import launch, pages
from .presets import SCALES, jobs

OF_TABLES = ("scale", "seeds", "only", "launcher", "jobs", "slurm")  # options that are no settings of a run


@dataclass(frozen=True)
class TableOptions:
    """Run, or go on with, all rows of a table or figure, and print ours with the published figures under them."""

    scale: str = "full"
    """full (as published), cifar (the same images, a fifth of them for tests, fewer epochs, narrower networks but
    for ResNet-20), small (MNIST-5k, narrow networks) or smoke (minutes: shows that every row runs)."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the runs; with several, means and standard deviations are shown."""
    only: tuple[str, ...] = ()
    """Run only rows whose label has all of these, whole or in part, for instance CIFAR-10; a wrong one lists all."""
    data_root: str = "data"
    """Folder that holds the data sets."""
    download: bool = False
    """Fetch CIFAR into --data-root first."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, ..."""
    precision: str = "float32"
    """Of the forward pass in training: float32, bfloat16, or float16 (GPU only)."""
    channels_last: bool = False
    """Keep images with their channels last in memory: faster convolutions on GPUs."""
    compile: bool = False
    """Train under torch.compile."""
    accumulate: int = 1
    """Parts in which a batch is worked on, one after another; saves memory."""
    workers: int = 2
    """Processes that read and augment images."""
    out: str = "runs"
    """Folder that holds the runs; each network is trained once for all tables that need it."""
    track: str = "none"
    """Mirror the lines of each run to mlflow or wandb, if installed; or none."""
    launcher: str = "here"
    """here (one run after another), local (several at once on this machine) or slurm (arrays of jobs); the latter two
    need the extra "cluster"."""
    jobs: Annotated[int, tyro.conf.arg(aliases=("-j",))] = 2
    """Runs at once under launcher local, which share the cores; how sums round depends on the number of threads."""
    slurm: tuple[str, ...] = ()
    """Options for Slurm as NAME=VALUE, for instance partition=gpu gpus_per_node=1 time=600 (minutes)."""


def choose(rows, parts):
    """The rows whose labels contain each part, in any case: as a whole word if some row has it, else as a substring."""
    for part in (part.lower() for part in parts):
        whole_ones = [row for row in rows if part in (own.lower() for own in row.label)]
        rows = whole_ones or [row for row in rows if any(part in own.lower() for own in row.label)]
    return rows


def results_of(lineage, console, runs):
    """The results of the last of these runs, each of which goes on from the one before; None without `runs`."""
    *before, config = lineage
    results = distributed.on_first(lambda: finished(config))
    if results is not None or not runs:
        return results
    if before:
        results_of(before, console, runs)
    console.print(f"{config.name}", highlight=False)
    folder, results, quantised, image = experiment.run(config, console, announce=False)
    if distributed.rank() == 0 and quantised is not None:  # a run of ReLU alone has nothing to draw
        report.write(folder, results, quantised, image)
    return results


def carry_out(lineages, console, runs=True):
    """[results, or the line that says why there are none], one per lineage; finished runs are read.

    Without `runs` nothing is run: missing results are None.
    """
    outcomes = []
    for lineage in lineages:
        try:
            outcomes.append(results_of(lineage, console, runs))
        except InputError as error:
            if distributed.launched() and not error.shared:
                raise  # the other processes do not know of it and wait
            if not runs:
                outcomes.append(None)
                continue
            console.print(f"{lineage[-1].name}: {error}", highlight=False)
            outcomes.append(str(error))
    return outcomes


def outcomes_of(planned, chosen, options, console):
    """[(row, [its own run for each seed], their outcomes)]; only chosen rows are run."""
    lineages = [lineage for row, its in planned if row in chosen for lineage in its]
    ran = carry_out(lineages, console) if options.launcher == "here" else launch.launched(lineages, options, console)
    outcomes = {lineage[-1].name: outcome for lineage, outcome in zip(lineages, ran, strict=True)}
    for row, its in planned:
        own = [lineage[-1] for lineage in its]
        yield row, own, [outcomes[run.name] for run in own] if row in chosen else carry_out(its, console, runs=False)


def run(name, options, console=None):
    """Carry out a preset: (preset, [(row, configs, outcomes)], path of its page, number of runs that were refused).

    A second call continues. `options.only` limits what is run; finished rows stay on the page.
    """
    console = console or Console(stderr=True)
    one_of(options.scale, SCALES, "scale")
    for seed in options.seeds:
        whole(seed, "seeds", least=0)
    asked = {key: value for key, value in vars(options).items() if key not in OF_TABLES}
    launch.check(options)
    preset, planned = jobs(name, options.scale, options.seeds, **asked)
    if options.launcher != "slurm":  # whose jobs run where there may be other devices
        planned = [(row, [[placed(run) for run in lineage] for lineage in its]) for row, its in planned]
        distributed.join(device(options.device))
    chosen = choose(preset.rows, options.only)
    if not chosen and preset.rows:
        parts = ", ".join(dict.fromkeys(part for row in preset.rows for part in row.label))
        raise InputError(f"no row of {name} is called {' '.join(options.only)}: its rows are made of {parts}")
    made = list(outcomes_of(planned, chosen, options, console))
    failed = sum(isinstance(outcome, str) for _, _, outcomes in made for outcome in outcomes)
    made = [(row, configs, outcomes) for row, configs, outcomes in made if row in chosen or all(outcomes)]
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    stem = name if options.scale == "full" else f"{name}-{options.scale}"
    ran = any(isinstance(outcome, dict) for _, _, outcomes in made for outcome in outcomes)
    if preset.rows and not ran and (out / f"{stem}.md").exists():
        raise InputError(f"nothing ran, and the page stays as it is: {made[0][2][0]}")
    if distributed.rank() == 0:
        pictures = pages.pictures_of(preset, made, out / f"{stem}.png")
        with whole_file(out / f"{stem}.md") as part:
            page = pages.markdown(name, preset, options.scale, options.seeds, made)
            part.write_text(page + "".join(f"\n![{path.stem}]({path.name})\n" for path in pictures))
    return preset, made, out / f"{stem}.md", failed
