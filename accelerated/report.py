"""Results on disk -> the table and the plots."""

import matplotlib
import torch
from rich.table import Table

from .activation import QCFS
from .checkpoint import whole_file
from .conversion import convert
from .simulation import ann_levels, settling_steps, simulate

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

COLOURS = {"streaming": "tab:orange", "integrate-then-fire": "tab:blue", "signed": "tab:green"}
HEADER = (
    "schedule", "T", "accuracy", "units that differ", "latency in steps", "spikes per neuron", "synaptic operations",
    "energy in nJ", "least active layer", "logits equal",
)  # fmt: skip
TERMINAL_HEADER = (
    "schedule",
    "T",
    "accuracy\n%",
    "units\ndiffer,\n%",
    "latency\n(steps)",
    "spikes /\nneuron",
    "energy\nnJ",
    "least\nactive\n%",
    "logits\nequal",
)


ALIVE = 0.01  # the least share of neurons that must spike in every layer before an equality means anything


def _share(value):
    return "" if value is None else f"{100 * value:.2f} %"


def label(row):
    """The schedule, with the arithmetic where it is not the schedule's own."""
    drifting = row["arithmetic"] == "increments" and row["schedule"] != "streaming"
    parts = [row["schedule"], "increments" * drifting, row["calibration"].upper() * (row["calibration"] != "none")]
    parts.append("" if row["margin"] is None else f"margin {row['margin']:g}")
    return ", ".join(part for part in parts if part)


def cells(row):
    """A row of results as text, in the order of HEADER. What was not executed or is not defined is empty."""
    latency = "unsettled" if row["latency"] is None else f"{row['latency']:.4g}"
    if row["margin"] is not None:  # how many spikes and operations were saved is not known
        return label(row), str(row["T"]), _share(row["accuracy"]), "", latency, "", "", "", "", ""
    least = min(row["nonzero_share"].values())
    equal = {None: "", True: "all bits" if least >= ALIVE else "vacuous", False: "no"}[row["logits_equal"]]
    return (label(row), str(row["T"]), _share(row["accuracy"]), _share(row["units_that_differ"]), latency,
            f"{row['spikes_per_neuron']:.3f}", f"{row['acs'] + row['macs']:.3g}", f"{1e9 * row['joules']:.3g}",
            _share(least), equal)  # fmt: skip


def findings(results):
    """Sentences that follow from the rows, and only from executed ones."""
    config, accuracy, images = results["config"], results["accuracy"], results["test_images"]
    yield (
        f"ReLU network {_share(accuracy['relu'])}, quantised (L = {config['levels']}) {_share(accuracy['folded'])} "
        f"of {images} test images; {results['depth']} spiking layers deep; thresholds within a layer differ by at most "
        f"{100 * results['threshold_spread']:.3g} %."
    )
    for row in results["rows"]:
        at_levels = row["schedule"] == "integrate-then-fire" and row["T"] == config["levels"]
        settled = row["schedule"] == "signed" and row["settled"] and row is _last(results, row)
        if not (at_levels or settled):
            continue
        shares = [100 * share for share in row["nonzero_share"].values()]
        when = (
            f"at T = L = {row['T']}"
            if at_levels
            else f"settled after {row['latency']} step{'s' * (row['latency'] != 1)} (the slowest image)"
        )
        what = (
            "equal those of the folded quantised network bit for bit"
            if row["logits_equal"]
            else f"are not all the folded quantised network's: {_share(row['units_that_differ'])} of units differ"
        )
        if row["logits_equal"] and min(row["nonzero_share"].values()) < ALIVE:
            what = "equal the folded quantised network's for free, since a layer hardly spikes"
        yield (
            f"{label(row)}: {when}, the logits of all {images} images {what}; "
            f"neurons that spike, per layer: {min(shares):.0f} to {max(shares):.0f} %."
        )


def _last(results, row):
    return [r for r in results["rows"] if label(r) == label(row)][-1]


def arithmetic_note(results):
    """What the exact rows cost where totals are carried, which is how they were computed."""
    rows = [row for row in results["rows"] if row["logits_equal"] and row["arithmetic"] == "totals"]
    if not rows:
        return ""
    times = max(row["totals_joules"] / row["ann_joules"] for row in rows)
    return f"Rows on totals were computed anew in every step: up to {times:.3g} times that network's work."


def markdown(results):
    """report.md: what was run, the table, the findings, the plots."""
    config, env = results["config"], results["environment"]
    lines = [f"# {config['data']}, {config['model']}, {config['activation']}, L = {config['levels']}", ""]
    lines += ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in results["rows"]]
    lines += ["", *(f"- {finding}" for finding in findings(results)), ""]
    lines += [
        f"Seed {config['seed']}, commit {env['commit']}, {env['device']}, torch {env['torch']}, "
        f"{results['seconds']} s. Latency counts all steps end to end; signed rows whose latency is `unsettled` still "
        "fire in their last step (2 + D (L - 1) steps are enough for any image to settle and show it). "
        "Units that differ: share of pairs of image and neuron whose spike count is not the quantised network's level "
        "(empty where T is not L). Least active layer: the smallest share of a layer's neurons that spike; where it is "
        "next to nothing, an equality is free and called vacuous. Energy is that of hardware that adds increments, at "
        f"45 nm (4.6 pJ a multiply-accumulate, 0.9 pJ an accumulate; memory left out); the quantised network takes "
        f"{1e9 * results['rows'][0]['ann_joules']:.3g} nJ. " + arithmetic_note(results)
    ]
    lines += ["", *(f"![{name}]({name}.png)" for name in ("accuracy", "pareto", "thresholds", "neuron"))]
    return "\n".join(lines) + "\n"


def _save(figure, path):
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def plot_accuracy(results, path):
    """Accuracy over T, and over latency end to end; below, the same next to the quantised network's."""
    figure, grid = plt.subplots(2, 2, figsize=(11, 7), sharex="col", sharey="row")
    target = 100 * results["accuracy"]["folded"]
    for axes in grid:
        for name in dict.fromkeys(label(row) for row in results["rows"]):
            rows = [row for row in results["rows"] if label(row) == name]
            line = {"increments": "--", "SRP": ":", "COS": "-.", "margin": "None"}
            style = {"color": COLOURS[rows[0]["schedule"]], "ls": next((s for k, s in line.items() if k in name), "-")}
            for axis, key in zip(axes, ("T", "latency"), strict=True):
                points = [(row[key], 100 * row["accuracy"]) for row in rows if row[key] is not None]
                axis.plot(*zip(*sorted(points), strict=True), marker="o", label=name, **style) if points else None
            open_ = [(row["T"], 100 * row["accuracy"]) for row in rows if row["latency"] is None]
            if open_:  # no latency yet: the answer may still change
                axes[0].plot(
                    *zip(*open_, strict=True), "o", color=style["color"], mfc="white", label=f"{name}, unsettled"
                )
        for axis in axes:
            axis.axhline(target, color="grey", ls=":", lw=1, label="quantised network")
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:.0f}")
            axis.grid(alpha=0.3)
    best = max(100 * row["accuracy"] for row in results["rows"])
    grid[0, 0].set(ylim=(-2, 102), ylabel="accuracy in %")
    grid[1, 0].set(ylim=(target - 4, max(best, target) + 1), ylabel="the same, enlarged")
    for axis, title in zip(grid[1], ("T (signed: steps simulated)", "latency in steps, end to end"), strict=True):
        axis.set_xlabel(title)
    grid[0, 0].legend(fontsize=8)
    grid[0, 1].set_title("rows that have settled", fontsize=10) if any(
        r["latency"] is None for r in results["rows"]
    ) else None
    _save(figure, path)


def front(points):
    """The points (cost, accuracy) that no other beats in both."""
    best, kept = -1.0, []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if accuracy > best:
            best, kept = accuracy, [*kept, (cost, accuracy)]
    return kept


def plot_pareto(results, path):
    """Accuracy against latency and against energy, all rows; the line joins those that none beats in both."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    names = {"latency": "latency in steps, end to end", "joules": "energy of an image in nJ"}
    for axis, (key, title) in zip(axes, names.items(), strict=True):
        every = []
        for i, name in enumerate(dict.fromkeys(label(row) for row in results["rows"])):
            rows = [row for row in results["rows"] if label(row) == name and row[key] is not None]
            rows = [row for row in rows if row["latency"] is not None]
            points = [(row[key] * (1e9 if key == "joules" else 1), 100 * row["accuracy"]) for row in rows]
            marker = "osD^v<>pP*X"[i % 11]
            axis.plot(*zip(*points, strict=True), marker, alpha=0.7, label=name) if points else None
            every += points
        if every:
            axis.plot(*zip(*front(every), strict=True), color="black", lw=1, zorder=0, label="best of all")
        axis.axhline(100 * results["accuracy"]["folded"], color="grey", ls=":", lw=1, label="quantised network")
        axis.set_xscale("log")
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    costs = [1e9 * row["ann_joules"] for row in results["rows"] if row["joules"] is not None]
    axes[1].axvline(costs[0], color="grey", ls="--", lw=1, label="the quantised network's energy")
    axes[0].set_ylabel("accuracy in %")
    axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def plot_thresholds(quantised, path):
    """The thresholds of every layer, and how far each lies from its layer's mean."""
    layers = {
        name: m.threshold.detach().flatten().cpu() for name, m in quantised.named_modules() if isinstance(m, QCFS)
    }
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(2 + 1.1 * len(layers), 6), sharex=True)
    for i, values in enumerate(layers.values()):
        x = i + torch.linspace(-0.3, 0.3, len(values)) if len(values) > 1 else [i]
        top.plot(x, values, "o", ms=4, alpha=0.7)
        bottom.plot(x, 100 * (values / values.mean() - 1), "o", ms=4, alpha=0.7)
    top.set_ylabel("threshold")
    top.set_ylim(bottom=0)
    bottom.set_ylabel("from the layer's mean, in %")
    bottom.set_xticks(range(len(layers)), layers, rotation=20)
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    _save(figure, path)


def _watch(spiking, x, steps, layer, unit):
    """(membrane after the step, spikes so far) of one unit in every step, in increments."""
    seen = []

    def look(module, _, __):
        seen.append((module.membrane.flatten()[unit].item(), module.sent.flatten()[unit].item()))

    hook = spiking.layers[layer].register_forward_hook(look)
    simulate(spiking, x, steps, "increments")
    hook.remove()
    return [list(column) for column in zip(*seen, strict=True)]


def _draw_membrane(axis, membrane, count, theta):
    """The membrane as a saw: up or down to where the current brings it, and down by theta where it fires."""
    fired = [now - before for now, before in zip(count, [0, *count[:-1]], strict=True)]
    before = [after + theta * spike for after, spike in zip(membrane, fired, strict=True)]
    x, y = [0.0], [theta / 2]
    for step, (high, after) in enumerate(zip(before, membrane, strict=True), 1):
        x, y = [*x, step, step], [*y, high, after]
    axis.plot(x, y, "-", color=COLOURS["streaming"], label="membrane")
    spikes = [(step, high) for step, (high, spike) in enumerate(zip(before, fired, strict=True), 1) if spike]
    if spikes:
        axis.plot(*zip(*spikes, strict=True), "k^", ms=8, label="spike: the membrane falls by the threshold")
    axis.axhline(theta, color="grey", ls="--", lw=1, label="threshold")


def plot_neuron(quantised, x, path, schedules):
    """One neuron's membrane and spikes when streaming; its spikes so far under each schedule, beside its level.

    The layer is the last but one; the neuron is one whose streaming count misses its level, if there is one.
    """
    streaming = convert(quantised, "streaming")
    layer = list(streaming.layers)[-2:][0]
    neuron = streaming.layers[layer]
    levels = ann_levels(streaming, x)[layer]
    missed = simulate(streaming, x, neuron.levels).counts[layer] != levels
    unit = int((missed * neuron.levels + torch.minimum(levels, neuron.levels - levels)).argmax())
    theta = neuron.threshold.expand(levels.shape).flatten()[unit].item()
    level = int(levels.flatten()[unit])
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6.5))
    membrane, count = _watch(streaming, x, neuron.levels, layer, unit)
    _draw_membrane(top, membrane, count, theta)
    top.set_title(
        f"neuron {unit} of layer {layer}, first test image: streaming, T = L = {neuron.levels}, "
        f"{count[-1]:.0f} spike{'s' * (count[-1] != 1)}; its level is {level}",
        fontsize=10,
    )
    for schedule in schedules:
        spiking = convert(quantised, schedule)
        long = settling_steps(spiking.latency_depth, neuron.levels) if schedule == "signed" else neuron.levels
        count = _watch(spiking, x, long, layer, unit)[1]
        bottom.step(range(len(count) + 1), [0, *count], where="post", color=COLOURS[schedule], label=schedule)
    bottom.axhline(level, color="grey", ls="--", lw=1, label="level in the quantised network")
    bottom.set_ylabel("spikes sent so far")
    for axis in (top, bottom):
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    bottom.yaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def write(folder, results, quantised, image):
    """report.md and the plots of a run; `image` [1, ...] is the one that the neuron plot shows."""
    plot_accuracy(results, folder / "accuracy.png")
    plot_pareto(results, folder / "pareto.png")
    plot_thresholds(quantised, folder / "thresholds.png")
    plot_neuron(quantised, image, folder / "neuron.png", results["config"]["schedules"])
    with whole_file(folder / "report.md") as part:
        part.write_text(markdown(results))


def table(results):
    """The table of results for the terminal; it fits into 80 columns."""
    config = results["config"]
    title = f"{config['data']}, {config['model']}, {config['activation']}, L = {config['levels']}"
    drawn = Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in TERMINAL_HEADER:
        drawn.add_column(name, justify="left" if name == "schedule" else "right", no_wrap=True)
    before = None
    for row in results["rows"]:
        name, *rest = cells(row)
        if before not in (None, name):
            drawn.add_row()
        del rest[5]  # synaptic operations: in report.md
        shown = [cell.removesuffix(" %").replace("all bits", "yes") for cell in rest]
        drawn.add_row("" if name == before else name.replace(", ", ",\n"), *shown)
        before = name
    return drawn
