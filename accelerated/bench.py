"""`python -m accelerated.bench`: how fast neurons, QCFS and whole networks are beside their limits, as ratios.

What is compared runs interleaved, warm, on one machine, in one process; a ratio is taken within each round, and its
median is shown with the 95 % interval of the median over the rounds. A limit is the time that the unavoidable reads and
writes take, or the network's own forward pass.
"""

import gc
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from math import comb
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table

from .activation import QCFS
from .checks import InputError, one_of, whole
from .conversion import convert, fold_batch_norms
from .folders import environment, whole_file
from .layerwise import at_once
from .models import MODELS, make
from .native import elementwise
from .neuron import if_run
from .quantisation import quantise
from .run import parse
from .simulation import engine_named, simulate

PROGRAM = "python -m accelerated.bench"
WARM = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**40)}


@dataclass(frozen=True)
class Options:
    """Measure, print the ratios, and write them as JSON."""

    what: tuple[str, ...] = ("neuron", "qcfs", "resnet20", "resnet18", "vgg16", "vit_tiny")
    """Which benchmarks: neuron (the IF layer), qcfs (forward and backward), or networks by name."""
    steps: int = 8
    """T."""
    batch: int = 32
    """Images (the QCFS benchmark takes four times as many)."""
    rounds: int = 30
    """How often all candidates of a benchmark run, one after another."""
    width: float = 1.0
    """Channels of the networks, as a multiple."""
    allocator: str = "warm"
    """warm (memory once taken is kept: glibc's MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ raised, in a process
    of its own) or default (blocks over 32 MiB are mapped afresh each time, which can cost more than the work)."""
    out: str = "bench.json"
    """File for the measurements."""


def interleaved(candidates, rounds):
    """{name: seconds of each round}; each candidate runs twice before the first."""
    for run in candidates.values():
        run(), run()
    seconds = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            gc.collect()
            start = perf_counter()
            run()
            seconds[name].append(perf_counter() - start)
    return seconds


def interval(values, confidence=0.95):
    """(median, low, high): order statistics between which the median lies with at least this probability."""
    ordered, n, below, rank = sorted(values), len(values), 0.0, 0
    while rank < n // 2 and 2 * (below + comb(n, rank) / 2**n) <= 1 - confidence:
        below, rank = below + comb(n, rank) / 2**n, rank + 1
    rank = max(rank - 1, 0)
    return median(ordered), ordered[rank], ordered[n - 1 - rank]


def ratios(seconds, limit):
    """{name: (median, low, high) of its time over that of `limit` in the same round}."""
    return {
        name: interval([a / b for a, b in zip(times, seconds[limit], strict=True)]) for name, times in seconds.items()
    }


def neuron(options):
    """The IF layer on [T, batch, 64, 32, 32] currents, some 15 % of the neurons firing; the limit is a copy."""
    shape = (options.steps, options.batch, 64, 32, 32)
    z, theta = torch.randn(shape) * 0.3 + 0.15, torch.tensor(1.0)
    target, membrane = torch.empty_like(z), torch.full(shape[1:], 0.5)
    rate = (if_run(z, theta)[0].mean()).item()

    def ours():
        membrane.fill_(0.5)
        counts = torch.zeros_like(membrane)
        if elementwise.if_run(z, options.steps, theta, membrane, counts) is None:
            if_run(z, theta)

    def in_place():
        v, spikes = torch.full(shape[1:], 0.5), []
        for current in z:
            v += current
            spikes.append((v >= 1).float())
            v -= spikes[-1]
        torch.stack(spikes)

    candidates = {"copy": lambda: target.copy_(z), "this kernel": ours, "this in torch": lambda: if_run(z, theta),
                  "a loop in place": in_place}  # fmt: skip
    return candidates, "copy", f"rate {rate:.2f}"


def activation(options):
    """QCFS forward and backward on [4 batch, 64, 32, 32], a threshold for each channel; limit: 20 bytes an element."""
    z = (torch.randn(4 * options.batch, 64, 32, 32)).requires_grad_()
    layer, upstream = QCFS((64, 1, 1), 8, "raw", 1.0), torch.randn_like(z)
    values, gradients = torch.empty_like(z), torch.empty_like(z)

    def limit():  # reads z and writes the value; reads z and the gradient, and writes a gradient
        values.copy_(z.detach())
        torch.add(z.detach(), upstream, out=gradients)

    def both(function):
        z.grad = layer.parameter.grad = None
        function(z).backward(upstream)

    def composed(z):
        level = z * 8 / layer.parameter + 0.5
        floor = level + (level.floor() - level).detach()
        return floor.clamp(0, 8) * layer.parameter / 8

    candidates = {"limit": limit, "this": lambda: both(layer), "composed": lambda: both(composed),
                  "ReLU": lambda: both(torch.relu)}  # fmt: skip
    return candidates, "limit", "L = 8"


def network(name):
    """The benchmark of a network: random weights, thresholds calibrated; the limit is the quantised network's pass."""

    def benchmark(options):
        torch.manual_seed(0)
        x = torch.rand(options.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        model = make(name, (3, 32, 32), 10, options.width).to(memory_format=torch.channels_last).train()
        with torch.no_grad():
            for _ in range(3):
                model(x)  # running statistics for the batch norms
        kind = "hn-qcfs" if name.startswith(("vit", "swin")) else "cs-qcfs"
        quantised = quantise(model.eval(), kind, 8, "calibrated", x).eval()
        folded, spiking = fold_batch_norms(quantised), convert(quantised, "streaming")
        rates = []

        def run(engine):
            @torch.no_grad()
            def simulated():
                spiking.reset(options.steps)
                run = engine_named(engine)(spiking, x)
                count = at_once(x)
                for now in range(0, options.steps, count):
                    run.steps(min(count, options.steps - now))
                rates[:] = [(n.sent.sum() / n.sent.numel()).item() for n in spiking.layers.values()]
                spiking.reset()

            return simulated

        def pass_(net):
            with torch.no_grad():
                net(x)

        candidates = {"quantised network": lambda: pass_(folded)}
        candidates |= {engine: run(engine) for engine in ("dense", "event", "auto")}
        waiting = convert(quantised, "integrate-then-fire")
        candidates["integrate-then-fire, by theorem"] = lambda: simulate(waiting, x, options.steps, "theorem")
        candidates["auto"]()
        return candidates, "quantised network", f"rate {sum(rates) / len(rates) / options.steps:.2f}"

    return benchmark


BENCHMARKS = {"neuron": neuron, "qcfs": activation}


def measured(name, options):
    """A benchmark's results as they are written."""
    benchmark = BENCHMARKS.get(name) or network(name)
    candidates, limit, note = benchmark(options)
    seconds = interleaved(candidates, options.rounds)
    return {"limit": limit, "note": note, "seconds": seconds, "ratios": ratios(seconds, limit)}


def shown(name, result, options):
    """The table of a benchmark."""
    table = Table(title=f"{name}: T = {options.steps}, batch {options.batch}, {result['note']}")
    for column in ("", "ms, median", f"times {result['limit']}", "95 % interval"):
        table.add_column(column)
    for candidate, (middle, low, high) in result["ratios"].items():
        milliseconds = 1e3 * median(result["seconds"][candidate])
        table.add_row(candidate, f"{milliseconds:.1f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    return table


def main(arguments=None):
    """Run the command line; returns the exit status."""
    try:
        options = parse(Options, arguments, PROGRAM)
        for name in options.what:
            one_of(name, (*BENCHMARKS, *MODELS), "benchmark")
        for name in ("steps", "batch", "rounds"):
            whole(getattr(options, name), name)
        one_of(options.allocator, ("warm", "default"), "allocator")
        if options.allocator == "warm" and WARM.items() - os.environ.items():
            words = sys.argv[1:] if arguments is None else arguments
            return subprocess.run([sys.executable, "-m", __spec__.name, *words], env=os.environ | WARM).returncode
        out, results = Console(), {}
        for name in options.what:
            results[name] = measured(name, options)
            out.print(shown(name, results[name], options))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    machine = environment("cpu") | {"threads": torch.get_num_threads(), "processor": platform.processor()}
    with whole_file(Path(options.out)) as part:
        part.write_text(json.dumps({"options": vars(options), "machine": machine, "results": results}, indent=1))
    out.print(f"written to {options.out}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
