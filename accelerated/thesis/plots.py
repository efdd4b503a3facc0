"""The plots of a table or figure of presets.py."""

import math

import torch

from ..reports.plots import plt, save


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


def over_times(curves, title, path):
    """Accuracy over T, a panel for each network, a colour for each method; curves {(panel, method, seed): [(T, %)]}."""
    panels, methods = (list(dict.fromkeys(key[i] for key in curves)) for i in (0, 1))
    columns = min(3, len(panels))
    figure, grid = plt.subplots(
        math.ceil(len(panels) / columns), columns, squeeze=False, sharex=True,
        figsize=(1.5 + 3.6 * columns, 3.2 * math.ceil(len(panels) / columns)),
    )  # fmt: skip
    axes = dict(zip(panels, grid.flat, strict=False))
    for (panel, method, _), points in curves.items():
        i = methods.index(method)
        axes[panel].plot(*zip(*points, strict=True), "osD^v<>"[i % 7] + "-", color=f"C{i % 10}", ms=4, lw=1, alpha=0.8)
    for panel, axis in axes.items():
        axis.set_title(panel, fontsize=10)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.set_xlabel("T")
        axis.grid(alpha=0.3)
    for spare in list(grid.flat)[len(panels) :]:
        spare.axis("off")
    for row in grid:
        row[0].set_ylabel("accuracy in %")
    keys = [plt.Line2D([], [], color=f"C{i % 10}", marker="osD^v<>"[i % 7], ms=4, lw=1, label=m)
            for i, m in enumerate(methods)]  # fmt: skip
    figure.legend(handles=keys, fontsize=8, loc="upper left", bbox_to_anchor=(0.92, 0.88))
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0, 0.92, 1))
    save(figure, path)


def falling_thresholds(curves, title, path):
    """The smallest threshold of each network over the epochs (Figure 3-5); curves {(label, seed): [theta]}."""
    axis = plt.subplots(figsize=(9, 5))[1]
    for (name, seed), lowest in curves.items():
        axis.plot(range(1, len(lowest) + 1), lowest, "o-", ms=3, lw=1, label=f"{name}, seed {seed}")
    axis.axhline(0, color="black", lw=1)
    axis.set(xlabel="epoch of stages 1 and 2", ylabel="smallest threshold of all layers")
    _finish(axis, title, path)


def responses(path, levels=4):
    """The response of QCFS, ReLU and an IF neuron to a constant input, for thresholds 1 and -1 (Figure 3-1)."""
    z = torch.linspace(-2, 2, 801)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for axis, theta in zip(axes, (1.0, -1.0), strict=True):
        membrane, count = torch.full_like(z, theta / 2), torch.zeros_like(z)
        for _ in range(levels):  # the formulas as printed: our functions reject thresholds that are not positive
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
    save(figure, path)


def activations(means, path):
    """The mean of each channel before its activation, as a share of the largest of its layer (Figure 3-2)."""
    axis = plt.subplots(figsize=(10, 5))[1]
    for i, values in enumerate(means.values()):
        scaled = torch.tensor(values) / max(abs(value) for value in values)
        axis.plot(i + torch.linspace(-0.35, 0.35, len(values)), scaled, ".", ms=3)
    axis.set_xticks(range(len(means)), means, rotation=60, fontsize=7)
    axis.axhline(0, color="black", lw=0.5)
    axis.set(ylabel="channel mean / largest in its layer", title="Pre-activations differ between channels")
    axis.grid(alpha=0.3)
    save(axis.figure, path)


def _finish(axis, title, path):
    axis.set_title(title)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    axis.grid(alpha=0.3)
    save(axis.figure, path)
