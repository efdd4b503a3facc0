"""How times grow with T, the batch, the width and the rate; how memory grows with T."""

import resource
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import nn

from ..conversion import convert
from ..engines import engine_named
from ..quantisation import quantise
from .networks import network, quantised_of, streaming
from .options import AXES
from .timing import Case, interleaved, interval

TIMES = (4, 32)  # memory must not grow from one to the other
LEFT_OUT = ("one step at a time", "step by step in PyTorch", "snntorch", "sinabs")  # of the plots of networks


class Drive(nn.Module):
    """Two convolutions: the first layer fires at the rate that its bias gives, the second reads its spikes."""

    def __init__(self, rate, channels):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, channels, 1), nn.Conv2d(channels, channels, 3, padding=1)
        self.act, self.last = nn.ReLU(), nn.ReLU()
        with torch.no_grad():
            self.first.weight.normal_(0, 0.02)
            self.first.bias = nn.Parameter(2 * rate * torch.rand(channels))

    def forward(self, x):
        return self.last(self.second(self.act(self.first(x)))).mean((2, 3))


def rated(rate, options):
    """One convolution of 64 channels that reads spikes at `rate`: dense against event."""
    torch.manual_seed(0)
    x = torch.rand(options.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    spiking = convert(quantise(Drive(rate, round(64 * options.width)).eval(), "s-qcfs", 8, 1.0, x).eval(), "streaming")
    candidates = {kind: streaming(spiking, x, options.steps, engine_named(kind)) for kind in ("dense", "event")}
    return Case(candidates, "dense", f"rate {rate}")


def grown(name, axis, options):
    """[(value, {candidate: (median, low, high) in seconds})] along an axis; "rate" is of a single convolution."""
    rows = []
    for value in AXES[axis]:
        case = rated(value, options) if axis == "rate" else network(name, replace(options, **{axis: value}))
        case.candidates = {n: run for n, run in case.candidates.items() if n not in LEFT_OUT}
        seconds = interleaved(case, options.rounds)
        rows.append((value, {candidate: interval(times) for candidate, times in seconds.items()}))
    return rows


def held_at_most():
    """The peak memory of this process in bytes; that of `getrusage` would include its parent's."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _peak(name, kind, options):
    """The peak memory in bytes of a fresh process that streams a network."""
    torch.set_num_threads(options.threads)
    quantised, x, _ = quantised_of(name, options)
    streaming(convert(quantised, "streaming"), x, options.steps, engine_named(kind))()
    return held_at_most()


def memory(name, kind, options):
    """{T: most bytes held}, libraries and network included, each in a process of its own."""
    held = {}
    for steps in TIMES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            held[steps] = pool.submit(_peak, name, kind, replace(options, steps=steps)).result()
    return held


def drawn(name, axis, rows, path):
    """A plot of times along an axis."""
    from matplotlib.ticker import LogLocator

    from ..reports.plots import plt, save

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for candidate in rows[0][1]:
        found = [(value, *row[candidate]) for value, row in rows if candidate in row]
        values, middle, low, high = zip(*found, strict=True)
        (line,) = axes.plot(values, [1e3 * m for m in middle], marker="o", label=candidate)
        axes.fill_between(values, [1e3 * v for v in low], [1e3 * v for v in high], alpha=0.2, color=line.get_color())
    axes.set(xscale="log", yscale="log", xlabel={"steps": "T", "rate": "spikes per neuron and step"}.get(axis, axis),
             ylabel="ms, median", title="a convolution of spikes" if axis == "rate" else Path(name).name)  # fmt: skip
    axes.set_xticks(values, [f"{v:g}" for v in values], minor=False)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    save(figure, path)
