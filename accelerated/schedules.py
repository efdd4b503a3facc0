"""When neurons fire: the table of `reference.schedules` on tensors; no other file compares schedules by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .activation import level_value, unchecked_level
from .checks import InputError, one_of, whole
from .neuron import bounded_step, if_step, resting
from .signed import halves, halving_membrane_step, unchecked_halving_step, whole_worths


class Schedule(NamedTuple):
    """A schedule: when neurons fire.

    on_totals(total, sent, theta, resolution, lowest, t, worth) -> spike; None if the schedule has no form on totals
    on_increments(membrane, current, sent, theta, resolution, lowest, worth) -> (spike, membrane)
    steps_to_exact(depth, levels, lowest, coarse) -> see `exact_at`
    worths, span, wait: of spikes, see `halving`; worths are (1,) for schedules without
    """

    name: str
    description: str
    on_increments: Callable
    on_totals: Callable | None = None
    waits: bool = False
    settles: bool = False
    steps_to_exact: Callable = lambda depth, levels, lowest, coarse: None
    arithmetics: tuple = ("totals", "increments")  # the first is the default
    worths: Sequence | Mapping | None = (1,)
    span: int = 0
    wait: int = 0
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

    def sends(self, change: torch.Tensor, threshold: torch.Tensor, levels: int) -> torch.Tensor:
        """The value of a change of what was sent: theta / L for each level, or theta if a layer sends means."""
        return level_value(change, threshold, levels) if self.settles else threshold * change

    def rest(
        self, threshold: torch.Tensor, levels: int, given: torch.Tensor, v0: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The membrane before the first step: half the value of a spike less that of what was `given`, or `v0`."""
        start = resting(self.sends(torch.ones_like(threshold), threshold, levels), given.shape, v0)
        return start - self.sends(given, threshold, levels)

    def worths_of(self, name: str, levels: int, depth: int, deepest: int) -> tuple:
        """The worths of a layer's spikes, step by step; the last is that of all further steps.

        A layer at `depth` (1 for the first) of `deepest` is silent for floor(wait (depth - 1) / deepest) steps (no
        spike of such a worth fits), and keeps its first worth for floor(span (depth - 1) / deepest) steps more.
        """
        own = self.worths[name] if isinstance(self.worths, Mapping) else self.worths
        own = halves(levels) if own is None else tuple(own)
        silent, same = (steps * (depth - 1) // deepest for steps in (self.wait, self.span))
        return (2 * levels + 1,) * silent + own[:1] * same + own

    def coarse(self, depth: int, levels: int) -> int:
        """K: the steps at first in which some spikes may be worth more than one level; `levels` is the largest L."""
        ladders = [*self.worths.values()] if isinstance(self.worths, Mapping) else [self.worths or halves(levels)]
        last = max((t + 1 for ladder in ladders for t, worth in enumerate(ladder) if worth > 1), default=0)
        return (last and last + self.span * (depth - 1) // depth) + self.wait * (depth - 1) // depth

    def exact_at(self, depth: int, levels: int, lowest: int = 0) -> Any:
        """A T at which every answer of a network of this depth equals the quantised one's; None if there is none."""
        return self.steps_to_exact(depth, levels, lowest, self.coarse(depth, levels))

    def known(self, layers: Sequence[str]) -> None:
        """InputError unless worths that are given by layer name exactly these layers."""
        for name in {*layers} ^ {*self.worths} if isinstance(self.worths, Mapping) else ():
            raise InputError(f"worths by layer name each spiking layer of {', '.join(layers)}; {name!r} differs")


def _if(membrane, current, sent, threshold, resolution, lowest, worth):
    if lowest < 0:
        return bounded_step(membrane + current, sent, threshold, resolution, lowest)
    return if_step(membrane, current, threshold)


def _in_phase(membrane, current, sent, threshold, resolution, lowest, worth):
    return bounded_step(membrane + current, sent, threshold, resolution, lowest)


def _in_turn(total, sent, threshold, resolution, lowest, t, worth):
    if t < 0:
        return torch.zeros_like(total)
    level = unchecked_level(total, threshold, resolution, lowest=lowest)
    return (t < level.abs()).to(total.dtype) * level.sign()


def _towards(total, sent, threshold, resolution, lowest, t, worth):
    return unchecked_halving_step(total, sent, threshold, resolution, worth, lowest)


def _after_walks(depth, levels, lowest, coarse):
    return coarse + 2 + depth * (levels - lowest - 1)


SCHEDULES = {
    schedule.name: schedule
    for schedule in (
        Schedule("streaming", "fire at once; the fastest, not exact", _if, arithmetics=("increments",)),
        Schedule("integrate-then-fire", "exact at T = L; each layer waits for the one before", _in_phase, _in_turn,
                 waits=True, steps_to_exact=lambda depth, levels, lowest, coarse: levels,
                 arithmetics=("totals", "increments", "theorem"), has_kernel=True),
        Schedule("signed", "a spike can be taken back; exact once it has settled", halving_membrane_step, _towards,
                 settles=True, steps_to_exact=_after_walks, has_kernel=True),
        Schedule("halving", "as signed, but the first spikes are worth more; exact and early", halving_membrane_step,
                 _towards, settles=True, steps_to_exact=_after_walks, worths=None, has_kernel=True),
    )
}  # fmt: skip


def halving(worths: Sequence | Mapping | None = None, span: int = 0, wait: int = 0) -> Schedule:
    """The halving schedule with these worths: of spikes, in levels, step by step, 1 after the last (T6).

    Worths are any sequence that ends in 1, one for all layers or {layer: its own}; None is L, L/2, ..., 1, or the
    powers of two below L where L is none. While a worth is above L, a layer is silent. With a `span`, layers go to
    their next worth later the deeper they are, the last ones by up to `span` steps, which is early; with a `wait` they
    begin to fire later, by up to `wait` steps, which takes fewer spikes. InputError for other worths.
    """
    if isinstance(worths, Mapping):
        worths = {name: whole_worths(own) for name, own in worths.items()}
    elif worths is not None:
        worths = whole_worths(worths)
    span, wait = whole(span, "span", least=0), whole(wait, "wait", least=0)
    return SCHEDULES["halving"]._replace(worths=worths, span=span, wait=wait)


def schedule_of(schedule: str | Schedule) -> Schedule:
    """The `Schedule` of a name; a `Schedule` is returned unchanged. InputError for an unknown name."""
    return schedule if isinstance(schedule, Schedule) else SCHEDULES[one_of(schedule, SCHEDULES, "schedule")]


def arithmetic_of(schedule: Schedule, arithmetic: str | None) -> str:
    """How a run carries its state: None means the schedule's default; InputError for one that it does not have."""
    default, *_ = schedule.arithmetics
    return one_of(arithmetic or default, schedule.arithmetics, f"arithmetic of schedule {schedule.name!r}:")
