"""Every plot: of one run, and of a table or figure of presets.py."""

import matplotlib
import torch

from .activation import QCFS
from .conversion import convert
from .simulation import ann_levels, settling_steps, simulate

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

COLOURS = {"streaming": "tab:orange", "integrate-then-fire": "tab:blue", "signed": "tab:green"}


def label(row):
    """The schedule, with the arithmetic where it is not the schedule's own, the calibration and the margin."""
    drifting = row["arithmetic"] == "increments" and row["schedule"] != "streaming"
    parts = [row["schedule"], "increments" * drifting, row["calibration"].upper() * (row["calibration"] != "none")]
    parts.append("" if row["margin"] is None else f"margin {row['margin']:g}")
    return ", ".join(part for part in parts if part)


def _save(figure, path):
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
    _save(figure, path)


def front(points):
    """The points (cost, accuracy) that no other beats in both."""
    best, kept = -1.0, []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if accuracy > best:
            best, kept = accuracy, [*kept, (cost, accuracy)]
    return kept


def pareto(results, path):
    """`pareto_of` the rows of one run."""
    named = {}
    for row in results["rows"]:
        named.setdefault(label(row), []).append(row)
    pareto_of(named, path, 100 * results["accuracy"]["folded"])


def pareto_of(named, path, target=None):
    """Accuracy against latency and energy; named {label: rows}; the line joins those that none beats in both."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    titles = {"latency": "latency in steps, end to end", "joules": "energy of an image in µJ"}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        every = []
        for i, (name, rows) in enumerate(named.items()):
            rows = [row for row in rows if row[key] is not None and row["latency"] is not None]
            points = [(row[key] * (1e6 if key == "joules" else 1), 100 * row["accuracy"]) for row in rows]
            colour = COLOURS[rows[0]["schedule"]] if rows else None
            style = {"marker": "osD^v<>pP*X"[i % 11], "ls": "", "color": colour}
            axis.plot(*zip(*points, strict=True), alpha=0.7, label=name, **style) if points else None
            every += points
        if every:
            axis.plot(*zip(*front(every), strict=True), color="black", lw=1, zorder=0, label="best of all")
        if target is not None:
            axis.axhline(target, color="grey", ls=":", lw=1, label="quantised network")
        axis.set_xscale("log")
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    costs = {1e6 * row["ann_joules"] for rows in named.values() for row in rows if row["joules"] is not None}
    for i, cost in enumerate(sorted(costs) if len(costs) <= 4 else []):
        axes[1].axvline(cost, color="grey", ls="--", lw=1, label="a quantised network's energy" if i == 0 else None)
    axes[0].set_ylabel("accuracy in %")
    axes[1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def over_levels(curves, title, path):
    """Accuracy of ordinary networks over L (Figure 3-3); curves {label: [(L or None, accuracy)]}, None for ReLU."""
    axis = plt.subplots(figsize=(9, 5))[1]
    for i, (name, points) in enumerate(curves.items()):
        if points[0][0] is None:
            axis.axhline(points[0][1], color=f"C{i % 10}", ls="--", lw=1, label=name)
        else:
            axis.plot(*zip(*sorted(points), strict=True), "o-", color=f"C{i % 10}", ms=4, lw=1, label=name)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:.0f}")
    axis.set(xlabel="L", ylabel="accuracy in %")
    _finish(axis, title, path)


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


def _finish(axis, title, path):
    axis.set_title(title)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    axis.grid(alpha=0.3)
    _save(axis.figure, path)


def over_times(curves, title, path):
    """Accuracy of every row over T (Figure 3-4); curves {(label, seed): [(T, accuracy)]}."""
    axis = plt.subplots(figsize=(9, 5))[1]
    for i, ((name, seed), points) in enumerate(curves.items()):
        axis.plot(*zip(*points, strict=True), "osD^v<>"[i % 7] + "-", ms=4, lw=1, label=f"{name}, seed {seed}")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:.0f}")
    axis.set(xlabel="T", ylabel="accuracy in %")
    _finish(axis, title, path)


def falling_thresholds(curves, title, path):
    """The smallest threshold of each network over the epochs (Figure 3-5); curves {(label, seed): [theta]}."""
    axis = plt.subplots(figsize=(9, 5))[1]
    for (name, seed), lowest in curves.items():
        axis.plot(range(1, len(lowest) + 1), lowest, "o-", ms=3, lw=1, label=f"{name}, seed {seed}")
    axis.axhline(0, color="black", lw=1)
    axis.set(xlabel="epoch of stages 1 and 2", ylabel="smallest threshold of all layers")
    _finish(axis, title, path)


def responses(path, levels=4):
    """What QCFS, ReLU and an IF neuron make of a constant input, for thresholds 1 and -1 (Figure 3-1)."""
    z = torch.linspace(-2, 2, 801)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for axis, theta in zip(axes, (1.0, -1.0), strict=True):
        membrane, count = torch.full_like(z, theta / 2), torch.zeros_like(z)
        for _ in range(levels):  # the formulas as they stand: our functions refuse a threshold that is not positive
            spike = (membrane + z >= theta).float()
            membrane, count = membrane + z - theta * spike, count + spike
        activation = theta * torch.clamp(torch.floor(z * levels / theta + 0.5), 0, levels) / levels
        axis.plot(z, torch.relu(z), color="grey", lw=1, label="ReLU")
        axis.plot(z, activation, color="tab:blue", label=f"QCFS, L = {levels}")
        axis.plot(z, theta * count / levels, "--", color="tab:orange", label=f"IF neuron, T = {levels}")
        axis.set(xlabel="constant input z", title=f"threshold {theta:g}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("output")
    axes[0].legend()
    _save(figure, path)


def activations(means, path):
    """The mean of each channel before its activation, as a share of the largest of its layer (Figure 3-2)."""
    axis = plt.subplots(figsize=(10, 5))[1]
    for i, values in enumerate(means.values()):
        scaled = torch.tensor(values) / max(abs(value) for value in values)
        axis.plot(i + torch.linspace(-0.35, 0.35, len(values)), scaled, ".", ms=3)
    axis.set_xticks(range(len(means)), means, rotation=60, fontsize=7)
    axis.axhline(0, color="black", lw=0.5)
    axis.set(ylabel="mean of a channel / largest of its layer", title="Pre-activations differ between channels")
    axis.grid(alpha=0.3)
    _save(axis.figure, path)
