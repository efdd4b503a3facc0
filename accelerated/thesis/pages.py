"""The page of a table or figure: ours with the published figures under it, every schedule, and its plot."""

import json
import statistics
from pathlib import Path

from rich.table import Table

from ..reports.plots import label as label_of
from ..reports.plots import pareto
from ..runs.evaluation import LEAST_ACTIVE
from ..schedules import SCHEDULES
from . import plots
from .presets import TIMES

TITLES = {
    "ann": "ANN",
    "best": "ANN, best epoch",
    "max": "MaxDiff",
    "avg": "AvgDiff",
    "max head": "MaxDiff, heads",
    "avg head": "AvgDiff, heads",
    "max neuron": "MaxDiff, neurons",
    "avg neuron": "AvgDiff, neurons",
    "least": "smallest threshold",
    "epochs": "epochs with one <= 0",
}


def trained(out, name, start=None):
    """The lines of metrics.jsonl of a run and those before it from which it goes on, finished or refused.

    `start` names the run before this one where it has not begun; otherwise its config.json does.
    """
    folder = Path(out) / name
    lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
    begun = (folder / "config.json").exists()
    start = json.loads((folder / "config.json").read_text())["start"] if begun else start
    return (trained(out, start) if start else []) + [json.loads(line) for line in lines]


def lowest_thresholds(config):
    """The smallest threshold of a run after each epoch of stages 1 and 2, finished or refused."""
    lines = trained(config.out, config.name, config.start)
    return [min(line["thresholds"].values()) for line in lines if "thresholds" in line]


def value(config, results, kind, column, calibration, operators="accumulated"):
    """One number of a row, in per cent (thresholds as they are); None if it was not run or is not defined."""
    if kind == "positive":
        lowest = lowest_thresholds(config)
        if not lowest:
            return None
        return min(lowest) if column == "least" else float(sum(theta <= 0 for theta in lowest))
    if not isinstance(results, dict):
        return None
    if kind == "site spread":
        which, site = column.split()
        return 100 * results["threshold_spreads"][site][which] if site in results["threshold_spreads"] else None
    if kind == "spread":
        return 100 * results["threshold_spread" if column == "max" else "threshold_spread_mean"]
    if column == "ann":
        pretrained = results["config"]["epochs"][1] == 0 and results["config"]["epochs"][0] > 0
        return 100 * results["accuracy"]["relu" if pretrained else "folded"]
    if column == "best":
        return 100 * results["best"]["accuracy"] if results.get("best") else None
    for row in results["rows"]:
        plain = SCHEDULES[row["schedule"]].streams and row["margin"] is None
        same = row["calibration"] == calibration and row["operators"] == operators
        if plain and same and row["T"] == column:
            return 100 * row["accuracy"]
    return None


def cell(values):
    """The mean over the seeds, with the standard deviation if there are several."""
    found = [v for v in values if v is not None]
    if not found:
        return ""
    return f"{statistics.mean(found):.2f}" + (f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else "")


def columns_of(preset):
    """The columns of a preset's table."""
    special = {
        "spread": ["max", "avg"],
        "positive": ["least", "epochs"],
        "ann": ["ann", "best"],
        "response": [],
        "site spread": [f"{kind} {site}" for site in ("head", "neuron") for kind in ("max", "avg")],
    }
    if preset.kind in special:
        return special[preset.kind]
    times = sorted({t for row in preset.rows for t in row.config.times})
    return ["ann", "best", *times]


def lines_of(preset, made):
    """(label, cells) of every line: ours, and below it the published one, or empty cells."""
    columns = columns_of(preset)
    for row, configs, outcomes in made:
        ran = [results for results in outcomes if isinstance(results, dict)]
        pairs = list(zip(configs, outcomes, strict=True))
        cells = [
            cell([value(*pair, preset.kind, c, row.calibration, row.operators) for pair in pairs]) for c in columns
        ]
        refused = [line for line in outcomes if isinstance(line, str)]
        name = "this run" + (f" ({len(ran)} of {len(outcomes)} seeds: see below)" if refused else "")
        yield " · ".join(row.label), name, cells, refused[0] if refused else ""
        if row.published:
            kept = {("best" if name == "ann" else name): number for name, number in row.published.items()}
            printed = [f"{kept[c]:.2f}" if c in kept else "" for c in columns]
            yield "", "published", printed, ""


def exact_lines(made):
    """The results of the exact schedules on each network: a sentence from executed rows only."""
    seen = {}
    for _, configs, outcomes in made:
        for config, results in zip(configs, outcomes, strict=True):
            if not isinstance(results, dict):
                continue
            levels = results["config"]["levels"]
            for row in results["rows"]:
                last = (SCHEDULES[row["schedule"]].waits and row["T"] == levels) or row["settled"]
                if last:
                    seen[config.name, row["schedule"]] = row
    if seen:
        least = [min(row["nonzero_share"].values()) for row in seen.values()]
        equal = [share for share, row in zip(least, seen.values(), strict=True) if row["logits_equal"] is True]
        vacuous = sum(share < LEAST_ACTIVE for share in equal)
        free = f" ({vacuous} of them for free, since a layer hardly spikes)" if vacuous else ""
        yield (
            f"Exact schedules (T = L, or settled): all bits of all logits are the quantised network's in {len(equal)} "
            f"of {len(seen)} pairs of network and schedule{free}; least active layer of all: {100 * min(least):.2f} %."
        )


def by_schedule(made):
    """Lines of a second table: every schedule and calibration, published and exact, on each trained network.

    Accuracy over T, and at T = L (signed: settled): units that differ, latency in steps, energy in microjoules.
    """
    networks = {}
    for _, configs, outcomes in made:
        for config, results in zip(configs, outcomes, strict=True):
            if isinstance(results, dict):
                key = (config.data, config.model, config.activation, config.levels, config.epochs)
                networks.setdefault(key, {})[config.name] = results
    for (data, model, activation, levels, _), runs in networks.items():
        kinds = dict.fromkeys(label_of(row) for results in runs.values() for row in results["rows"])
        for kind in kinds:
            rows = [row for results in runs.values() for row in results["rows"] if label_of(row) == kind]
            times = sorted({row["T"] for row in rows})
            at = lambda t, rows=rows: [row for row in rows if row["T"] == t]  # noqa: E731
            accuracy = {t: cell([100 * row["accuracy"] for row in at(t)]) for t in times}
            exact = rows if rows[0]["margin"] else at(times[-1] if rows[0]["settled"] is not None else levels)
            facts = [cell([scale * row[key] for row in exact if row[key] is not None])
                     for key, scale in (("units_that_differ", 100), ("latency", 1), ("joules", 1e6))]  # fmt: skip
            yield f"{data} · {model} · {activation}, L = {levels} · {kind}", accuracy, facts


def schedules_page(made):
    """The second table as text; empty without results."""
    lines = list(by_schedule(made))
    if not lines:
        return []
    times = sorted({t for _, accuracy, _ in lines for t in accuracy if t in TIMES})
    head = ["network and schedule", *(f"T = {t}" for t in times), "units that differ", "latency", "energy in µJ"]
    page = ["", "## Every schedule on the same networks", "",
            "Accuracy in per cent over T (signed: after so many steps); then, at T = L or once settled, units that "
            "differ in per cent, latency in steps end to end, energy of an image.", ""]  # fmt: skip
    page += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, accuracy, facts in lines:
        page.append("| " + " | ".join([name, *(accuracy.get(t, "") for t in times), *facts]) + " |")
    return page


RESPONSE = """What a unit gives for a constant input z. With a threshold of 1, QCFS follows the ReLU in steps, and the
IF neuron (membrane from threshold / 2, T = L) gives the same value. With a threshold of -1, QCFS is turned round: its
output is negative for negative inputs. The IF neuron then starts at -1/2 and each spike *adds* 1 to its membrane: from
z = -1/2 on it is above the threshold in every step, fires T times, and gives -1 whatever comes in (Eq. 3-3)."""


def subject(made):
    """The data set of this run, in place of the published row's."""
    results = [r for _, _, outcomes in made for r in outcomes if isinstance(r, dict)]
    if not results:
        return ""
    config = results[0]["config"]
    images = ", ".join(sorted({str(r["test_images"]) for r in results}))
    width = "" if config["width"] == 1 else f", width {config['width']:g}"
    reads = (
        "ANN is the quantised network without spikes (in rows called ReLU: the ReLU network) after the last epoch; the "
        "best epoch, which published code keeps, is chosen on the test images"
    )
    return f"This run: {config['data']}, {images} test images{width}; {reads}."


def markdown(name, preset, scale, seeds, made):
    """The table as a page."""
    if preset.kind == "response":
        return f"# {name}: {preset.title}\n\n{RESPONSE}\n"
    header = [TITLES.get(c, f"T = {c}") for c in columns_of(preset)]
    unit = "thresholds as they are" if preset.kind == "positive" else "all in per cent"
    seen = f"Scale: {scale}; seeds {', '.join(map(str, seeds))}; {unit}. {subject(made)}"
    lines = [f"# {name}: {preset.title}", "", seen, ""]
    lines += ["| row | whose | " + " | ".join(header) + " |", "|" + "---|" * (len(header) + 2)]
    notes = []
    for label, whose, cells, refused in lines_of(preset, made):
        lines.append(f"| {label} | {whose} | " + " | ".join(cells) + " |")
        notes += [f"- {label}: {refused}"] if refused else []
    results = [r for _, _, outcomes in made for r in outcomes if isinstance(r, dict)]
    exact = exact_lines(made) if preset.kind == "accuracy" else ()
    lines += ["", *notes, *(f"- {line}" for line in exact)]
    if results:
        env = results[0]["environment"]
        commits = sorted({r["environment"]["commit"] or "unknown" for r in results})
        where = f"Commit {', '.join(commits)}, {env['device']}, torch {env['torch']}."
        what = "T leaves out the pre-steps of SRP and COS, as published; the latency in each run's report counts them."
        lines += ["", f"{where} {what}"]
    if scale == "smoke":
        lines += [
            "",
            "Smoke scale learns digits for an epoch (transformers: five): every row runs; no accuracy is claimed.",
        ]
    lines += schedules_page(made) if preset.kind == "accuracy" else []
    return "\n".join(lines) + "\n"


def pictures_of(preset, made, path):
    """The plot of a preset, if its kind has one: [path]. Its title says what ran here, next to what was published."""
    title = "\n".join(filter(None, (preset.title, subject(made).partition(";")[0])))
    done = [(" · ".join(row.label), config, results, row) for row, configs, outcomes in made
            for config, results in zip(configs, outcomes, strict=True)]  # fmt: skip
    ran = [part for part in done if isinstance(part[2], dict)]
    if preset.kind == "response":
        plots.responses(path)
    elif preset.kind == "positive":
        plots.falling_thresholds({(name, c.seed): lowest_thresholds(c) for name, c, _, _ in done}, title, path)
    elif preset.kind == "activations" and ran:
        folder = Path(ran[0][1].out) / ran[0][1].name
        plots.activations(json.loads((folder / "activations.json").read_text()), path)
    elif preset.kind == "ann" and ran:
        curves = {}
        for name, config, results, row in ran:
            levels = None if row.label[2] == "ReLU" else config.levels
            accuracy = value(config, results, "ann", "ann", row.calibration)
            curves.setdefault(f"{name.split(', L =')[0]}, seed {config.seed}", []).append((levels, accuracy))
        plots.over_levels(curves, title, path)
    elif preset.kind == "accuracy" and ran:
        curves, every, networks = {}, {}, {config.name: (config, results) for _, config, results, _ in ran}
        for _, config, results, row in ran:
            curves[" · ".join(row.label[:-1]), row.label[-1], config.seed] = [
                (r["T"], 100 * r["accuracy"]) for r in results["rows"]
                if SCHEDULES[r["schedule"]].streams and r["calibration"] == row.calibration and r["margin"] is None
                and r["operators"] == row.operators
            ]  # fmt: skip
        for config, results in networks.values():
            for r in results["rows"]:
                every.setdefault((f"{config.model}, {config.activation}", label_of(r)), []).append(r)
        plots.over_times(curves, title, path)
        pareto(every, path.with_name(f"{path.stem}-pareto.png"))
        return [path, path.with_name(f"{path.stem}-pareto.png")]
    else:
        return []
    return [path]


def drawn(name, preset, made):
    """The table for the terminal; for a figure without rows, what it shows."""
    if preset.kind == "response":
        return f"{name}: {preset.title}\n\n{RESPONSE}"
    table = Table(title=f"{name}: {preset.title}", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("row", "", *(TITLES.get(c, f"T={c}") for c in columns_of(preset))):
        table.add_column(title, justify="left" if title in ("row", "") else "right")
    for label, whose, cells, _ in lines_of(preset, made):
        table.add_row(label, whose, *cells)
    return table
