"""Run a spiking network step by step. Layers update in network order within a step; there is no transmission delay.

    schedule             a neuron's rule, in one line                        a layer has sent     resolution
    streaming            V >= theta                                          theta N / t          t
    integrate-then-fire  t < level(total), in the phase after its sources'   theta N / T          T
    signed               clip(level(total) - N, -1, 1)                       theta N / L          L

`totals` (T5) applies each operator to what the layers before have sent in total; `increments` sends what is new and
sums it up in membranes, as hardware does: exact in exact arithmetic, drifting in floats.
Formulas: docs/derivations.md (4.2), (6.1) to (6.3), (7.1), (7.2).
"""

from dataclasses import dataclass

import numpy as np

from .activation import level_value, qcfs_level
from .checks import InputError, array, one_of, whole
from .conversion import SpikingNetwork, exact_levels
from .increments import Increments
from .network import images
from .neuron import if_step, resting, signed_membrane_step, signed_step
from .operators import FORWARD


@dataclass(repr=False)
class Simulation:
    """What came out of a run; printed, it shows what is short enough."""

    logits: np.ndarray  # [steps, batch, classes]; the last row is the answer
    counts: dict  # layer -> spikes sent, whole numbers [batch, ...]; signed: +1 minus -1
    emitted: dict  # layer -> the same with -1 counted as a spike, and with the spikes of pre-steps
    latency: int  # steps, end to end
    spikes_per_neuron: float  # per image; a negative spike counts as one
    settled_at: np.ndarray | None  # signed: the last step in which a unit of the sample fired [batch]
    settled: bool | None  # signed: no sample fired in the last step
    units_that_differ: float | None  # share of (sample, unit) pairs whose count is not the ANN's level
    units_that_differ_last: float | None  # the same for the last spiking layer alone
    nonzero_share: dict  # layer -> share of counts that are not 0

    def __repr__(self):
        names = ("latency", "settled", "units_that_differ", "spikes_per_neuron", "nonzero_share")
        shown = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"Simulation({shown}, logits {tuple(self.logits.shape)}, counts of {len(self.counts)} layers)"


def propagate(network, x, neuron):
    """Values of all nodes, with `neuron(node, total)` giving what a spiking node has sent."""
    values = {"image": x}
    for node in network.nodes:
        inputs = [values[name] for name in node["inputs"]]
        values[node["name"]] = neuron(node, *inputs) if node["op"] == "spiking" else FORWARD[node["op"]](node, *inputs)
    return values


def ann_levels(network, x):
    """level(z) of every spiking layer in the quantised network that this one came from."""
    levels = {}

    def neuron(node, z):
        levels[node["name"]] = qcfs_level(z, node["threshold"], node["levels"])
        return level_value(levels[node["name"]], node["threshold"], node["levels"])

    propagate(network, x, neuron)
    return levels


def read_out(network, x, counts, resolution):
    """The logits when layer l has sent theta N / resolution[l]."""
    sent = lambda node, _: level_value(counts[node["name"]], node["threshold"], resolution[node["name"]])  # noqa: E731
    return propagate(network, x, sent)[network.nodes[-1]["name"]]


def _totals(network, x, steps, counts, fired):
    """Each neuron sees its operator applied to all that was sent; yields the logits of every step."""
    signed = network.schedule == "signed"

    def neuron(node, total):
        name, theta = node["name"], array(node["threshold"], like=total)
        resolution = node["levels"] if signed else steps
        sent = counts.get(name, np.zeros_like(total))
        if signed:
            spike = signed_step(total, sent, theta, resolution)
        else:
            t = now - network.depth[name] * steps  # 0-based step of the layer's own firing phase
            spike = ((t >= 0) & (t < qcfs_level(total, theta, resolution))).astype(total.dtype)
        counts[name] = sent + spike
        fired(name, spike, now)
        return level_value(counts[name], theta, resolution)

    for now in range(network.phases * steps):  # noqa: B007 (neuron reads it)
        yield propagate(network, x, neuron)[network.nodes[-1]["name"]]


def _increments(network, x, steps, counts, fired):
    """Each neuron sums what is new into its membrane; the logits are read out of what was sent in total."""
    schedule, membrane, operator = network.schedule, {}, Increments(network, steps)

    def neuron(node, current):
        name, theta, levels = node["name"], array(node["threshold"], like=current), node["levels"]
        v0, fires = network.starts.get(name, (None, True))
        if schedule == "signed":
            start = membrane.get(name, array(np.full(current.shape, 0.5), like=current))
            sent = counts.get(name, np.zeros_like(current))
            spike, membrane[name] = signed_membrane_step(start, current, sent, theta, levels)
        elif schedule == "streaming" or now // steps == network.depth[name]:
            start = membrane.get(name, resting(theta, current.shape, v0))
            spike, membrane[name] = if_step(start, current, theta)
            spike = spike * fires
        else:
            membrane[name] = membrane.get(name, resting(theta, current.shape)) + current
            spike = 0 * current
        counts[name] = counts.get(name, 0) + spike
        fired(name, spike, now)
        return level_value(spike, theta, levels) if schedule == "signed" else theta * spike

    for now in range(network.phases * steps):
        values = {"image": operator.image(x, now)}
        for node in network.nodes:
            inputs = [values[name] for name in node["inputs"]]
            values[node["name"]] = neuron(node, *inputs) if node["op"] == "spiking" else operator(node, now, *inputs)
        resolution = {"streaming": now + 1, "integrate-then-fire": steps}
        by_layer = {n["name"]: resolution.get(schedule, n["levels"]) for n in network.layers}
        yield read_out(network, x, counts, by_layer)


def simulate(network, x, steps, arithmetic=None):
    """Simulate a spiking network on images x [batch, ...]; returns a `Simulation`.

    `steps` is T (streaming), T per phase (integrate-then-fire: (D + 1) T steps in all) or the steps simulated
    (signed). `arithmetic` is "totals" (default, but for streaming) or "increments" (streaming has no other).
    InputError for steps < 1, images that are not finite or do not fit, and counts that the format cannot hold.
    """
    if not isinstance(network, SpikingNetwork):
        raise InputError(f"simulate takes a spiking network, got {type(network).__name__}: convert it first")
    steps, x, signed = whole(steps, "steps"), images(network.nodes, x), network.schedule == "signed"
    arithmetic = arithmetic or ("increments" if network.schedule == "streaming" else "totals")
    one_of(arithmetic, ("totals", "increments"), "arithmetic")
    if network.schedule == "streaming" and arithmetic == "totals":
        raise InputError("streaming neurons carry increments: arithmetic must be 'increments', got 'totals'")
    if network.images is not None and not np.array_equal(network.images, x):
        raise InputError("a calibrated network simulates the images that it was calibrated on: calibrate it for these")
    for node in network.layers:
        exact_levels(node["levels"] if signed else steps, x.dtype, node["name"], "levels" if signed else "steps")
    emitted, settled_at = {}, np.zeros(len(x), dtype=int)

    def fired(name, spike, now):
        if len(spike) != len(x):
            raise InputError(f"{name}: its first axis holds {len(spike)}, not the batch of {len(x)}")
        emitted[name] = emitted.get(name, network.pre_spikes.get(name, 0)) + (spike != 0).astype(int)
        settled_at[np.asarray(spike != 0, dtype=bool).reshape(len(x), -1).any(axis=1)] = now + 1

    sent = {}
    logits = list((_totals if arithmetic == "totals" else _increments)(network, x, steps, sent, fired))
    for name, count in sent.items():
        if not all(np.ravel(count == count)):
            raise InputError(f"{name}: its input overflowed in {x.dtype} on the way; simulate in a wider format")
    counts = {name: count.astype(int) for name, count in sent.items()}
    differ, last = None, network.layers[-1]["name"]
    if signed or all(node["levels"] == steps for node in network.layers):
        levels = ann_levels(network, x)
        differ = {name: counts[name] != levels[name].astype(int) for name in counts}
    neurons = sum(count.size for count in counts.values())
    return Simulation(
        logits=np.stack(logits[-steps:]),
        counts=counts,
        emitted=emitted,
        latency=int(settled_at.max()) if signed else network.pre_steps + len(logits),
        spikes_per_neuron=sum(int(spikes.sum()) for spikes in emitted.values()) / neurons,
        settled_at=settled_at if signed else None,
        settled=bool((settled_at < steps).all()) if signed else None,
        units_that_differ=None if differ is None else sum(int(d.sum()) for d in differ.values()) / neurons,
        units_that_differ_last=None if differ is None else float(differ[last].mean()),
        nonzero_share={name: float((count != 0).mean()) for name, count in counts.items()},
    )
