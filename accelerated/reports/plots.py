"""The plots of one run."""

import matplotlib
import torch

from ..activation import QCFS
from ..conversion import convert
from ..schedules import SCHEDULES
from ..simulation import ann_levels, simulate

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

PALETTE = ("tab:orange", "tab:blue", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive")
FILLS = {
    "SRP": "left",
    "COS": "right",
    "per step": "top",
    "increments": "bottom",
    "theorem": "bottom",
    "margin": "none",
}
COLOURS = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(SCHEDULES)}  # the same in every plot


def label(row):
    """The schedule, with its arithmetic if not the default, its calibration and its margin."""
    drifting = row["arithmetic"] == "increments" and not SCHEDULES[row["schedule"]].streams
    parts = [row["schedule"]]
    if row.get("operators") == "per-step":
        parts.append("per step")
    if drifting:
        parts.append("increments")
    if row["arithmetic"] == "theorem":
        parts.append("by theorem")
    if row["calibration"] != "none":
        parts.append(row["calibration"].upper())
    if row["margin"] is not None:
        parts.append(f"margin {row['margin']:g}")
    return ", ".join(parts)


def save(figure, path):
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def shown_rows(results):
    """The rows of the table: what has settled is shown once, in its first row."""
    settled: set = set()
    for row in results["rows"]:
        if label(row) not in settled or row["margin"] is not None:
            yield row
        if row["settled"]:
            settled.add(label(row))


LINES = {"increments": "--", "SRP": ":", "COS": "-.", "margin": "None"}  # of rows other than a schedule's default form


def style_of(name, rows):
    """Colour and line of one kind of row."""
    return {"color": COLOURS[rows[0]["schedule"]], "ls": next((s for word, s in LINES.items() if word in name), "-")}


def by_label(results):
    """{label: its rows}, in their order."""
    found: dict = {}
    for row in shown_rows(results):
        found.setdefault(label(row), []).append(row)
    return found


def steps(results, path):
    """Accuracy over the steps after which an answer is read, and over the spikes sent by then.

    Filled: the logits are the quantised network's in every bit, and stay so.
    """
    figure, (over_steps, over_spikes) = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for name, rows in by_label(results).items():
        read = sorted((row for row in rows if row["margin"] is None), key=read_after)
        style = style_of(name, rows)
        for axis, x in ((over_steps, [*map(read_after, read)]), (over_spikes, [r["spikes_per_neuron"] for r in read])):
            y = [100 * row["accuracy"] for row in read]
            axis.plot(x, y, label=name, **style)
            faces = [style["color"] if row["logits_equal"] and row["latency"] is not None else "white" for row in read]
            axis.scatter(x, y, c=faces, edgecolors=style["color"], s=22, zorder=3)
    for axis in (over_steps, over_spikes):
        axis.axhline(100 * results["accuracy"]["folded"], color="grey", ls=":", lw=1, label="quantised network")
        axis.set(ylim=(0, 102))
        axis.grid(alpha=0.3)
    over_steps.set(xlabel="steps, end to end", ylabel="accuracy in %", xscale="log")
    over_steps.xaxis.set_major_formatter("{x:.0f}")
    over_spikes.set(xlabel="spikes per neuron and image")
    over_spikes.scatter([], [], c="grey", edgecolors="grey", s=22, label="exact: every bit, for good")
    over_spikes.legend(fontsize=8, loc="lower right")
    save(figure, path)


def read_after(row):
    """The step after which a row's answer is read."""
    return row["T"] if row["latency"] is None else row["latency"]


def accuracy(results, path):
    """Accuracy over T, and over latency; below, the same close to the quantised network's."""
    figure, grid = plt.subplots(2, 2, figsize=(11, 7), sharex="col", sharey="row")
    target = 100 * results["accuracy"]["folded"]
    for over_t, over_latency in grid:
        for name, rows in by_label(results).items():
            style = style_of(name, rows)
            _line(over_t, rows, "T", style, name)
            _line(over_latency, rows, "latency", style, name)
            still = [(row["T"], 100 * row["accuracy"]) for row in rows if row["latency"] is None]
            if still:  # no latency yet: the answer may still change
                x, y = zip(*still, strict=True)
                over_t.plot(x, y, "o", color=style["color"], mfc="white", label=f"{name}, unsettled")
        for axis in (over_t, over_latency):
            axis.axhline(target, color="grey", ls=":", lw=1, label="quantised network")
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:.0f}")
            axis.grid(alpha=0.3)
    best = max(100 * row["accuracy"] for row in results["rows"])
    grid[0, 0].set(ylim=(-2, 102), ylabel="accuracy in %")
    grid[1, 0].set(ylim=(target - 4, max(best, target) + 1), ylabel="the same, enlarged")
    for axis, title in zip(
        grid[1], ("T (signed, halving: steps simulated)", "latency in steps, end to end"), strict=True
    ):
        axis.set_xlabel(title)
    grid[0, 0].legend(fontsize=8)
    if any(row["latency"] is None for row in results["rows"]):
        grid[0, 1].set_title("rows that have settled", fontsize=10)
    save(figure, path)


def _line(axis, rows, key, style, name):
    """Accuracy over the value of `key`, where there is one."""
    points = sorted((row[key], 100 * row["accuracy"]) for row in rows if row[key] is not None)
    if points:
        axis.plot(*zip(*points, strict=True), marker="o", label=name, **style)


def front(points):
    """The points (cost, accuracy) that no other point beats in both: the Pareto front."""
    best, kept = -1.0, []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if accuracy > best:
            best, kept = accuracy, [*kept, (cost, accuracy)]
    return kept


def energies(row):
    """(joules of a row, of its rival), in whole numbers with memory; of floats without, for a run of before."""
    if row.get("whole_joules") is None:
        return row["joules"], row["ann_joules"]
    return tuple(row[f"{who}_joules"] + row[f"{who}_memory"] for who in ("whole", "rival"))


def pareto(named, path, target=None):
    """Accuracy against latency and energy; named {(network, label): rows}; the line joins the Pareto front.

    Colours are schedules, markers networks; vertical lines the energy of the rival of rows that are exact.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    titles = {"latency": "latency in steps, end to end", "joules": "energy of an image in µJ, with memory"}
    markers = {network: "osD^v<>pP*X"[i % 11] for i, network in enumerate(dict.fromkeys(n for n, _ in named))}
    kinds = {kind: rows[0]["schedule"] for (_, kind), rows in named.items()}
    colours = {kind: COLOURS[schedule] for kind, schedule in kinds.items()}
    fills: dict = {kind: next((f for word, f in FILLS.items() if word in kind), "full") for kind in kinds}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        every = []
        for (network, kind), rows in named.items():
            rows = [row for row in rows if row[key] is not None and row["latency"] is not None]
            across = [1e6 * energies(row)[0] if key == "joules" else row[key] for row in rows]
            points = [(value, 100 * row["accuracy"]) for value, row in zip(across, rows, strict=True)]
            style = {"marker": markers[network], "ls": "", "color": colours[kind], "alpha": 0.7, "ms": 6}
            style |= {"fillstyle": fills[kind], "markerfacecoloralt": "white"}
            if points:
                axis.plot(*zip(*points, strict=True), **style)
            every += points
        if every:
            axis.plot(*zip(*front(every), strict=True), color="black", lw=1, zorder=0)
        if target is not None:
            axis.axhline(target, color="grey", ls=":", lw=1)
        axis.set_xscale("log")
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    exact = [row for rows in named.values() for row in rows if row["joules"] is not None and row.get("logits_equal")]
    costs = {1e6 * energies(row)[1] for row in exact}
    for cost in sorted(costs) if len(costs) <= 4 else []:
        axes[1].axvline(cost, color="grey", ls="--", lw=1)
    keys = [
        plt.Line2D([], [], color=colours[kind], marker="o", ls="", fillstyle=fills[kind], mfcalt="white", label=kind)
        for kind in kinds
    ]
    if len(markers) > 1:
        keys += [plt.Line2D([], [], color="black", marker=m, ls="", mfc="white", label=n) for n, m in markers.items()]
    keys.append(plt.Line2D([], [], color="black", lw=1, label="best of all"))
    if target is not None:
        keys.append(plt.Line2D([], [], color="grey", ls=":", lw=1, label="quantised network"))
    if len(costs) <= 4:
        keys.append(plt.Line2D([], [], color="grey", ls="--", lw=1, label="the rival's energy"))
    axes[0].set_ylabel("accuracy in %")
    axes[1].legend(handles=keys, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, path)


def thresholds(quantised, path):
    """The thresholds of every layer, and their deviations from the layer's mean."""
    layers = {
        name: m.threshold.detach().flatten().cpu() for name, m in quantised.named_modules() if isinstance(m, QCFS)
    }
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(min(2 + 1.1 * len(layers), 16), 6), sharex=True)
    for i, values in enumerate(layers.values()):
        x = i + torch.linspace(-0.3, 0.3, len(values)) if len(values) > 1 else [i]
        top.plot(x, values, "o", ms=4, alpha=0.7)
        bottom.plot(x, 100 * (values / values.mean() - 1), "o", ms=4, alpha=0.7)
    top.set_ylabel("threshold")
    top.set_ylim(0, 1.08 * max(float(values.max()) for values in layers.values()))
    bottom.set_ylabel("from the layer's mean, in %")
    many = len(layers) > 14
    bottom.set_xticks(range(len(layers)), layers, rotation=90 if many else 20, fontsize=6 if many else None)
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    save(figure, path)


def raster(recorded, path, image=0, most=60):
    """The spikes of recorded layers (`simulate(..., record=[...])`), a row for each of the first `most` neurons.

    A negative spike is a hollow mark.
    """
    figure, axes = plt.subplots(len(recorded), 1, figsize=(8, 1 + 1.8 * len(recorded)), squeeze=False, sharex=True)
    for axis, (name, (spikes, _)) in zip(axes[:, 0], recorded.items(), strict=True):
        train = spikes[:, image].flatten(1)[:, :most].cpu()
        for sign, face in ((1, "black"), (-1, "white")):
            step, neuron = (train == sign).nonzero(as_tuple=True)
            axis.plot(step + 1, neuron, "o", ms=3, mfc=face, mec="black", ls="")
        axis.set_ylabel(f"neuron of {name}")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1, 0].set_xlabel("step")
    save(figure, path)


def _watch(spiking, x, steps, layer, unit):
    """(membrane after each step, spikes so far) of one unit; on increments if the schedule has them."""
    arithmetics = spiking.schedule.arithmetics
    arithmetic = "increments" if "increments" in arithmetics else arithmetics[0]
    spikes, membranes = simulate(spiking, x, steps, arithmetic, record=[layer]).recorded[layer]
    membrane = [] if membranes is None else membranes.flatten(1)[:, unit].tolist()
    return membrane, spikes.cumsum(0).flatten(1)[:, unit].tolist()


def _draw_membrane(axis, membrane, count, theta):
    """The membrane as a sawtooth: moved by the current, and down by theta at each spike."""
    fired = [now - before for now, before in zip(count, [0, *count[:-1]], strict=True)]
    before = [after + theta * spike for after, spike in zip(membrane, fired, strict=True)]
    x, y = [0.0], [theta / 2]
    for step, (high, after) in enumerate(zip(before, membrane, strict=True), 1):
        x, y = [*x, step, step], [*y, high, after]
    axis.plot(x, y, "-", color=COLOURS[next(iter(SCHEDULES))], label="membrane")
    spikes = [(step, high) for step, (high, spike) in enumerate(zip(before, fired, strict=True), 1) if spike]
    if spikes:
        axis.plot(*zip(*spikes, strict=True), "k^", ms=8, label="spike: the membrane falls by the threshold")
    axis.axhline(theta, color="grey", ls="--", lw=1, label="threshold")


def neuron(quantised, x, path, schedules):
    """One neuron's membrane and spikes when streaming; its spikes so far under each schedule, next to its level.

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
        f"spikes: {count[-1]:.0f}; its level is {level}",
        fontsize=10,
    )
    for i, schedule in enumerate(schedules):
        spiking = convert(quantised, schedule)
        exact = spiking.schedule.exact_at(spiking.latency_depth, neuron.levels, neuron.lowest) or neuron.levels
        count = _watch(spiking, x, exact - spiking.schedule.settles, layer, unit)[1]
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
