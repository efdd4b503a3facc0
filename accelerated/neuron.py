"""Spiking neurons on tensors: the functions of `reference.neuron`, and the module that runs the three schedules."""

import torch
from torch import nn

from ._native import elementwise
from .activation import level_value, qcfs_level, unchecked_level
from .checks import InputError, broadcasts, finite, positive, tensor, whole
from .thresholds import threshold_of


def prepare(currents, threshold):
    """Currents [T, batch, ...] with T >= 1 and a positive theta, in one format."""
    currents = finite(tensor(currents), "currents")
    if currents.ndim < 2 or len(currents) < 1:
        raise InputError(f"currents must have shape [T, batch, ...] with T >= 1, got {tuple(currents.shape)}")
    return currents, broadcasts(positive(tensor(threshold, like=currents)), currents.shape[2:])


def resting(threshold, shape, v0=None):
    """The membrane before the first step: theta / 2 unless `v0` is given; `shape` is [batch, ...]."""
    start = threshold / 2 if v0 is None else finite(tensor(v0, like=threshold), "v0")
    return broadcasts(start, shape, "v0").expand(shape)


def if_step(membrane, current, threshold):
    """V <- V + z; s = [V >= theta]; V <- V - theta s. Returns (s, V)."""
    membrane = membrane + current
    spike = (membrane >= threshold).to(membrane.dtype)
    return spike, membrane - threshold * spike


def lif_run(currents, threshold, leak, v0=None):
    """V <- leak V + z_t, else as `if_run`; leak in [0, 1], and leak = 1 is the IF neuron (Eq. 2-8)."""
    currents, threshold = prepare(currents, threshold)
    if not 0 <= leak <= 1:
        raise InputError(f"leak must lie in [0, 1], got {leak}")
    membrane, spikes = resting(threshold, currents.shape[1:], v0), []
    for current in currents:
        spike, membrane = if_step(membrane * leak, current, threshold)
        spikes.append(spike)
    return torch.stack(spikes), membrane


def if_run(currents, threshold, v0=None):
    """The integrate-and-fire neuron: (spikes [T, batch, ...], last membrane [batch, ...]).

    A spike is worth theta, averaged over T. With a constant current z and T = L the count is level(z) (T1).
    InputError for currents that are not [T >= 1, batch, ...] and finite, or a theta that is not positive.
    """
    currents, threshold = prepare(currents, threshold)
    membrane = torch.empty_like(currents[0]).copy_(resting(threshold, currents.shape[1:], v0))
    spikes = elementwise.if_run(currents, len(currents), threshold, membrane, unit=True)
    return lif_run(currents, threshold, 1, v0) if spikes is None else (spikes, membrane)


def integrate_then_fire_run(currents, threshold):
    """Integrate all T currents from theta / 2, then fire for T steps without input (T2).

    Returns (spikes of the firing phase [T, batch, ...], membrane); count = clip(floor(sum z / theta + 1/2), 0, T).
    """
    currents, threshold = prepare(currents, threshold)
    membrane, spikes = resting(threshold, currents.shape[1:]), []
    for current in currents:
        membrane = membrane + current
    for _ in currents:
        spike, membrane = if_step(membrane, 0, threshold)
        spikes.append(spike)
    return torch.stack(spikes), membrane


def signed_step(total, sent, threshold, levels):
    """The next signed spike, -1 | 0 | 1 = clip(level(total) - sent, -1, 1) (T3, T5); all [batch, ...].

    `total` is the accumulated input, `sent` the spikes sent so far, in 0..L; a spike is worth theta / L.
    """
    total = tensor(total)
    return torch.clamp(qcfs_level(total, threshold, levels) - tensor(sent, like=total), -1, 1)


def signed_membrane_step(membrane, current, sent, threshold, levels):
    """One step of the incremental ST-BIF neuron: V <- V + z L / theta, then V <- V - s. Returns (s, V)."""
    membrane = membrane + current * levels / threshold
    up = (membrane >= 1) & (sent < levels)
    down = (membrane < 0) & (sent > 0)
    spike = up.to(membrane.dtype) - down.to(membrane.dtype)
    return spike, membrane - spike


def st_bif_run(currents, threshold, levels):
    """The signed neuron on increments, V(0) = 1/2: (signed spikes [T, batch, ...], tracer N [batch, ...]).

    After the input has stopped, N settles on level(sum of all currents) within L steps (T3).
    """
    currents, threshold = prepare(currents, threshold)
    levels = whole(levels, "levels")
    membrane, sent, spikes = torch.full_like(currents[0], 0.5), torch.zeros_like(currents[0]), []
    for current in currents:
        spike, membrane = signed_membrane_step(membrane, current, sent, threshold, levels)
        sent = sent + spike
        spikes.append(spike)
    return torch.stack(spikes), sent


class SpikingNeuron(nn.Module):
    """A layer of neurons in place of a `QCFS`: one call is one time step, under any schedule and arithmetic.

    totals      takes the accumulated input, returns all that was sent so far
    increments  takes this step's current, returns what is sent in this step
    `depth` is the number of spiking layers on the longest path up to and including this one. The threshold is made
    from the activation's own parameter, so that both stay equal under `.to(dtype)`.
    """

    def __init__(self, activation, schedule, depth):
        super().__init__()
        self.parameter, self.positivity, self.levels = activation.parameter, activation.positivity, activation.levels
        self.schedule, self.depth = schedule, depth
        self.start: torch.Tensor | None = None  # from a calibration: the first membrane, and which neurons may fire
        self.fires: torch.Tensor | None = None
        self.reset(1, "increments")

    @property
    def threshold(self):
        """V_th = theta, made from the trained parameter."""
        return threshold_of(self.parameter, self.positivity)

    def reset(self, steps, arithmetic):
        """Forget everything; `steps` is T (per phase)."""
        self.steps, self.arithmetic, self.now = steps, arithmetic, 0
        self.sent: torch.Tensor | None = None
        self.membrane: torch.Tensor | None = None
        self.spike: torch.Tensor | None = None  # of the last step; a simulation lets go of it

    def resolution(self, now):
        """The count that is worth theta: t (streaming), T (integrate-then-fire) or L (signed)."""
        return {"streaming": now, "integrate-then-fire": self.steps, "signed": self.levels}[self.schedule]

    @property
    def firing(self):
        """Whether the schedule lets this layer fire in the coming step at all."""
        return self.schedule != "integrate-then-fire" or self.now // self.steps == self.depth

    def forward(self, x):
        if self.sent is not None and self.sent.shape != x.shape:
            shapes = f"{tuple(self.sent.shape)}, its input now {tuple(x.shape)}"
            raise InputError(f"a neuron's state is of other images (shape {shapes}): reset() first")
        theta = self.threshold.to(x.dtype)
        sent = torch.zeros_like(x) if self.sent is None else self.sent
        if self.arithmetic == "totals":
            native = self._native(x, sent, theta)
            if native is not None:
                return native
        self.spike, value = (self._total if self.arithmetic == "totals" else self._increment)(x, sent, theta)
        self.sent, self.now = sent + self.spike, self.now + 1
        return self.value() if self.arithmetic == "totals" else value

    def _native(self, total, sent, theta):
        """A step on totals by a kernel, or None."""
        if not self.firing:
            return None
        signed = self.schedule == "signed"
        t = -1 if signed else self.now - self.depth * self.steps
        done = elementwise.total_step(total, sent, theta, self.levels if signed else self.steps, t)
        if done is None:
            return None
        self.spike, self.sent, self.now = done[0], sent, self.now + 1
        return done[1]

    def value(self):
        """What has been sent so far: theta N / resolution."""
        assert self.sent is not None
        return level_value(self.sent, self.threshold.to(self.sent.dtype), self.resolution(self.now))

    def _total(self, total, sent, theta):
        if self.schedule == "signed":
            return torch.clamp(unchecked_level(total, theta, self.levels) - sent, -1, 1), None
        if not self.firing:
            return torch.zeros_like(sent), None
        t = self.now - self.depth * self.steps
        return (t < unchecked_level(total, theta, self.steps)).to(total.dtype), None

    def _increment(self, current, sent, theta):
        if self.schedule == "signed":
            membrane = torch.full_like(current, 0.5) if self.membrane is None else self.membrane
            spike, self.membrane = signed_membrane_step(membrane, current, sent, theta, self.levels)
            return spike, level_value(spike, theta, self.levels)
        membrane = resting(theta, current.shape, self.start) if self.membrane is None else self.membrane
        if not self.firing:
            self.membrane = membrane + current
            return torch.zeros_like(current), torch.zeros_like(current)
        spike, self.membrane = if_step(membrane, current, theta)
        spike = spike if self.fires is None else spike * self.fires
        return spike, theta * spike

    def extra_repr(self):
        return f"schedule={self.schedule!r}, depth={self.depth}, levels={self.levels}"
