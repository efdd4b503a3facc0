"""Calibrations of streaming networks; they take pre-steps, before the steps that count (derivations 12).

    SRP (Hao et al. 2023a)  after tau steps, neurons whose membrane is not positive are silenced; all start again
    COS (Hao et al. 2023b)  layer by layer, after rho steps on input from the calibrated layers before it: its first
                            membrane moves down (a spike too many) or up (one too few), to change one spike

Both calibrate each sample separately. Their steps count as latency: tau + T under SRP, D rho iterations + T under COS.
"""

import numpy as np

from .checks import InputError, array, number, one_of, whole
from .conversion import SpikingNetwork
from .increments import operate
from .network import images
from .neuron import if_run, if_step, prepare, resting

METHODS = ("srp", "cos", "cos-published")


def srp_fires(currents, threshold):
    """1 where the membrane is positive after currents [tau, batch, ...] from theta / 2, else 0: [batch, ...]."""
    membrane = if_run(currents, threshold)[1]
    return array(membrane > 0, like=membrane)


def cos_start(currents, threshold, iterations=1, epsilon=1e-3, published=False):
    """(first membrane, spikes emitted on the way), both [batch, ...]: see `cos_run`.

    From this first membrane, the count over currents [rho, batch, ...] is closer to the level.

    With V(t) the membrane before its reset and r = theta / 2 + sum z - theta N, once per iteration:

        r < 0 and N > 0           start lower by  max(theta, min V(t) at spikes - theta + eps theta): one spike goes
        r >= theta and N < rho    start higher by max(theta, theta - max V(t) at silences + eps theta): one spike comes

    `published`: the authors' code lacks N < rho and has -1000 theta for V(t) at spikes, so who fired in every step
    starts higher by 1001 theta, and fires in every step for about a thousand more (docs/errata.md).
    """
    if not 0 < epsilon < 1:
        raise InputError(f"epsilon, a share of the threshold, must lie between 0 and 1, got {epsilon}")
    if published and iterations != 1:
        raise InputError(f"the published code calibrates once, got {iterations} iterations")
    currents, threshold = prepare(currents, threshold)
    epsilon, rest = threshold * number(epsilon, threshold), resting(threshold, currents.shape[1:])
    start, emitted = rest, np.zeros(currents.shape[1:], dtype=int)
    for _ in range(whole(iterations, "iterations")):
        membrane, total, seen = start, rest, []
        for current in currents:
            total = total + current
            high = membrane + current
            spike, membrane = if_step(membrane, current, threshold)
            seen.append((high, spike))
        before, spikes = (np.stack(parts) for parts in zip(*seen, strict=True))
        lowest = np.where(spikes > 0, before, before.max(axis=0)).min(axis=0)  # membrane at a spike, if there is one
        least = -1000 * threshold if published else before.min(axis=0)
        highest = np.where(spikes > 0, least, before).max(axis=0)  # ... at a step without a spike
        count = spikes.sum(axis=0)
        emitted = emitted + count.astype(int)
        residual = total - threshold * count
        lower = array((residual < 0) & (count > 0), like=start)
        higher = (residual >= threshold) & (published | (count < len(currents)))
        start = start - lower * np.maximum(threshold, lowest - threshold + epsilon)
        start = np.where(higher, start + np.maximum(threshold, threshold - highest + epsilon), start)
    return start, emitted


def _split(currents, pre_steps):
    """(the currents before the restart, those after it)."""
    pre_steps, currents = whole(pre_steps, "pre_steps"), np.asarray(currents)
    if currents.ndim < 2 or len(currents) <= pre_steps:
        raise InputError(
            f"currents must have shape [pre_steps + T, batch, ...] with T >= 1, got {currents.shape} for {pre_steps}"
        )
    return currents[:pre_steps], currents[pre_steps:]


def srp_run(currents: np.ndarray, threshold: float | np.ndarray, pre_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The IF neuron under SRP, tau = pre_steps: currents [tau + T, batch, ...] -> (spikes [T, ...], membrane)."""
    before, after = _split(currents, pre_steps)
    spikes, membrane = if_run(after, threshold)
    return spikes * srp_fires(before, threshold), membrane


def cos_run(
    currents: np.ndarray,
    threshold: float | np.ndarray,
    pre_steps: int,
    iterations: int = 1,
    epsilon: float = 1e-3,
    published: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The IF neuron under COS, rho = pre_steps: currents [rho + T, batch, ...] -> (spikes [T, ...], membrane)."""
    before, after = _split(currents, pre_steps)
    return if_run(after, threshold, cos_start(before, threshold, iterations, epsilon, published)[0])


def calibrate(
    network: SpikingNetwork, x: np.ndarray, method: str, pre_steps: int, iterations: int = 1
) -> SpikingNetwork:
    """A copy of a streaming network, calibrated by a method on images x [batch, ...]; simulate it on them.

    "srp" and "cos": see above. "cos-published" repeats what tables at T > rho were made with: see `cos_start`.
    Each layer runs through all its pre-steps before the next layer starts; what it sent is kept, not computed again.
    """
    one_of(method, METHODS, "calibration")
    if not isinstance(network, SpikingNetwork) or not network.schedule.streams:
        raise InputError("only a streaming network is calibrated: convert it with schedule 'streaming'")
    pre_steps, iterations = whole(pre_steps, "pre_steps"), whole(iterations, "iterations")
    below = next((node["name"] for node in network.layers if node["lowest"]), None)
    if below is not None:
        raise InputError(f"{below} has levels below zero: calibrations are for neurons that send no negative spikes")
    x, starts, pre_spikes = images(network.nodes, x), {}, {}
    values = {"image": [x] * pre_steps}
    for node in network.nodes:
        steps = list(zip(*(values[name] for name in node["inputs"]), strict=True))
        if node["op"] != "spiking":
            values[node["name"]], memory = [], None
            for now, inputs in enumerate(steps):
                value, memory = operate(network, node, now, pre_steps, memory, *inputs)
                values[node["name"]].append(value)
            continue
        currents = np.stack([current for (current,) in steps])
        theta = array(node["threshold"], like=currents)
        spikes = if_run(currents, theta)[0]
        emitted = spikes.sum(axis=0).astype(int)
        if method == "srp":
            starts[node["name"]] = None, srp_fires(currents, theta)
        else:
            start, emitted = cos_start(currents, theta, iterations, published=method == "cos-published")
            starts[node["name"]] = start, array(np.array(1), like=currents)
            spikes = if_run(currents, theta, start)[0]
            emitted = emitted + spikes.sum(axis=0).astype(int)
        pre_spikes[node["name"]] = emitted
        values[node["name"]] = list(theta * spikes)
    total = pre_steps if method == "srp" else network.latency_depth * pre_steps * iterations
    return network._replace(starts=starts, pre_steps=total, pre_spikes=pre_spikes, images=x)
