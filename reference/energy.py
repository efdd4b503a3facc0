"""The cost of an answer: synaptic operations, and joules at 45 nm next to those of the quantised network.

    an operator fed by spikes          one accumulate (AC) per spike and synapse that it reaches
    a product of two spike trains      one AC per spike and row (or column) of the other that it meets
    an operator fed by the image       its multiply-accumulates (MAC), once: the image does not change
    an operator fed by anything else   its MACs in every step
    totals (T5)                        computes every operator again in each step: MACs, too

A spike that reaches a neuron through a skip is one AC. Pooling after spikes is part of the next weights (with
overlapping windows, a synapse counts once per window that leads to it). Negative
spikes and those of pre-steps count like any other; biases and membrane updates do not count. Energies are
Horowitz's (ISSCC 2014): `joules` for 32-bit floats without memory access, as published; and in whole numbers beside a
fair rival, the quantised network with 8-bit weights and as many bits of activations as levels need, with and without
the traffic of memory (derivations 13.3). After Yan et al., Reconsidering the energy efficiency of spiking neural
networks (2024).
"""

from typing import NamedTuple

import numpy as np

from .conversion import LINEAR, SpikingNetwork
from .operators import FORWARD
from .simulation import Simulation

MAC, AC = 4.6e-12, 0.9e-12  # joules: multiply 3.7 pJ and add 0.9 pJ
MULTIPLY, ADD = 0.2e-12, 0.1e-12  # of 8-bit whole numbers, and of 32-bit ones
BYTE = 1.25e-12  # of a memory of 8 kB: 10 pJ for 64 bits


class Energy(NamedTuple):
    """Operations of one image (means over the batch) and joules."""

    acs: dict  # node -> accumulates
    macs: dict  # node -> multiply-accumulates
    ann_macs: dict  # node -> multiply-accumulates of the quantised network
    totals_macs: dict  # node -> multiply-accumulates of a simulation on totals
    neurons: int  # spiking
    steps: int  # from the image to the answer
    bits: int  # that tell as many levels as a layer sends at most

    @property
    def joules(self) -> float:
        """Energy on hardware that adds increments, as spiking chips do."""
        return sum(self.acs.values()) * AC + sum(self.macs.values()) * MAC

    @property
    def ann_joules(self) -> float:
        """Energy of the quantised network."""
        return sum(self.ann_macs.values()) * MAC

    @property
    def totals_joules(self) -> float:
        """Energy of a simulation on totals."""
        return sum(self.totals_macs.values()) * MAC

    @property
    def whole_joules(self) -> float:
        """Energy in whole numbers: an addition of 32 bits for each spike and synapse, 8-bit products for the image."""
        return sum(self.acs.values()) * ADD + sum(self.macs.values()) * (MULTIPLY + ADD)

    @property
    def rival_joules(self) -> float:
        """Energy of the quantised network with weights of 8 and activations of `bits` bits; the image has 8."""
        return sum(macs * (MULTIPLY * self._width(name) / 8 + ADD) for name, macs in self.ann_macs.items())

    @property
    def whole_memory(self) -> float:
        """Joules of memory: a weight for each addition, both factors of products, membranes in and out in each step."""
        state = 2 * 4 * self.neurons * self.steps
        return BYTE * (sum(self.acs.values()) + 2 * sum(self.macs.values()) + state)

    @property
    def rival_memory(self) -> float:
        """Joules of the rival's memory: a weight and an activation for each product."""
        return BYTE * sum(macs * (1 + self._width(name) / 8) for name, macs in self.ann_macs.items())

    @property
    def break_even(self) -> float:
        """How many times as many spikes would cost as much as the rival, with memory; 0 where none would."""
        spikes = sum(self.acs.values()) * (ADD + BYTE)
        rest = self.whole_joules + self.whole_memory - spikes
        return max(0.0, self.rival_joules + self.rival_memory - rest) / spikes if spikes else 0.0

    def _width(self, name):
        return 8 if self.macs.get(name) else self.bits


def dense(node, out):
    """MACs of one image: outputs times the inputs of each; 1 per output of a nonlinear operator."""
    fan_in = node["weight"][0].size if "weight" in node else 1
    return out[0].size * fan_in


def structure(node, traffic):
    """How many spikes reach each output: the operator with all weights 1, and sums in place of means."""
    if "weight" in node:
        return FORWARD[node["op"]](node | {"weight": np.ones(node["weight"].shape), "bias": None}, traffic)
    if node["op"] in ("shift", "scale", "divide", "batch_norm"):
        return traffic
    if node["op"] == "mean_tokens":
        return traffic.sum(axis=1)
    return FORWARD[node["op"]](node, traffic) * (node["size"] ** 2 if node["op"] == "avg_pool2d" else 1)


def energy(network: SpikingNetwork, x: np.ndarray, simulation: Simulation) -> Energy:
    """The `Energy` of a simulation of a spiking network on images x [batch, ...]."""
    batch = len(x)
    fed: dict[str, tuple] = {"image": ("image", np.ones(np.shape(x)))}  # node -> (kind of its values, spikes or ones)
    steps = simulation.latency if network.schedule.settles else len(simulation.logits) + network.pre_steps
    acs, macs, ann_macs = {}, {}, {}
    for node in network.nodes:
        name, inputs = node["name"], [fed[source] for source in node["inputs"]]
        kinds, spikes = {kind for kind, _ in inputs}, [traffic for kind, traffic in inputs if kind == "spikes"]
        if node["op"] == "spiking":
            fed[name] = "spikes", simulation.emitted[name].astype(float)
            acs[name] = sum(float(traffic.sum()) for traffic in spikes) / batch
        elif node["op"] in ("linear", "conv2d"):
            out = structure(node, inputs[0][1])
            fed[name] = "image" if kinds == {"image"} else "values", out
            ann_macs[name] = dense(node, out)
            acs[name] = float(out.sum()) / batch if spikes else 0.0
            macs[name] = 0 if spikes else dense(node, out) * (steps if kinds == {"values"} else 1)
        elif node["op"] == "add":
            mixed = "values" if kinds != {"spikes"} and kinds != {"image"} else kinds.pop()
            fed[name] = mixed, inputs[0][1] + inputs[1][1]
            acs[name] = sum(float(t.sum()) for t in spikes) / batch if mixed == "values" else 0.0
        elif node["op"] in (*LINEAR, "batch_norm"):
            fed[name] = inputs[0][0], structure(node, inputs[0][1])
        elif node["op"] == "product":
            (_, a), (_, b) = inputs
            b = np.swapaxes(b, -1, -2) if node["transpose"] else b
            fed[name], both = ("values", a @ b), len(spikes) == 2
            ann_macs[name] = a[0].size * b.shape[-1]
            acs[name] = (float(a.sum()) * b.shape[-1] + float(b.sum()) * a.shape[-2]) / batch if both else 0.0
            macs[name] = 0 if both else ann_macs[name] * steps
        else:
            fed[name] = "image" if kinds == {"image"} else "values", FORWARD[node["op"]](node, *(t for _, t in inputs))
            ann_macs[name] = dense({}, fed[name][1])
            macs[name] = ann_macs[name] * (steps if kinds != {"image"} else 1)
    rows = len(simulation.logits)
    totals = {name: count * steps for name, count in ann_macs.items()}
    neurons = sum(count[0].size for count in simulation.counts.values())
    numbers = max(
        network.schedule.resolution(rows, rows, node["levels"]) * (node["levels"] - node["lowest"]) // node["levels"]
        for node in network.layers
    )
    return Energy(acs, macs, ann_macs, totals, neurons, simulation.latency, numbers.bit_length())
