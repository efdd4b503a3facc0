"""Spiking neurons on tensors: the functions of `reference.neuron`, and the module for any schedule."""

from dataclasses import dataclass

import torch

from ._native import elementwise
from .activation import WithLevels, level_value, unchecked_level
from .checks import InputError, broadcasts, finite, not_above_zero, positive, tensor
from .thresholds import threshold_of


def prepare(currents, threshold):
    """Currents [T, batch, ...] with T >= 1 and a positive theta, in one format."""
    currents = finite(tensor(currents), "currents")
    if currents.ndim < 2 or len(currents) < 1:
        raise InputError(f"currents must have shape [T, batch, ...] with T >= 1, got {tuple(currents.shape)}")
    return currents, broadcasts(positive(tensor(threshold, like=currents)), currents.shape[2:])


def resting(threshold, shape, v0=None):
    """The membrane before the first step: `v0`, or else theta / 2; `shape` is [batch, ...]."""
    start = threshold / 2 if v0 is None else finite(tensor(v0, like=threshold), "v0")
    return broadcasts(start, shape, "v0").expand(shape)


def if_step(membrane, current, threshold):
    """V <- V + z; s = [V >= theta]; V <- V - theta s. Returns (s, V)."""
    membrane = membrane + current
    spike = (membrane >= threshold).to(membrane.dtype)
    return spike, membrane - threshold * spike


def bounded_step(membrane, sent, threshold, levels, lowest):
    """s = +1 if V >= theta and N < L; -1 if V < 0 and N > lowest; else 0; then V <- V - theta s. Returns (s, V)."""
    up = (membrane >= threshold) & (sent < levels)
    down = (membrane < 0) & (sent > lowest)
    spike = up.to(membrane.dtype) - down.to(membrane.dtype)
    return spike, membrane - threshold * spike


def lif_run(
    currents: torch.Tensor, threshold: float | torch.Tensor, leak: float, v0: float | torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """V <- leak V + z_t, otherwise like `if_run`; leak in [0, 1]; leak = 1 is the IF neuron (Eq. 2-8)."""
    currents, threshold = prepare(currents, threshold)
    if not 0 <= leak <= 1:
        raise InputError(f"leak must lie in [0, 1], got {leak}")
    membrane, spikes = resting(threshold, currents.shape[1:], v0), []
    for current in currents:
        spike, membrane = if_step(membrane * leak, current, threshold)
        spikes.append(spike)
    return torch.stack(spikes), membrane


def if_run(
    currents: torch.Tensor, threshold: float | torch.Tensor, v0: float | torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The integrate-and-fire neuron: (spikes [T, batch, ...], last membrane [batch, ...]).

    A spike has the value theta; outputs are means. With constant current z and T = L, the count is level(z) (T1).
    InputError for currents that are not [T >= 1, batch, ...] and finite, or a theta that is not positive.
    """
    currents, threshold = prepare(currents, threshold)
    membrane = torch.empty_like(currents[0]).copy_(resting(threshold, currents.shape[1:], v0))
    spikes = elementwise.if_run(currents, len(currents), threshold, membrane, unit=True)
    return lif_run(currents, threshold, 1, v0) if spikes is None else (spikes, membrane)


def integrate_then_fire_run(
    currents: torch.Tensor, threshold: float | torch.Tensor, lowest: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integrate all T currents from theta / 2, then fire for max(T, -lowest) steps without input (T2).

    Returns (spikes of the firing phase [max(T, -lowest), batch, ...], membrane); the count is
    clip(floor(sum z / theta + 1/2), lowest, T), its spikes all of one sign.
    """
    currents, threshold = prepare(currents, threshold)
    lowest, membrane = not_above_zero(lowest), resting(threshold, currents.shape[1:])
    for current in currents:
        membrane = membrane + current
    sent, spikes = torch.zeros_like(membrane), []
    for _ in range(max(len(currents), -lowest)):
        spike, membrane = bounded_step(membrane, sent, threshold, len(currents), lowest)
        sent = sent + spike
        spikes.append(spike)
    return torch.stack(spikes), membrane


@dataclass
class State:
    """The state of a layer of neurons in one run. The run owns it: two runs of a network share nothing."""

    steps: int = 1  # T (per phase)
    totals: bool = False  # whether inputs and outputs are totals
    now: int = 0  # steps taken so far
    sent: torch.Tensor | None = None  # levels so far: spikes, each with its sign and worth [batch, ...]
    membrane: torch.Tensor | None = None
    spike: torch.Tensor | None = None  # of the last step


class SpikingNeuron(WithLevels):
    """A layer of neurons in place of a `QCFS`: one call is one time step of a run, under any schedule.

    on totals      takes the accumulated input, returns all that was sent so far
    on increments  takes this step's current, returns what is sent in this step
    `depth` is the number of spiking layers on the longest path up to and including this one. The threshold is computed
    from the activation's own parameter, so both stay equal under `.to(dtype)`.
    """

    settings = ("levels", "lowest", "positivity", "schedule_name")

    def __init__(self, activation, schedule, depth, worths=(1,)):
        super().__init__()
        self.parameter, self.positivity = activation.parameter, activation.positivity
        self.levels, self.lowest = activation.levels, activation.lowest
        self.schedule, self.depth = schedule, depth
        self.worths = worths  # of its spikes in levels, step by step; the last is that of all further steps
        self.start: torch.Tensor | None = None  # of a calibration: first membrane, which neurons may fire
        self.fires: torch.Tensor | None = None
        self.state = State()  # of the run that calls of the network advance

    @property
    def schedule_name(self) -> str:
        """The schedule, as a state dictionary names it."""
        return self.schedule.name

    @property
    def threshold(self) -> torch.Tensor:
        """V_th = theta, computed from the trained parameter."""
        return threshold_of(self.parameter, self.positivity)

    @property
    def sent(self) -> torch.Tensor | None:
        """Spikes sent in the run that calls of the network advance."""
        return self.state.sent

    def fires_in(self, state):
        """Whether the schedule lets this layer fire in the next step."""
        return self.schedule.fires(state.now, state.steps, self.depth)

    def worth(self, now):
        """What a spike is worth in step `now` (from 0), in levels."""
        return self.worths[min(now, len(self.worths) - 1)]

    def resolution(self, state, now):
        """The count that is worth theta after `now` steps."""
        return self.schedule.resolution(now, state.steps, self.levels)

    def lowest_at(self, resolution):
        """The lowest count at a resolution."""
        return self.schedule.lowest(resolution, self.levels, self.lowest)

    def forward(self, x, state):
        if state.sent is not None and state.sent.shape != x.shape:
            shapes = f"{tuple(state.sent.shape)}, its input now {tuple(x.shape)}"
            raise InputError(f"a neuron's state is of other images (shape {shapes}): reset() first")
        theta = self.threshold.to(x.dtype)
        sent = torch.zeros_like(x) if state.sent is None else state.sent
        return (self._on_totals if state.totals else self._on_increments)(x, sent, theta, state)

    def quantised(self, z):
        """What the activation answers that it stands for: (theta level(z)) / L."""
        theta = self.threshold.to(z.dtype)
        return level_value(unchecked_level(z, theta, self.levels, lowest=self.lowest), theta, self.levels)

    def value(self, state):
        """What has been sent so far: theta N / resolution."""
        assert state.sent is not None
        return level_value(state.sent, self.threshold.to(state.sent.dtype), self.resolution(state, state.now))

    def _on_totals(self, total, sent, theta, state):
        resolution, turn = self.resolution(state, state.now + 1), state.now - self.depth * state.steps
        lowest, worth, done = self.lowest_at(resolution), self.worth(state.now), None
        if self.schedule.has_kernel and self.fires_in(state):
            native = -worth if self.schedule.settles else turn
            done = elementwise.total_step(total, sent, theta, resolution, native, lowest)
        if done is None:
            state.spike = self.schedule.on_totals(total, sent, theta, resolution, lowest, turn, worth)
            sent = sent + worth * state.spike
            done = state.spike, level_value(sent, theta, resolution)
        state.spike, state.sent, state.now = done[0], sent, state.now + 1
        return done[1]

    def _on_increments(self, current, sent, theta, state):
        membrane, given = state.membrane, None
        if membrane is None:
            given = sent  # what was sent before the first step arrives in it
            membrane = self.schedule.rest(theta, self.levels, given, self.start)
        worth = self.worth(state.now)
        if self.fires_in(state):
            resolution = self.resolution(state, state.now + 1)
            rule, lowest = self.schedule.on_increments, self.lowest_at(resolution)
            spike, state.membrane = rule(membrane, current, sent, theta, resolution, lowest, worth)
            state.spike = spike if self.fires is None else spike * self.fires
        else:
            state.spike, state.membrane = torch.zeros_like(current), membrane + current
        change = worth * state.spike
        state.sent, state.now = sent + change, state.now + 1
        return self.schedule.sends(change if given is None else change + given, theta, self.levels)

    def extra_repr(self):
        below = f", lowest={self.lowest}" if self.lowest else ""
        return f"schedule={self.schedule.name!r}, depth={self.depth}, levels={self.levels}{below}"
