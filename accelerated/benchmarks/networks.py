"""Benchmarks of networks: streaming on each engine, exact answers on events, other packages, the quantised network."""

from pathlib import Path

import torch

from .. import data as datasets
from ..conversion import convert, fold_batch_norms
from ..engines import engine_named
from ..engines.dense import DenseRun
from ..models import TRANSFORMERS, make
from ..quantisation import quantise
from ..runs.compiling import compiled, works
from ..runs.saved import config_of, network_of
from ..simulation import simulate
from . import peers
from .exact import answers, exactly
from .layers import LEVELS
from .timing import Case


def untrained(name, options):
    """(quantised network with random weights and thresholds from the maximum, images)."""
    torch.manual_seed(0)
    x = (torch.randint(256, (options.batch, 3, 32, 32)) / 255).to(options.device, memory_format=torch.channels_last)
    model = make(name, (3, 32, 32), 10, options.width).to(options.device, memory_format=torch.channels_last).train()
    with torch.no_grad():
        for _ in range(3):
            model(x)  # running statistics for the batch norms
    kind = "hn-qcfs" if name in TRANSFORMERS else "s-qcfs"  # one threshold per layer: other packages have no more
    return quantise(model.eval(), kind, LEVELS, "max", x).eval(), x


def trained(folder, options):
    """(quantised network, test images, function for the share of the first that it gets right) of a run on disk."""
    config = config_of(folder)
    data = datasets.load(config.data, config.data_root, config.size)
    network = network_of(folder, config, data).eval().to(memory_format=torch.channels_last)
    x = datasets.first(data, "test", max(options.batch, options.judged), "cpu")
    x = x.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def right(answer):
        """The share of the first test images that are classified right; answer(images) gives logits."""
        images = x[: options.judged].split(options.batch)
        found = torch.cat([answer(part).argmax(1) for part in images])
        return (found == data.test_y[: len(found)]).double().mean().item()

    return network, x[: options.batch], right


def quantised_of(name, options):
    """(quantised network, images, `right` of a run) for a network's name or a run's folder."""
    return trained(Path(name), options) if Path(name).is_dir() else (*untrained(name, options), None)


def streaming(spiking, x, steps, kind, at_a_time=None, rates=None):
    """A function: the logits after streaming `steps` steps; adds spikes per neuron and step, by layer, to `rates`."""

    @torch.no_grad()
    def run():
        state, logits = kind(spiking, x), x
        count = at_a_time or state.at_once
        for now in range(0, steps, count):
            logits = state.steps(min(count, steps - now))
        if rates is not None:
            rates[:] = [(s.sent.sum() / s.sent.numel()).item() / steps for s in state.states.values()]
        return logits[-1]

    return run


def plainly(spiking, x, steps):
    """The plain loop: each step through all layers, one operator at a time, without kernels."""

    @torch.no_grad()
    def run():
        stepped, _ = spiking.begin(x, steps, "increments")
        *_, logits = (stepped.step(x, now, lambda *_: None) for now in range(steps))
        return logits

    return run


def network(name, options):
    """A network by name or run: engines, the theorem, other packages; the limit is the quantised network's pass."""
    quantised, x, right = quantised_of(name, options)
    if options.exact:
        return answers(name, quantised, x, options)
    folded, spiking = fold_batch_norms(quantised), convert(quantised, "streaming")
    waiting = convert(quantised, "integrate-then-fire")
    candidates = {"quantised network": torch.no_grad()(lambda: folded(x))}
    kinds = ("dense", "event", "auto") if options.device == "cpu" else ("dense", "graph")
    for kind in kinds:
        candidates[kind] = streaming(spiking, x, options.steps, engine_named(kind))
    candidates["integrate-then-fire, by theorem"] = lambda: simulate(waiting, x, options.steps, "theorem")
    candidates["one step at a time"] = streaming(spiking, x, options.steps, DenseRun, 1)
    candidates["step by step in PyTorch"] = plainly(spiking, x, options.steps)
    others = {}
    if all(neuron.threshold.numel() == 1 for neuron in spiking.layers.values()):
        available = peers.neurons(options.peers, options.device)
        others = {n: peers.Network(folded, kind, options.steps) for n, kind in available.items()}
        if options.compile and works(options.device):
            chosen = ("published loop", "spikingjelly")
            others |= {f"{n}, compiled": compiled(others[n], options.device) for n in chosen if n in others}
    candidates |= {n: torch.no_grad()(lambda other=other: other(x)) for n, other in others.items()}
    rates: list = []
    streaming(spiking, x, options.steps, engine_named("event" if options.device == "cpu" else "dense"), rates=rates)()
    note = f"rate {sum(rates) / len(rates):.2f}"
    for candidate, (run, took) in exactly(name, quantised, x).items() if options.device == "cpu" else ():
        candidates[candidate] = run
        note += f"; {candidate}: {took}"
    if right:
        judged: dict = {"quantised network": folded}
        for kind in ("dense", "event"):
            judged[kind] = lambda part, kind=kind: streaming(spiking, part, options.steps, engine_named(kind))()
        judged |= {n: lambda part, other=others[n]: other(part).mean(0) for n in list(others)[:1]}
        note += f"; right of the first {options.judged} test images: " + ", ".join(
            f"{n} {100 * right(answer):.1f} %" for n, answer in judged.items())  # fmt: skip
    return Case(candidates, "quantised network", note, tuple(others))
