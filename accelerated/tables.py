"""A whole table or figure of presets.py: run what is missing, and print ours with the published figures under it."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from . import distributed, experiment, pages, report
from .checkpoint import whole_file
from .checks import InputError, one_of, whole
from .config import device
from .folders import finished
from .presets import SCALES, jobs


@dataclass(frozen=True)
class Options:
    """Run, or go on with, all rows of a table or figure, and print ours with the published figures under them."""

    scale: str = "full"
    """full (as published), small (MNIST-5k, narrow networks) or smoke (minutes: shows that every row runs)."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the runs; with several, means and standard deviations are shown."""
    only: tuple[str, ...] = ()
    """Only rows whose label contains all of these, for instance ResNet-20 CIFAR-10."""
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
    accumulate: int = 1
    """Parts in which a batch is worked on, one after another; saves memory."""
    workers: int = 2
    """Processes that read and augment images."""
    out: str = "runs"
    """Folder that holds the runs; each network is trained once for all tables that need it."""


def carry_out(configs, console):
    """[results or the line that says why there are none] of the runs, one for each config; finished ones are read."""
    outcomes = []
    for config in configs:
        try:
            results = distributed.on_first(lambda config=config: finished(config))
            if results is None:
                console.print(f"{config.name}", highlight=False)
                folder, results, quantised, image = experiment.run(config, console, announce=False)
                if distributed.rank() == 0:
                    report.write(folder, results, quantised, image)
            outcomes.append(results)
        except InputError as error:
            if distributed.launched() and not error.shared:
                raise  # the other processes know nothing of it and wait
            console.print(f"{config.name}: {error}", highlight=False)
            outcomes.append(str(error))
    return outcomes


def run(name, options, console=None):
    """Carry out a preset; returns the path of its page. Continues where it was when it is called again."""
    console = console or Console(stderr=True)
    one_of(options.scale, SCALES, "scale")
    for seed in options.seeds:
        whole(seed, "seeds", least=0)
    asked = {key: value for key, value in vars(options).items() if key not in ("scale", "seeds", "only")}
    distributed.join(device(options.device))
    preset, planned = jobs(name, options.scale, options.seeds, **asked)
    planned = [(row, configs) for row, configs in planned if all(part in row.label for part in options.only)]
    if not planned and preset.rows:
        raise InputError(
            f"no row of {name} is called {' '.join(options.only)}: rows are for instance {preset.rows[0].label}"
        )
    made = [(row, configs, carry_out(configs, console)) for row, configs in planned]
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    stem = name if options.scale == "full" else f"{name}-{options.scale}"
    if distributed.rank() == 0:
        pictures = pages.pictures_of(preset, made, out / f"{stem}.png")
        with whole_file(out / f"{stem}.md") as part:
            page = pages.markdown(name, preset, options.scale, options.seeds, made)
            part.write_text(page + "".join(f"\n![{path.stem}]({path.name})\n" for path in pictures))
    return preset, made, out / f"{stem}.md"
