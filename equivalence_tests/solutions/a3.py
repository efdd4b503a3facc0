"""A3, conversion of a CNN: a model solution, on totals; streaming on membranes."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Simulation:
    logits: np.ndarray
    counts: dict
    latency: int
    spikes_per_neuron: float
    settled: bool | None
    units_that_differ: float | None
    units_that_differ_last: float | None
    nonzero_share: dict


def linear(x, weight, bias=None):
    y = x @ weight.T
    return y if bias is None else y + bias


def conv2d(x, weight, bias=None, stride=1, padding=0):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    y = np.einsum("nchwij,ocij->nohw", windows, weight)
    return y if bias is None else y + bias[:, None, None]


def avg_pool2d(x, size):
    n, c, h, w = x.shape
    x = x[:, :, : h // size * size, : w // size * size]
    return x.reshape(n, c, h // size, size, w // size, size).mean(axis=(3, 5))


def fold_batch_norm(weight, bias, gamma, beta, mean, var, eps=1e-5):
    scale = gamma / np.sqrt(var + eps)
    bias = np.zeros_like(mean) if bias is None else bias
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), (bias - mean) * scale + beta


OPERATORS = {
    "linear": lambda n, x: linear(x, n["weight"], n.get("bias")),
    "conv2d": lambda n, x: conv2d(x, n["weight"], n.get("bias"), n.get("stride", 1), n.get("padding", 0)),
    "avg_pool2d": lambda n, x: avg_pool2d(x, n["size"]),
    "flatten": lambda n, x: x.reshape(len(x), -1),
    "add": lambda n, x, y: x + y,
}


def threshold(node):
    parameter = node["parameter"]
    return np.logaddexp(0, parameter) if node["positivity"] == "softplus" else parameter


def level(z, node, levels):
    return np.clip(np.floor(z * levels / threshold(node) + 0.5), 0, levels)


def propagate(nodes, x, neuron):
    values = {"image": x}
    for node in nodes:
        inputs = [values[name] for name in node["inputs"]]
        values[node["name"]] = neuron(node, *inputs) if node["op"] == "qcfs" else OPERATORS[node["op"]](node, *inputs)
    return values[nodes[-1]["name"]]


def build(nodes):
    return nodes


def answer(network, x):
    return propagate(network, x, lambda n, z: threshold(n) * level(z, n, n["levels"]) / n["levels"])


def convert(network, schedule):
    depth = {"image": 0}
    for node in network:
        depth[node["name"]] = max(depth[name] for name in node["inputs"]) + (node["op"] == "qcfs")
    return {"nodes": network, "schedule": schedule, "depth": depth}


def simulate(network, x, steps, arithmetic=None):
    nodes, schedule, depth = network["nodes"], network["schedule"], network["depth"]
    phases = max(depth.values()) + 1 if schedule == "integrate-then-fire" else 1
    sent, membrane, emitted, logits, last = {}, {}, {}, [], 0

    def fire(node, spike):
        nonlocal last
        name = node["name"]
        sent[name] = sent.get(name, 0) + spike
        emitted[name] = emitted.get(name, 0) + np.abs(spike)
        last = now + 1 if spike.any() else last

    def total(node, z):
        n, before = node["levels"], sent.get(node["name"], np.zeros_like(z))
        if schedule == "signed":
            fire(node, np.clip(level(z, node, n) - before, -1, 1))
            return threshold(node) * sent[node["name"]] / n
        fire(node, ((depth[node["name"]] == now // steps) & (now % steps < level(z, node, steps))).astype(z.dtype))
        return threshold(node) * sent[node["name"]] / steps

    def stream(node, z):
        theta = threshold(node)
        v = membrane.get(node["name"], theta / 2) + z
        spike = (v >= theta).astype(z.dtype)
        membrane[node["name"]] = v - theta * spike
        fire(node, spike)
        return theta * spike

    for now in range(phases * steps):
        out = propagate(nodes, x, stream if schedule == "streaming" else total)
        if schedule == "streaming":
            out = propagate(nodes, x, lambda node, _: threshold(node) * sent[node["name"]] / (now + 1))  # noqa: B023
        logits.append(out)

    settled = last < steps if schedule == "signed" else None
    latency = last if schedule == "signed" else phases * steps
    same = schedule == "signed" or all(n["levels"] == steps for n in nodes if n["op"] == "qcfs")
    return result(logits[-steps:], sent, emitted, latency, settled, ann_levels(nodes, x) if same else None)


def ann_levels(nodes, x):
    levels = {}

    def quantised(node, z):
        levels[node["name"]] = level(z, node, node["levels"])
        return threshold(node) * levels[node["name"]] / node["levels"]

    propagate(nodes, x, quantised)
    return levels


def result(logits, sent, emitted, latency, settled, ann):
    units = sum(count.size for count in sent.values())
    differ = ann and [sent[name] != ann[name] for name in ann]
    return Simulation(
        logits=np.stack(logits), counts=sent, latency=latency, settled=settled,
        spikes_per_neuron=float(sum(e.sum() for e in emitted.values()) / units),
        units_that_differ=float(sum(d.sum() for d in differ) / units) if differ else None,
        units_that_differ_last=float(differ[-1].mean()) if differ else None,
        nonzero_share={name: float((count != 0).mean()) for name, count in sent.items()},
    )  # fmt: skip
