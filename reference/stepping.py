"""One time step of a spiking network, from state to state; it is shown the last of `frames`, those so far.

Layers update in network order within a step; there is no transmission delay. `totals` (T5) applies each operator to
all that the layers before have sent. `increments` sends increments and sums them in membranes, as hardware does: exact
in exact arithmetic, drifting in floats. Formulas: docs/derivations.md (4.2), (6.1) to (6.3), (7.1), (7.2).
"""

from typing import NamedTuple

import numpy as np

from .activation import level_value
from .checks import InputError, array, number
from .frames import mean_frame
from .increments import image, operate
from .operators import FORWARD
from .sums import is_whole


class State(NamedTuple):
    """The state of a run after a step: levels sent and membranes by layer, memories of operators by node."""

    sent: dict
    membranes: dict
    memories: dict


def propagate(network, x, neuron):
    """Values of all nodes, where `neuron(node, total)` returns what a spiking node has sent."""
    values = {"image": x}
    for node in network.nodes:
        inputs = [values[name] for name in node["inputs"]]
        values[node["name"]] = neuron(node, *inputs) if node["op"] == "spiking" else FORWARD[node["op"]](node, *inputs)
    return values


def worth_of(node, now):
    """What a spike of this layer is worth in step `now` (from 0), in levels."""
    return node["worths"][min(now, len(node["worths"]) - 1)]


def read_out(network, x, sent, t, steps):
    """The logits after t steps, in which the layers have sent these spikes."""

    def value(node, _):
        resolution = network.schedule.resolution(t, steps, node["levels"])
        return level_value(sent[node["name"]], node["threshold"], resolution)

    return propagate(network, x, value)[network.nodes[-1]["name"]]


def seen(network, frames):
    """The image that a read-out sees beside the neurons: the mean of the frames so far; InputError if that is none."""
    reads = {network.nodes[-1]["name"]}
    for node in reversed(network.nodes):
        if node["name"] in reads and node["op"] != "spiking":
            reads |= {*node["inputs"]}
    if is_whole(network.nodes) and "image" in reads and any((frame != frames[0]).any() for frame in frames):
        raise InputError("the read-out sees the image, and the mean of frames of whole pixels is none: show one")
    return mean_frame(frames)


def step_totals(network, frames, now, steps, state):
    """(logits, spikes by layer, state) of step `now`: each neuron reads its operator applied to all that was sent."""
    x = frames[-1]
    values, spikes, sent = {"image": x}, {}, {}
    for node in network.nodes:
        name, inputs = node["name"], [values[source] for source in node["inputs"]]
        if node["op"] != "spiking":
            values[name] = FORWARD[node["op"]](node, *inputs)
            continue
        (total,) = inputs
        theta = array(node["threshold"], like=total)
        resolution = network.schedule.resolution(now + 1, steps, node["levels"])
        before = state.sent.get(name, np.zeros_like(total))
        turn = now - network.depth[name] * steps  # the step within the layer's own phase, if there are phases
        lowest = network.schedule.lowest(resolution, node["levels"], node["lowest"])
        worth = worth_of(node, now)
        spikes[name] = network.schedule.on_totals(total, before, theta, resolution, lowest, turn, worth)
        sent[name] = before + number(worth, before) * spikes[name]
        values[name] = level_value(sent[name], theta, resolution)
    return values[network.nodes[-1]["name"]], spikes, State(sent, {}, {})


def step_increments(network, frames, now, steps, state):
    """(logits, spikes by layer, state) of step `now`: neurons sum increments; logits are those of all that was sent."""
    schedule, values, spikes = network.schedule, {"image": image(network, frames[-1], now, steps)}, {}
    sent, membranes, memories = {}, {}, {}
    for node in network.nodes:
        name, inputs = node["name"], [values[source] for source in node["inputs"]]
        if node["op"] != "spiking":
            values[name], memories[name] = operate(network, node, now, steps, state.memories.get(name), *inputs)
            continue
        (current,) = inputs
        theta, (v0, may_fire) = array(node["threshold"], like=current), network.starts.get(name, (None, True))
        before, worth = state.sent.get(name, np.zeros_like(current)), worth_of(node, now)
        given = before if schedule.settles and now == 0 else 0 * before  # what was sent before step 0 arrives in it
        membrane = schedule.rest(theta, node["levels"], given, v0) if now == 0 else state.membranes[name]
        if schedule.fires(now, steps, network.depth[name]):
            resolution = schedule.resolution(now + 1, steps, node["levels"])
            lowest = schedule.lowest(resolution, node["levels"], node["lowest"])
            rule = schedule.on_increments
            spike, membranes[name] = rule(membrane, current, before, theta, resolution, lowest, worth)
            spikes[name] = spike * may_fire
        else:
            spikes[name], membranes[name] = 0 * current, membrane + current
        change = number(worth, before) * spikes[name]
        sent[name] = before + change
        values[name] = schedule.sends(change + given, theta, node["levels"])
    return read_out(network, seen(network, frames), sent, now + 1, steps), spikes, State(sent, membranes, memories)
