"""A4, attention: a model solution."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Simulation:
    logits: np.ndarray
    latency: int
    spikes_per_neuron: float
    nonzero_share: dict


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x, gamma, beta, eps=1e-5):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) * gamma + beta


def _run(f, trains, operators):
    if operators == "per-step":
        return np.stack([f(*values) for values in zip(*trains, strict=True)])
    totals = [f(*values) for values in zip(*(np.cumsum(t, axis=0) for t in trains), strict=True)]
    return np.stack([new - old for new, old in zip(totals, [0, *totals[:-1]], strict=True)])


def product_run(a, b, operators="accumulated"):
    return _run(np.matmul, (a, b), operators)


def softmax_run(x, operators="accumulated"):
    return _run(softmax, (x,), operators)


def layer_norm_run(x, gamma, beta, eps=1e-5, operators="accumulated"):
    return _run(lambda v: layer_norm(v, gamma, beta, eps), (x,), operators)


def level(z, theta, levels):
    return np.clip(np.floor(z * z.dtype.type(levels) / theta + z.dtype.type(0.5)), 0, z.dtype.type(levels))


def value(count, theta, levels):
    return theta * count / count.dtype.type(levels)


def _linear(x, part):
    weight, bias = part
    return x @ weight.T if bias is None else x @ weight.T + bias


def split(x, heads):
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-3, -2)


def merge(x):
    x = x.swapaxes(-3, -2)
    return x.reshape(*x.shape[:-2], -1)


def scores(q, k, bias):
    out = q @ k.swapaxes(-1, -2) * q.dtype.type(q.shape[-1] ** -0.5)
    return out if bias is None else out + bias


def _attention(x, weights, heads, bias, act):
    """Eq. 4-2 to 4-5, with `act(name, z)` for each quantiser."""
    q, k, v = (act(part, split(_linear(x, weights[part]), heads)) for part in ("q", "k", "v"))
    a = act("attention", softmax(scores(q, k, bias)))
    return act("projection", _linear(merge(act("head", a @ v)), weights["projection"]))


def _feed_forward(x, weights, act):
    return act("fc2", _linear(act("fc1", _linear(x, weights["fc1"])), weights["fc2"]))


def attention(x, weights, thresholds, levels, heads, bias=None):
    act = lambda name, z: value(level(z, thresholds[name], levels), thresholds[name], levels)  # noqa: E731
    return _attention(x, weights, heads, bias, act)


def feed_forward(x, weights, thresholds, levels):
    act = lambda name, z: value(level(z, thresholds[name], levels), thresholds[name], levels)  # noqa: E731
    return _feed_forward(x, weights, act)


def block_sum(g, shape):
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    ones = tuple(i for i, n in enumerate(shape) if n == 1)
    return g.sum(axis=ones, keepdims=True) if ones else g


class Tape:
    """What a forward pass leaves for the way back: pre-activations by quantiser."""

    def __init__(self, thresholds, levels):
        self.thresholds, self.levels, self.z, self.out, self.by_theta = thresholds, levels, {}, {}, {}

    def act(self, name, z):
        self.z[name] = z
        self.out[name] = value(level(z, self.thresholds[name], self.levels), self.thresholds[name], self.levels)
        return self.out[name]

    def back(self, name, g):
        z, theta = self.z[name], self.thresholds[name]
        u = z * self.levels / theta + 0.5
        inside = (u >= 0) & (u < self.levels)
        by_theta = np.where(inside, (self.out[name] - z) / theta, u >= self.levels)
        self.by_theta[name] = block_sum(g * by_theta, np.shape(theta))
        return g * inside


def linear_back(x, part, g):
    weight, bias = part
    flat_x, flat_g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return g @ weight, (flat_g.T @ flat_x, None if bias is None else flat_g.sum(axis=0))


def attention_grad(x, weights, thresholds, levels, heads, upstream, bias=None):
    tape, by = Tape(thresholds, levels), {}
    _attention(x, weights, heads, bias, tape.act)
    q, k, v, a = (tape.out[name] for name in ("q", "k", "v", "attention"))
    probabilities, factor = tape.z["attention"], q.shape[-1] ** -0.5
    g, by["projection"] = linear_back(merge(tape.out["head"]), weights["projection"], tape.back("projection", upstream))
    g = tape.back("head", split(g, heads))
    by_a, by_v = tape.back("attention", g @ v.swapaxes(-1, -2)), a.swapaxes(-1, -2) @ g
    s = probabilities * (by_a - (by_a * probabilities).sum(axis=-1, keepdims=True)) * factor
    dx = 0
    for name, g in (("q", s @ k), ("k", s.swapaxes(-1, -2) @ q), ("v", by_v)):
        back, by[name] = linear_back(x, weights[name], merge(tape.back(name, g)))
        dx = dx + back
    return dx, {name: by[name] for name in weights}, {name: tape.by_theta[name] for name in thresholds}


def feed_forward_grad(x, weights, thresholds, levels, upstream):
    tape, by = Tape(thresholds, levels), {}
    _feed_forward(x, weights, tape.act)
    g, by["fc2"] = linear_back(tape.out["fc1"], weights["fc2"], tape.back("fc2", upstream))
    dx, by["fc1"] = linear_back(x, weights["fc1"], tape.back("fc1", g))
    return dx, {name: by[name] for name in weights}, {name: tape.by_theta[name] for name in thresholds}


def _simulate(layer, depth, thresholds, levels, steps, schedule):
    """`layer(act)` on totals, under the two exact schedules."""
    sent, emitted, logits, last = {}, {}, [], 0
    waits = schedule == "integrate-then-fire"
    unit = steps if waits else levels

    def act(name, z):
        nonlocal last
        theta, before = thresholds[name], sent.get(name, np.zeros_like(z))
        if waits:
            spike = ((depth[name] == now // steps) & (now % steps < level(z, theta, steps))).astype(z.dtype)
        else:
            spike = np.clip(level(z, theta, levels) - before, -1, 1)
        sent[name], emitted[name] = before + spike, emitted.get(name, 0) + np.abs(spike).astype(float)
        last = now + 1 if spike.any() else last
        return value(sent[name], theta, unit)

    for now in range(steps * (max(depth.values()) + 1 if waits else 1)):  # noqa: B007
        logits.append(layer(act))
    return _result(logits[-steps:], sent, emitted, len(logits) if waits else last)


def _result(logits, sent, emitted, latency):
    units = sum(np.size(count) for count in sent.values())
    return Simulation(np.stack(logits), latency, float(sum(e.sum() for e in emitted.values()) / units),
                      {name: float((count != 0).mean()) for name, count in sent.items()})  # fmt: skip


def _stream(layer, read_out, thresholds, steps):
    """`layer(act, t)` gives the currents of step t (from 1); `read_out(act)` what has been sent on average."""
    membrane, sent, logits = {}, {}, []

    def act(name, z):
        theta = thresholds[name]
        v = membrane.get(name, theta / 2) + z
        spike = (v >= theta).astype(z.dtype)
        membrane[name], sent[name] = v - theta * spike, sent.get(name, 0) + spike
        return theta * spike

    for t in range(1, steps + 1):
        layer(act, t)
        logits.append(read_out(lambda name: thresholds[name] * sent[name] / sent[name].dtype.type(t)))  # noqa: B023
    return _result(logits, sent, {name: count.astype(float) for name, count in sent.items()}, steps)


def attention_spiking(x, weights, thresholds, levels, heads, steps, schedule, operators="accumulated", bias=None):
    if schedule != "streaming":
        depth = {"q": 1, "k": 1, "v": 1, "attention": 2, "head": 3, "projection": 4}
        return _simulate(
            lambda act: _attention(x, weights, heads, bias, act), depth, thresholds, levels, steps, schedule
        )
    sums = {}

    def operator(name, f, t, *inputs):
        """f of this step's spikes, or what is new in t f(sum / t)."""
        if operators == "per-step":
            return f(*inputs)
        totals, before = sums.get(name, ([0] * len(inputs), 0))
        totals = [total + new for total, new in zip(totals, inputs, strict=True)]
        now = t * f(*(total / t for total in totals))
        sums[name] = totals, now
        return now - before

    def layer(act, t):
        q, k, v = (act(part, split(_linear(x, weights[part]), heads)) for part in ("q", "k", "v"))
        a = operator("scores", lambda q, k: scores(q, k, bias), t, q, k)
        a = act("attention", operator("softmax", softmax, t, a))
        act("projection", _linear(merge(act("head", operator("mix", np.matmul, t, a, v))), weights["projection"]))

    return _stream(layer, lambda sent: sent("projection"), thresholds, steps)


def feed_forward_spiking(x, weights, thresholds, levels, steps, schedule):
    if schedule != "streaming":
        layer = lambda act: _feed_forward(x, weights, act)  # noqa: E731
        return _simulate(layer, {"fc1": 1, "fc2": 2}, thresholds, levels, steps, schedule)
    return _stream(lambda act, _: _feed_forward(x, weights, act), lambda sent: sent("fc2"), thresholds, steps)
