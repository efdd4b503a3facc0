"""Benchmarks of exact answers: the exact schedules on events, beside what else has the quantised network's accuracy."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import torch

from .. import data as datasets
from ..activation import QCFS
from ..calibration import calibrate
from ..checks import InputError
from ..conversion import convert, fold_batch_norms
from ..engines import engine_named
from ..graph.operations import is_max_pool
from ..integers import integers
from ..network import answer
from ..runs.evaluation import converted
from ..runs.saved import config_of
from ..schedules import halving
from ..signed import halves
from ..simulation import simulate
from .peers import UntilQuiet
from .timing import Case

PRE_STEPS = 8  # of COS


def whole_of(name, quantised, x):
    """The quantised network in whole numbers with weights of 8 bits; None where it has no such form."""
    try:
        if not Path(name).is_dir():
            return integers(quantised, x)
        config = config_of(Path(name))
        data = datasets.load(config.data, config.data_root, config.size)
        return converted(replace(config, bits=config.bits or 8), data, quantised)
    except InputError:
        return None


def exact(whole, schedule, x):
    """(a function: the exact answer, spike by spike, until nothing can fire any more; what it took)."""
    spiking = convert(whole, schedule)
    engine = engine_named("event", spiking.schedule)

    @torch.no_grad()
    def run():
        state = engine(spiking, x)
        while not state.finished:
            rows = state.steps(state.at_once)
        return rows[-1]

    if not torch.equal(run(), answer(whole, x)):
        raise AssertionError(f"{schedule}: the answer on events is not the network's")
    s = simulate(spiking, x, engine="event")
    share = sum(s.nonzero_share.values()) / len(s.nonzero_share)
    return run, f"{s.latency} steps, {s.spikes_per_neuron:.2f} spikes per neuron, {share:.0%} of levels not 0"


def exactly(name, quantised, x):
    """{candidate: (function, what it took)} of the exact schedules on events, where the network has whole numbers."""
    whole = whole_of(name, quantised, x)
    if whole is None:
        return {}
    spiking = convert(whole, "halving")
    engine = engine_named("event", spiking.schedule)
    if engine is None or not engine(spiking, x).foldable:  # there is no compiler
        return {}
    depth = spiking.latency_depth
    levels = max(module.levels for module in whole.modules() if isinstance(module, QCFS))
    coarse = halves(levels)[1:] or (1,)
    forms = {
        "halving, exact": halving(coarse),
        "halving, deeper layers later, exact": halving(coarse, wait=depth // 2),
        "integrate-then-fire, exact": "integrate-then-fire",
    }
    return {f"{form}, events": exact(whole, schedule, x) for form, schedule in forms.items()}


def others(quantised, folded, x, options):
    """{peer: a function: logits} of other ways to a quantised network's accuracy.

    Signed neurons until quiet (spikingjelly's; thresholds by layer, levels from 0, no max pooling), and COS, on the
    dense engine.
    """
    spiking, signed = convert(quantised, "streaming"), convert(quantised, "signed")
    by_layer = all(neuron.threshold.numel() == 1 and not neuron.lowest for neuron in spiking.layers.values())
    pools = any(is_max_pool(folded, node) for node in folded.graph.nodes)
    found: dict = {}
    if by_layer and not pools and "spikingjelly" in options.peers and importlib.util.find_spec("spikingjelly"):
        quiet = UntilQuiet(folded, simulate(signed, x).latency)
        found["signed, spikingjelly"] = torch.no_grad()(lambda: quiet(x))

    def cos():
        return simulate(calibrate(spiking, x, "cos", PRE_STEPS, 1), x, options.steps).logits[-1]

    if not any(neuron.lowest for neuron in spiking.layers.values()):  # which COS has no rule for
        found[f"COS, {PRE_STEPS} pre-steps"] = cos
    return found


def answers(name, quantised, x, options):
    """Exact answers on events beside other ways to the same accuracy; the limit is the quantised network's pass."""
    folded = fold_batch_norms(quantised)
    candidates = {"quantised network": torch.no_grad()(lambda: folded(x))}
    wanted, notes = candidates["quantised network"]().argmax(1), []
    for candidate, (run, took) in exactly(name, quantised, x).items():
        candidates[candidate] = run
        notes.append(f"{candidate}: {took}")
    peers = others(quantised, folded, x, options)
    for peer, run in peers.items():
        same = (run().argmax(1) == wanted).double().mean()
        notes.append(f"{peer}: the quantised network's answer for {same:.0%} of images")
    return Case(candidates | peers, "quantised network", "; ".join(notes), tuple(peers))
