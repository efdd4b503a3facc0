"""Calibrations of streaming networks, SRP and COS: `reference.calibration` on tensors."""

import copy

import torch

from .checks import InputError, one_of, tensor, whole
from .conversion import SpikingNetwork
from .graph.operations import module_of
from .graph.trace import layer_name
from .increments import IncrementalOperators
from .network import images
from .neuron import SpikingNeuron, if_run, if_step, prepare, resting

METHODS = ("srp", "cos", "cos-published")


def srp_fires(currents, threshold):
    """1 where the membrane is positive after currents [tau, batch, ...] from theta / 2, else 0: [batch, ...]."""
    membrane = if_run(currents, threshold)[1]
    return (membrane > 0).to(membrane.dtype)


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
    epsilon, rest = threshold * epsilon, resting(threshold, currents.shape[1:])
    start, emitted = rest, torch.zeros_like(currents[0], dtype=torch.long)
    for _ in range(whole(iterations, "iterations")):
        membrane, total, seen = start, rest, []
        for current in currents:
            total = total + current
            high = membrane + current
            spike, membrane = if_step(membrane, current, threshold)
            seen.append((high, spike))
        before, spikes = (torch.stack(parts) for parts in zip(*seen, strict=True))
        lowest = torch.where(spikes > 0, before, before.amax(dim=0)).amin(dim=0)  # membrane at a spike, if there is one
        least = -1000 * threshold if published else before.amin(dim=0)
        highest = torch.where(spikes > 0, least, before).amax(dim=0)  # ... at a step without a spike
        count = spikes.sum(dim=0)
        emitted = emitted + count.long()
        residual = total - threshold * count
        lower = ((residual < 0) & (count > 0)).to(start.dtype)
        higher = (residual >= threshold) & (published | (count < len(currents)))
        start = start - lower * torch.maximum(threshold, lowest - threshold + epsilon)
        start = torch.where(higher, start + torch.maximum(threshold, threshold - highest + epsilon), start)
    return start, emitted


def _split(currents, pre_steps):
    """(the currents before the restart, those after it)."""
    pre_steps, currents = whole(pre_steps, "pre_steps"), tensor(currents)
    if currents.ndim < 2 or len(currents) <= pre_steps:
        raise InputError(
            "currents must have shape [pre_steps + T, batch, ...] with T >= 1, "
            f"got {tuple(currents.shape)} for {pre_steps}"
        )
    return currents[:pre_steps], currents[pre_steps:]


def srp_run(
    currents: torch.Tensor, threshold: float | torch.Tensor, pre_steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The IF neuron under SRP, tau = pre_steps: currents [tau + T, batch, ...] -> (spikes [T, ...], membrane)."""
    before, after = _split(currents, pre_steps)
    spikes, membrane = if_run(after, threshold)
    return spikes * srp_fires(before, threshold), membrane


def cos_run(
    currents: torch.Tensor,
    threshold: float | torch.Tensor,
    pre_steps: int,
    iterations: int = 1,
    epsilon: float = 1e-3,
    published: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The IF neuron under COS, rho = pre_steps: currents [rho + T, batch, ...] -> (spikes [T, ...], membrane)."""
    before, after = _split(currents, pre_steps)
    return if_run(after, threshold, cos_start(before, threshold, iterations, epsilon, published)[0])


@torch.no_grad()
def calibrate(
    network: SpikingNetwork, x: torch.Tensor, method: str, pre_steps: int, iterations: int = 1
) -> SpikingNetwork:
    """A copy of a streaming network, calibrated by a method on images x [batch, ...]; simulate it on them.

    "srp" and "cos": see above. "cos-published" repeats what tables at T > rho were made with: see `cos_start`.
    Each layer runs through all its pre-steps before the next layer starts; what it sent is kept, not computed again.
    """
    one_of(method, METHODS, "calibration")
    if not isinstance(network, SpikingNetwork) or not network.schedule.streams:
        raise InputError("only a streaming network is calibrated: convert it with schedule 'streaming'")
    pre_steps, iterations = whole(pre_steps, "pre_steps"), whole(iterations, "iterations")
    below = next((name for name, neuron in network.layers.items() if neuron.lowest), None)
    if below is not None:
        raise InputError(f"{below} has levels below zero: calibrations are for neurons that send no negative spikes")
    network, x = copy.deepcopy(network).eval(), images(network, x)
    operator, pre_spikes, values = IncrementalOperators(network, pre_steps), {}, [{} for _ in range(pre_steps)]
    waiting = {node: len(node.users) for node in network.graph.graph.nodes}
    for node in network.graph.graph.nodes:
        module = module_of(network.graph, node)
        if node.op == "output":
            break
        if not isinstance(module, SpikingNeuron):
            for now in range(pre_steps):
                image = node.op == "placeholder"
                values[now][node] = operator.image(x, now) if image else operator(node, values[now], now)
        else:
            currents = torch.stack([value[node.all_input_nodes[0]] for value in values])
            theta = module.threshold.to(currents.dtype)
            spikes = if_run(currents, theta)[0]
            sent = spikes.sum(dim=0).long()
            if method == "srp":
                module.start, module.fires = None, srp_fires(currents, theta)
            else:
                module.fires = None
                module.start, sent = cos_start(currents, theta, iterations, published=method == "cos-published")
                spikes = if_run(currents, theta, module.start)[0]
                sent = sent + spikes.sum(dim=0).long()
            pre_spikes[layer_name(node)] = sent
            for value, spike in zip(values, theta * spikes, strict=True):
                value[node] = spike
        for source in node.all_input_nodes:  # free values that no later node reads
            waiting[source] -= 1
            if not waiting[source]:
                for value in values:
                    del value[source]
    network.pre_steps = pre_steps if method == "srp" else network.latency_depth * pre_steps * iterations
    network.pre_spikes, network.images = pre_spikes, x
    return network
