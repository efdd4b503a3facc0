"""`python -m accelerated.benchmarks`: measure, print the ratios, draw them, and write them as JSON."""

import os
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from ..checks import InputError, one_of
from ..run import parse
from ..runs.folders import environment, write_json
from . import growth
from .layers import activation, neuron, training
from .networks import network
from .options import BENCHMARKS, BenchmarkOptions, checked
from .timing import fastest, interleaved, ratio

PROGRAM = "python -m accelerated.benchmarks"
WARM = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**40)}
LAYERS = dict(zip(BENCHMARKS, (neuron, activation, training), strict=True))


def chosen(case, only):
    """A case with some of its candidates; InputError for an unknown name."""
    for name in only:
        one_of(name, tuple(case.candidates), "candidate")
    kept = {name: run for name, run in case.candidates.items() if not only or name in (case.limit, *only)}
    return replace(case, candidates=kept, peers=tuple(name for name in case.peers if name in kept))


def measured(name, options):
    """A benchmark's results as they are written."""
    case = LAYERS[name](options) if name in LAYERS else network(name, options)
    case = chosen(case, options.only)
    seconds = interleaved(case, options.rounds)
    peer = fastest(seconds, case.peers)
    return {
        "limit": case.limit, "note": case.note, "peers": case.peers, "fastest peer": peer, "seconds": seconds,
        "ratios": {n: ratio(seconds, n, case.limit) for n in seconds},
        "gains": {n: ratio(seconds, peer, n) for n in seconds if n not in case.peers} if peer else {},
    }  # fmt: skip


def between(values):
    """A ratio with its interval."""
    return "" if values is None else "{:.2f} ({:.2f} to {:.2f})".format(*values)


def shown(name, result, options):
    """The table of a benchmark."""
    table = Table(title=f"{name}: T = {options.steps}, batch {options.batch}, {result['note']}")
    columns = ["", "ms, median", f"times {result['limit']}"]
    columns += [f"as fast as {result['fastest peer']}, times"] if result["gains"] else []
    for column in columns:
        table.add_column(column)
    for candidate, values in result["ratios"].items():
        row = [candidate, f"{1e3 * median(result['seconds'][candidate]):.1f}", between(values)]
        table.add_row(*row, *([between(result["gains"].get(candidate))] if result["gains"] else []))
    return table


def run(options, out):
    """Run all selected benchmarks, and write what is known after each."""
    folder, results = Path(options.out), {}
    machine = environment(options.device) | {"threads": options.threads, "processor": platform.processor()}
    for name in options.what:
        results[name] = measured(name, options)
        folder.mkdir(parents=True, exist_ok=True)
        out.print(shown(name, results[name], options))
        if name not in LAYERS:
            further(name, results[name], options, folder, out)
        write_json(folder / "bench.json", {"options": asdict(options), "machine": machine, "results": results})


def further(name, result, options, folder, out):
    """What a network's benchmark also asks for: plots, and memory."""
    for axis in options.growth:
        rows = result[f"over {axis}"] = growth.grown(name, axis, options)
        growth.drawn(name, axis, rows, folder / f"{Path(name).name}-{axis}.png")
    for kind in ("dense", "event") if options.memory else ():
        held = result[f"bytes, {kind}"] = growth.memory(name, kind, options)
        few, many = min(held), max(held)
        more = f"{held[many] / held[few]:.2f} times as at T = {few}"
        out.print(f"{name}, {kind}: {held[many] / 2**20:.0f} MiB at T = {many}, {more}")


def main(arguments=None):
    """Run the command line; returns the exit status."""
    try:
        options = checked(parse(BenchmarkOptions, arguments, PROGRAM))
        if options.allocator == "warm" and WARM.items() - os.environ.items():
            words = sys.argv[1:] if arguments is None else arguments
            return subprocess.run([sys.executable, "-m", __package__, *words], env=os.environ | WARM).returncode
        torch.set_num_threads(options.threads)
        out = Console()
        run(options, out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out.print(f"written to {options.out}/bench.json", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
