"""A whole table or figure of presets.py: run what is missing, and print ours with the published figures under it."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import distributed, experiment, plots, report
from .checkpoint import whole_file
from .checks import InputError, one_of, whole
from .folders import finished
from .presets import SCALES, jobs

TITLES = {
    "ann": "ANN",
    "max": "MaxDiff",
    "avg": "AvgDiff",
    "least": "smallest threshold",
    "epochs": "epochs with one <= 0",
}


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
            console.print(f"{config.name}: {error}", highlight=False)
            outcomes.append(str(error))
    return outcomes


def lowest_thresholds(config):
    """The smallest threshold of a run after each epoch of stages 1 and 2, finished or refused."""
    path = Path(config.out) / config.name / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [min(line["thresholds"].values()) for line in lines if "thresholds" in line]


def value(config, results, kind, column, calibration):
    """One number of a row, in per cent (thresholds as they are); None where it was not run or is not defined."""
    if kind == "positive":
        lowest = lowest_thresholds(config)
        if not lowest:
            return None
        return min(lowest) if column == "least" else float(sum(theta <= 0 for theta in lowest))
    if not isinstance(results, dict):
        return None
    if kind == "spread":
        return 100 * results["threshold_spread" if column == "max" else "threshold_spread_mean"]
    if column == "ann":
        pretrained = results["config"]["epochs"][1] == 0 and results["config"]["epochs"][0] > 0
        return 100 * results["accuracy"]["relu" if pretrained else "folded"]
    for row in results["rows"]:
        plain = row["schedule"] == "streaming" and row["margin"] is None
        if plain and row["calibration"] == calibration and row["T"] == column:
            return 100 * row["accuracy"]
    return None


def cell(values):
    """The mean of what there is, with its standard deviation where there are several seeds."""
    found = [v for v in values if v is not None]
    if not found:
        return ""
    return f"{statistics.mean(found):.2f}" + (f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else "")


def columns_of(preset):
    """The columns of a preset's table."""
    special = {"spread": ["max", "avg"], "positive": ["least", "epochs"], "ann": ["ann"], "response": []}
    if preset.kind in special:
        return special[preset.kind]
    times = sorted({t for row in preset.rows for t in row.config.times})
    return ["ann", *times]


def lines_of(preset, made):
    """(label, cells) of every line: ours, and below it what was published, empty where nothing was."""
    columns = columns_of(preset)
    for row, configs, outcomes in made:
        ran = [results for results in outcomes if isinstance(results, dict)]
        pairs = list(zip(configs, outcomes, strict=True))
        cells = [cell([value(*pair, preset.kind, c, row.calibration) for pair in pairs]) for c in columns]
        refused = [line for line in outcomes if isinstance(line, str)]
        name = "ours" + (f" ({len(ran)} of {len(outcomes)} seeds)" if refused else "")
        yield " · ".join(row.label), name, cells, refused[0] if refused else ""
        if row.published:
            printed = [f"{row.published[c]:.2f}" if c in row.published else "" for c in columns]
            yield "", "published", printed, ""


def exact_lines(made):
    """What the exact schedules gave on each network: a sentence that follows from executed rows."""
    seen = {}
    for _, _, outcomes in made:
        for results in (r for r in outcomes if isinstance(r, dict)):
            name = (results["config"]["model"], results["config"]["activation"], results["config"]["seed"])
            levels = results["config"]["levels"]
            for row in results["rows"]:
                last = (row["schedule"] == "integrate-then-fire" and row["T"] == levels) or row["settled"]
                if last:
                    seen[(*name, row["schedule"])] = row
    if seen:
        equal = sum(row["logits_equal"] is True for row in seen.values())
        least = min(min(row["nonzero_share"].values()) for row in seen.values())
        yield (
            f"Exact schedules (T = L, or settled): all bits of all logits are the quantised network's in {equal} of "
            f"{len(seen)} runs; least active layer of all: {100 * least:.2f} %."
        )


def markdown(name, preset, scale, seeds, made):
    """The table as a page."""
    header = [TITLES.get(c, f"T = {c}") for c in columns_of(preset)]
    lines = [
        f"# {name}: {preset.title}",
        "",
        f"Scale: {scale}; seeds {', '.join(map(str, seeds))}; all in per cent.",
        "",
    ]
    lines += ["| row | whose | " + " | ".join(header) + " |", "|" + "---|" * (len(header) + 2)]
    notes = []
    for label, whose, cells, refused in lines_of(preset, made):
        lines.append(f"| {label} | {whose} | " + " | ".join(cells) + " |")
        notes += [f"- {label}: {refused}"] if refused else []
    results = [r for _, _, outcomes in made for r in outcomes if isinstance(r, dict)]
    lines += ["", *notes, *(f"- {line}" for line in exact_lines(made))]
    if results:
        env = results[0]["environment"]
        commits = sorted({r["environment"]["commit"] or "unknown" for r in results})
        where = f"Commit {', '.join(commits)}, {env['device']}, torch {env['torch']}."
        what = "T leaves out the pre-steps of SRP and COS, as published; the latency in each run's report counts them."
        lines += ["", f"{where} {what}"]
    if scale == "smoke":
        lines += [
            "",
            "Smoke scale learns digits for an epoch: it shows that every row runs and claims no accuracy.",
        ]
    return "\n".join(lines) + "\n"


def pictures_of(preset, made, path):
    """The plot of a preset, if its kind has one: [path]."""
    done = [(" · ".join(row.label), config, results, row) for row, configs, outcomes in made
            for config, results in zip(configs, outcomes, strict=True)]  # fmt: skip
    ran = [part for part in done if isinstance(part[2], dict)]
    if preset.kind == "response":
        plots.responses(path)
    elif preset.kind == "positive":
        plots.falling_thresholds({(name, c.seed): lowest_thresholds(c) for name, c, _, _ in done}, preset.title, path)
    elif preset.kind == "activations" and ran:
        folder = Path(ran[0][1].out) / ran[0][1].name
        plots.activations(json.loads((folder / "activations.json").read_text()), path)
    elif preset.kind == "accuracy" and ran:
        curves = {}
        for name, config, results, row in ran:
            curves[name, config.seed] = [
                (r["T"], 100 * r["accuracy"]) for r in results["rows"]
                if r["schedule"] == "streaming" and r["calibration"] == row.calibration and r["margin"] is None
            ]  # fmt: skip
        plots.over_times(curves, preset.title, path)
    else:
        return []
    return [path]


def drawn(name, preset, made):
    """The table for the terminal."""
    table = Table(title=f"{name}: {preset.title}", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("row", "", *(TITLES.get(c, f"T={c}") for c in columns_of(preset))):
        table.add_column(title, justify="left" if title in ("row", "") else "right")
    for label, whose, cells, _ in lines_of(preset, made):
        table.add_row(label, whose, *cells)
    return table


def run(name, options, console=None):
    """Carry out a preset; returns the path of its page. Continues where it was when it is called again."""
    console = console or Console(stderr=True)
    one_of(options.scale, SCALES, "scale")
    for seed in options.seeds:
        whole(seed, "seeds", least=0)
    asked = {key: getattr(options, key) for key in ("data_root", "download", "device", "precision", "workers", "out")}
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
        pictures = pictures_of(preset, made, out / f"{stem}.png")
        with whole_file(out / f"{stem}.md") as part:
            page = markdown(name, preset, options.scale, options.seeds, made)
            part.write_text(page + "".join(f"\n![{path.stem}]({path.name})\n" for path in pictures))
    return preset, made, out / f"{stem}.md"
