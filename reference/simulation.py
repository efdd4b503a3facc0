"""Run a spiking network on images and return what it did. The steps are in stepping.py, the rules in schedules.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .activation import level_value, qcfs_level
from .anytime import begun, joined
from .checks import InputError, one_of, whole
from .conversion import SpikingNetwork, exact_levels
from .frames import mean_frame, sequence
from .network import images
from .schedules import arithmetic_of
from .stepping import State, propagate, step_increments, step_totals
from .sums import held, is_whole


class Recorded(NamedTuple):
    """What a layer did in every step: spikes [steps, batch, ...]; membranes likewise, None on totals."""

    spikes: np.ndarray
    membranes: np.ndarray | None


@dataclass(repr=False)
class Simulation:
    """The result of a run; its repr shows the short fields.

    logits                  [steps, batch, classes]; the last row is the answer
    counts                  {layer: levels sent}, whole numbers [batch, ...]: its spikes, each with its sign and worth
    emitted                 {layer: number of spikes of either sign, including pre-steps}
    latency                 steps from the image to the answer
    spikes_per_neuron       per image; a negative spike counts as one spike
    settled_at              last step in which a unit of the sample fired [batch]; None if the schedule does not settle
    settled                 whether nothing fired in the last step, all spikes worth 1; None if the schedule does not
                            settle
    units_that_differ       share of (sample, unit) pairs whose count is not the quantised network's level, or None
    units_that_differ_last  the same for the last spiking layer alone
    nonzero_share           {layer: share of counts that are not 0}
    recorded                {layer: `Recorded`} of the layers in `record`
    """

    logits: np.ndarray
    counts: dict
    emitted: dict
    latency: int
    spikes_per_neuron: float
    settled_at: np.ndarray | None
    settled: bool | None
    units_that_differ: float | None
    units_that_differ_last: float | None
    nonzero_share: dict
    recorded: dict

    def __repr__(self):
        names = ("latency", "settled", "units_that_differ", "spikes_per_neuron", "nonzero_share")
        shown = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"Simulation({shown}, logits {tuple(self.logits.shape)}, counts of {len(self.counts)} layers)"


def level(node, z):
    """level(z) at a spiking node."""
    return qcfs_level(z, node["threshold"], node["levels"], lowest=node["lowest"])


def ann_levels(network, x):
    """level(z) of every spiking layer in the quantised network from which this one was converted."""
    values = propagate(network, x, lambda node, z: level_value(level(node, z), node["threshold"], node["levels"]))
    return {node["name"]: level(node, values[node["inputs"][0]]) for node in network.layers}


def simulate(
    network: SpikingNetwork,
    x: np.ndarray,
    steps: int | None = None,
    arithmetic: str | None = None,
    record: Sequence[str] = (),
    start: Simulation | None = None,
    frames: bool = False,
) -> Simulation:
    """Simulate a spiking network on images x [batch, ...]; returns a `Simulation`.

    `steps` is T (streaming), T per phase (integrate-then-fire: (D + 1) T steps in all) or the steps simulated
    (signed, halving); by default as many as make the answer exact, and L where none do. `arithmetic` is "totals" (the
    default, except under streaming) or "increments" (streaming has no other). `record` names layers whose spikes and
    membranes are kept for every step (`Recorded`). `start` is what a streaming network sent for the same images in T
    steps, where T divides each L: from there a network that settles goes on (T6), and steps, spikes and logits of both
    are reported. With `frames`, x is a sequence [T, batch, ...]: a streaming network sees its next frame in each step,
    any other waits for all of them and sees their mean (derivations 16).
    InputError for steps < 1, images that are not finite or do not fit, and counts that the format cannot hold.
    """
    if not isinstance(network, SpikingNetwork):
        raise InputError(f"simulate takes a spiking network, got {type(network).__name__}: convert it first")
    schedule = network.schedule
    shown = sequence(network, x) if frames else images(network.nodes, x)[None]
    x, steps = mean_frame(shown), steps_of(network, steps, len(shown) if frames and schedule.streams else None)
    arithmetic = arithmetic_of(schedule, arithmetic)
    step = {"totals": step_totals, "increments": step_increments}[arithmetic]
    if network.images is not None and (frames or not np.array_equal(network.images, x)):
        raise InputError("a calibrated network simulates the images that it was calibrated on: calibrate it for these")
    representable(network, x.dtype, steps, arithmetic)
    trains = {one_of(name, [node["name"] for node in network.layers], "layer to record"): [] for name in record}
    state, logits, settled_at = State(begun(network, x, start), {}, {}), [], np.zeros(len(x), dtype=int)
    emitted = {node["name"]: network.pre_spikes.get(node["name"], 0) for node in network.layers}
    for now in range(network.phases * steps):
        row, spikes, state = step(network, shown[: now + 1], now, steps, state)
        logits.append(row)
        for name, train in trains.items():
            train.append((spikes[name], state.membranes.get(name)))
        for name, spike in spikes.items():
            if len(spike) != len(x):
                raise InputError(f"{name}: its first axis holds {len(spike)}, not the batch of {len(x)}")
            fired = np.asarray(spike != 0, dtype=bool)
            emitted[name] = emitted[name] + fired
            settled_at[fired.reshape(len(x), -1).any(axis=1)] = now + 1
    counts = {name: counted(name, count) for name, count in state.sent.items()}
    recorded = {name: Recorded(*map(stacked, zip(*train, strict=True))) for name, train in trains.items()}
    found = result(network, shown, steps, logits, counts, emitted, settled_at, recorded)
    return found if start is None else joined(start, found)


def counted(name, count):
    """Counts as whole numbers; InputError if one is none."""
    if not all(np.ravel(count == count)):
        raise InputError(f"{name}: its input overflowed in {count.dtype} on the way; simulate in a wider format")
    return count.astype(int)


def steps_of(network, steps, frames):
    """The number of steps: as many as there are `frames`, if not None; by default what makes the answer exact."""
    if frames is not None and steps not in (None, frames):
        raise InputError(f"while streaming, each step has its frame: steps must be {frames}, got {steps}")
    return whole((frames or network.steps) if steps is None else steps, "steps")


def representable(network, format, steps, arithmetic):
    """InputError unless the format represents every count exactly and, of whole numbers, every sum."""
    schedule = network.schedule
    for node in network.layers:
        counted = "levels" if schedule.settles else "steps"
        exact_levels(schedule.resolution(steps, steps, node["levels"]), format, node["name"], counted)
    held(network.nodes, format, steps if arithmetic == "increments" and schedule.waits else 1)


def stacked(parts):
    """The parts of all steps as one array; None if nothing was kept."""
    return None if parts[0] is None else np.stack(parts)


def result(network, shown, steps, logits, counts, emitted, settled_at, recorded):
    """The `Simulation` of a run, its counts compared with the quantised network's levels where they should be equal."""
    differ, last, settles = None, network.layers[-1]["name"], network.schedule.settles
    of_pixels = is_whole(network.nodes) and len(shown) > 1  # their mean is no image
    if not of_pixels and (settles or all(node["levels"] == steps for node in network.layers)):
        levels = ann_levels(network, mean_frame(shown))
        differ = {name: counts[name] != levels[name].astype(int) for name in counts}
    neurons = sum(count.size for count in counts.values())
    return Simulation(
        logits=np.stack(logits[-steps:]),
        counts=counts,
        emitted=emitted,
        latency=int(settled_at.max()) if settles else network.pre_steps + len(logits),
        spikes_per_neuron=sum(int(spikes.sum()) for spikes in emitted.values()) / neurons,
        settled_at=settled_at if settles else None,
        settled=bool((settled_at < steps).all()) and network.coarse < steps if settles else None,
        units_that_differ=None if differ is None else sum(int(d.sum()) for d in differ.values()) / neurons,
        units_that_differ_last=None if differ is None else float(differ[last].mean()),
        nonzero_share={name: float((count != 0).mean()) for name, count in counts.items()},
        recorded=recorded,
    )
