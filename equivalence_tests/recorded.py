"""The answers of a fixed set of networks, as hashes: they show that a change of the code changed no answer.

`recorded.json` holds those whose arithmetic is exact, the same on every machine, side and engine. The others round as a
machine's libraries do: `python -m equivalence_tests.recorded before.json` writes them all, before a change, and
`python -m equivalence_tests.recorded before.json --compare` says after it what differs, on the same machine.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np

from . import random_networks as nets
from .implementations import load

KEPT = Path(__file__).parent / "recorded.json"
WAYS = [
    (schedule, arithmetic, operators)
    for schedule, arithmetic, operators in (
        ("streaming", "increments", "accumulated"), ("streaming", "increments", "per-step"),
        ("integrate-then-fire", "totals", "accumulated"), ("integrate-then-fire", "increments", "accumulated"),
        ("signed", "totals", "accumulated"), ("signed", "increments", "accumulated"),
        ("halving", "totals", "accumulated"), ("halving", "increments", "accumulated"),
    )
]  # fmt: skip


def networks(exact):
    """{name: (quantised nodes, images, T)}, in float64; T = L."""
    found = {}
    for seed in range(3):
        random = np.random.default_rng(seed)
        if exact:
            found[f"cnn{seed}"] = nets.integer_cnn(random, 3, 4), random.integers(0, 17, (5, 1, 4, 4)) / 16, 4
            found[f"graph{seed}"] = nets.graph(random, True, levels=8), random.integers(-8, 9, (5, 4)) / 8, 8
            continue
        for kind in ("mlp", "cnn", "transformer"):
            nodes, x = nets.MADE[kind](random, 3), nets.images(random, kind, 4)
            activation = "cs-qcfs" if kind == "cnn" else "hn-qcfs" if kind == "transformer" else "n-qcfs"
            found[f"{kind}{seed}"] = nets.quantised(nodes, x, activation, 8), x, 8
    return found


def digest(*arrays):
    """A hash of arrays: kind, shape and every bit; -0 counts as 0."""
    text = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array) + 0
        text.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return text.hexdigest()[:16]


def answers(side, nodes, x, steps, exact):
    """{way: hash of the last logits and all counts} of a network on one side; yields also the quantised network's."""
    built = side.build(nodes)
    yield "quantised", digest(side.answer(built, x))
    for schedule, arithmetic, operators in WAYS:
        spiking = side.convert(built, schedule, operators)
        settled = 40 if spiking.schedule.settles else steps
        result = side.simulate(spiking, x, settled, arithmetic)
        counts = [result.counts[name].astype(int) for name in sorted(result.counts)]
        yield f"{schedule}, {arithmetic}, {operators}", digest(result.logits[-1], *counts)
        if schedule == "streaming" and operators == "accumulated" and (exact or arithmetic):
            for method in ("srp", "cos"):
                result = side.simulate(side.calibrate(spiking, x, method, 4), x, steps)
                yield f"streaming, {method}", digest(*(result.counts[n].astype(int) for n in sorted(result.counts)))


def recorded(exact, names=("reference", "accelerated"), engines=(None,)):
    """{network: {way: hash}}; of networks that are not exact each side and format has its own."""
    found = {}
    for name in names:
        for engine in engines if name == "accelerated" else (None,):
            side = load(name)
            side.engine = engine
            for kind, (nodes, x, steps) in networks(exact).items():
                for format in ("float32", "float64"):
                    cast = [{k: v.astype(format) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
                             for k, v in node.items()} for node in nodes]  # fmt: skip
                    label = f"{kind}, {format}" if exact else f"{name}, {engine}, {kind}, {format}"
                    ways = dict(answers(side, cast, x.astype(format), steps, exact))
                    if found.setdefault(label, ways) != ways:
                        odd = [way for way in ways if ways[way] != found[label][way]]
                        raise AssertionError(f"{label}: {name} ({engine}) differs from what came before in {odd}")
    return found


def main():
    parser = argparse.ArgumentParser(prog="python -m equivalence_tests.recorded", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()
    found = recorded(True) | recorded(False, engines=(None, "dense", "event"))
    if not options.compare:
        options.file.write_text(json.dumps(found, indent=1) + "\n")
        return
    before = json.loads(options.file.read_text())
    differ = [(network, way) for network in before for way in before[network]
              if before[network][way] != found.get(network, {}).get(way)]  # fmt: skip
    for network, way in differ:
        print(f"differs: {network}: {way}")
    print(f"{sum(map(len, before.values())) - len(differ)} passed, {len(differ)} failed")


if __name__ == "__main__":
    main()
