"""When neurons fire: the table of `reference.schedules` on tensors; no other file compares schedules by name."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from .activation import level_value, unchecked_level
from .checks import one_of
from .neuron import bounded_step, if_step, resting, signed_membrane_step


class Schedule(NamedTuple):
    """A schedule: when neurons fire.

    on_totals(total, sent, theta, resolution, lowest, t) -> spike; None if the schedule has no form on totals
    on_increments(membrane, current, sent, theta, resolution, lowest) -> (spike, membrane)
    exact_at(depth, levels, lowest) -> a T at which every answer equals the quantised network's; None if there is none
    """

    name: str
    description: str
    on_increments: Callable
    on_totals: Callable | None = None
    waits: bool = False
    settles: bool = False
    exact_at: Callable = lambda depth, levels, lowest=0: None
    arithmetics: tuple = ("totals", "increments")  # the first is the default
    has_kernel: bool = False  # whether native kernels implement `on_totals`

    @property
    def streams(self) -> bool:
        """Whether a layer sends means over the steps so far, as the published networks do."""
        return not (self.waits or self.settles)

    def phases(self, depth: int) -> int:
        """The number of phases of T steps until the answer of a network with `depth` spiking layers."""
        return depth + 1 if self.waits else 1

    def fires(self, now: int, steps: int, depth: int) -> bool:
        """Whether a layer may fire in step `now` (from 0): always, or in its own phase if the schedule waits."""
        return not self.waits or now // steps == depth

    def resolution(self, t: int, steps: int, levels: int) -> int:
        """The count whose value is theta after t steps."""
        return levels if self.settles else steps if self.waits else t

    def lowest(self, resolution: int, levels: int, lowest: int) -> int:
        """The lowest count at this resolution: floor(lowest resolution / L)."""
        return lowest * resolution // levels

    def due(self, now: int, steps: int, depth: int) -> bool:
        """Whether a constant input (a bias, the image) enters in step `now`."""
        if self.settles:
            return now == 0
        return not self.waits or now // steps == depth

    def images(self, now: int, steps: int) -> int:
        """How many presentations of the image a sum of increments holds in step `now`."""
        return 1 if self.settles else steps if self.waits else now + 1

    def rest(self, threshold: torch.Tensor, shape: Sequence[int], v0: torch.Tensor | None = None) -> torch.Tensor:
        """The membrane before the first step: half the value of a spike, unless a calibration set `v0`."""
        return threshold.new_full(shape, 0.5) if self.settles else resting(threshold, shape, v0)

    def sends(self, spike: torch.Tensor, threshold: torch.Tensor, levels: int) -> torch.Tensor:
        """The value of a spike in a step of increments: theta / L, or theta if a layer sends means."""
        return level_value(spike, threshold, levels) if self.settles else threshold * spike


def _if(membrane, current, sent, threshold, resolution, lowest):
    if lowest < 0:
        return bounded_step(membrane + current, sent, threshold, resolution, lowest)
    return if_step(membrane, current, threshold)


def _in_phase(membrane, current, sent, threshold, resolution, lowest):
    return bounded_step(membrane + current, sent, threshold, resolution, lowest)


def _in_turn(total, sent, threshold, resolution, lowest, t):
    if t < 0:
        return torch.zeros_like(total)
    level = unchecked_level(total, threshold, resolution, lowest=lowest)
    return (t < level.abs()).to(total.dtype) * level.sign()


def _towards(total, sent, threshold, resolution, lowest, t):
    return torch.clamp(unchecked_level(total, threshold, resolution, lowest=lowest) - sent, -1, 1)


SCHEDULES = {
    schedule.name: schedule
    for schedule in (
        Schedule("streaming", "fire at once; the fastest, not exact", _if, arithmetics=("increments",)),
        Schedule("integrate-then-fire", "exact at T = L; each layer waits for the one before", _in_phase, _in_turn,
                 waits=True, exact_at=lambda depth, levels, lowest=0: levels,
                 arithmetics=("totals", "increments", "theorem"), has_kernel=True),
        Schedule("signed", "a spike can be taken back; exact once it has settled", signed_membrane_step, _towards,
                 settles=True, exact_at=lambda depth, levels, lowest=0: 2 + depth * (levels - lowest - 1),
                 has_kernel=True),
    )
}  # fmt: skip


def schedule_of(schedule: str | Schedule) -> Schedule:
    """The `Schedule` of a name; a `Schedule` is returned unchanged. InputError for an unknown name."""
    return schedule if isinstance(schedule, Schedule) else SCHEDULES[one_of(schedule, SCHEDULES, "schedule")]


def arithmetic_of(schedule: Schedule, arithmetic: str | None) -> str:
    """How a run carries its state: None means the schedule's default; InputError for one that it does not have."""
    default, *_ = schedule.arithmetics
    return one_of(arithmetic or default, schedule.arithmetics, f"arithmetic of schedule {schedule.name!r}:")
