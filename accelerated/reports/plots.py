"""The plots of one run."""

import matplotlib
import torch

from ..activation import QCFS
from ..conversion import convert
from ..simulation import ann_levels, settling_steps, simulate

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

COLOURS = {"streaming": "tab:orange", "integrate-then-fire": "tab:blue", "signed": "tab:green"}


def label(row):
    """The schedule, with the arithmetic where it is not the schedule's own, the calibration and the margin."""
    drifting = row["arithmetic"] == "increments" and row["schedule"] != "streaming"
    parts = [
        row["schedule"],
        "per step" * (row.get("operators") == "per-step"),
        "increments" * drifting,
        "by theorem" * (row["arithmetic"] == "theorem"),
        row["calibration"].upper() * (row["calibration"] != "none"),
    ]
    parts.append("" if row["margin"] is None else f"margin {row['margin']:g}")
    return ", ".join(part for part in parts if part)


def save(figure, path):
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def accuracy(results, path):
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
    save(figure, path)


def front(points):
    """The points (cost, accuracy) that no other beats in both."""
    best, kept = -1.0, []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if accuracy > best:
            best, kept = accuracy, [*kept, (cost, accuracy)]
    return kept


def pareto(named, path, target=None):
    """Accuracy against latency and energy; named {(network, label): rows}; the line joins those that none beats.

    Colours are schedules, markers networks.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    titles = {"latency": "latency in steps, end to end", "joules": "energy of an image in µJ"}
    markers = {network: "osD^v<>pP*X"[i % 11] for i, network in enumerate(dict.fromkeys(n for n, _ in named))}
    colours = {kind: f"C{i % 10}" for i, kind in enumerate(dict.fromkeys(kind for _, kind in named))}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        every = []
        for (network, kind), rows in named.items():
            rows = [row for row in rows if row[key] is not None and row["latency"] is not None]
            points = [(row[key] * (1e6 if key == "joules" else 1), 100 * row["accuracy"]) for row in rows]
            style = {"marker": markers[network], "ls": "", "color": colours[kind], "alpha": 0.7, "ms": 5}
            axis.plot(*zip(*points, strict=True), **style) if points else None
            every += points
        if every:
            axis.plot(*zip(*front(every), strict=True), color="black", lw=1, zorder=0)
        if target is not None:
            axis.axhline(target, color="grey", ls=":", lw=1)
        axis.set_xscale("log")
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    costs = {1e6 * row["ann_joules"] for rows in named.values() for row in rows if row["joules"] is not None}
    for cost in sorted(costs) if len(costs) <= 4 else []:
        axes[1].axvline(cost, color="grey", ls="--", lw=1)
    keys = [plt.Line2D([], [], color=colour, marker="o", ls="", label=kind) for kind, colour in colours.items()]
    if len(markers) > 1:
        keys += [plt.Line2D([], [], color="black", marker=m, ls="", mfc="white", label=n) for n, m in markers.items()]
    keys.append(plt.Line2D([], [], color="black", lw=1, label="best of all"))
    if target is not None:
        keys.append(plt.Line2D([], [], color="grey", ls=":", lw=1, label="quantised network"))
    if len(costs) <= 4:
        keys.append(plt.Line2D([], [], color="grey", ls="--", lw=1, label="a quantised network's energy"))
    axes[0].set_ylabel("accuracy in %")
    axes[1].legend(handles=keys, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, path)


def thresholds(quantised, path):
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
    top.set_ylim(0, 1.08 * max(float(values.max()) for values in layers.values()))
    bottom.set_ylabel("from the layer's mean, in %")
    bottom.set_xticks(range(len(layers)), layers, rotation=20)
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    save(figure, path)


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


def neuron(quantised, x, path, schedules):
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
    for i, schedule in enumerate(schedules):
        spiking = convert(quantised, schedule)
        long = settling_steps(spiking.latency_depth, neuron.levels) if schedule == "signed" else neuron.levels
        count = _watch(spiking, x, long, layer, unit)[1]
        style = {"where": "post", "color": COLOURS[schedule], "lw": 5 - 2 * i, "alpha": 0.8}  # all visible where equal
        bottom.step(range(len(count) + 1), [0, *count], label=schedule, **style)
    bottom.axhline(level, color="grey", ls="--", lw=1, label="level in the quantised network")
    bottom.set_ylabel("spikes sent so far")
    top.set_ylabel("membrane")
    for axis in (top, bottom):
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    bottom.yaxis.set_major_locator(MaxNLocator(integer=True))
    save(figure, path)
