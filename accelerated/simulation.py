"""Run a spiking network step by step: `reference.simulation` on a graph of torch modules.

An operator is computed only when its value is read: the same operator on the same numbers gives the same bits.
Schedules and arithmetics: see `reference.simulation`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple, overload

import torch
from torch import nn
from torch.utils._pytree import tree_map, tree_map_only

from .activation import qcfs_counts
from .anytime import begun, joined
from .checks import InputError, one_of, whole
from .conversion import SpikingNetwork, exact_levels
from .engines import ENGINES, EXACT, engine_named
from .engines.structure import images_lead, propagate
from .frames import mean_frame, sequence, together
from .graph.trace import evaluating, layer_name
from .network import answer, images
from .neuron import State
from .schedules import arithmetic_of
from .sums import held, is_whole


class Recorded(NamedTuple):
    """What a layer did in every step: spikes [steps, batch, ...]; membranes likewise, None on totals."""

    spikes: torch.Tensor
    membranes: torch.Tensor | None


@dataclass(repr=False)
class Simulation:
    """The result of a run; its repr shows the short fields.

    logits                  [steps, batch, classes]; the last row is the answer. Of a network with several outputs, a
                            tuple or dictionary of such tensors, nested as the network returns them
    counts                  {layer: levels sent}, int32 [batch, ...]: its spikes, each with its sign and worth
    emitted                 {layer: number of spikes of either sign, including pre-steps}
    latency                 steps from the image to the answer
    spikes_per_neuron       per image; a negative spike counts as one spike
    settled_at              last step in which a unit of the sample fired [batch]; None if the schedule does not settle.
                            Spikes of a layer whose first axis is not the batch count for every sample
    settled                 whether nothing fired in the last step, all spikes worth 1; None if the schedule does not
                            settle
    units_that_differ       share of (sample, unit) pairs whose count is not the quantised network's level, or None
    units_that_differ_last  the same for the last spiking layer alone
    nonzero_share           {layer: share of counts that are not 0}
    recorded                {layer: `Recorded`} of the layers in `record`
    """

    logits: torch.Tensor
    counts: dict
    emitted: dict
    latency: int
    spikes_per_neuron: float
    settled_at: torch.Tensor | None
    settled: bool | None
    units_that_differ: float | None
    units_that_differ_last: float | None
    nonzero_share: dict
    recorded: dict = field(default_factory=dict)

    def __repr__(self):
        names = ("latency", "settled", "units_that_differ", "spikes_per_neuron", "nonzero_share")
        shown = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        shapes = tree_map_only(torch.Tensor, lambda logits: tuple(logits.shape), self.logits)
        return f"Simulation({shown}, logits {shapes}, counts of {len(self.counts)} layers)"


def visit_levels(network, x, see, levels=None):
    """The logits of the quantised network from which this one was converted; `levels`, if given, replaces its own.

    Calls see(name, level(z) as int32, the sum of their sizes, the number that are not 0) for each spiking layer.
    """

    def neuron(name, module, z):
        resolution = levels or module.levels
        lowest = module.lowest_at(resolution)
        value, *seen = qcfs_counts(z, module.threshold.to(z.dtype), resolution, lowest=lowest)
        see(name, *seen)
        return value

    return propagate(network, x, neuron)


def ann_levels(network, x):
    """{layer: level(z) as int32} of the quantised network from which this one was converted."""
    levels: dict = {}
    visit_levels(network, x, lambda name, level, *_: levels.update({name: level}))
    return levels


def differing(network, x, counts):
    """{layer: number of units, over all samples, whose count is not the quantised network's level}; keeps no copy."""
    differ: dict = {}
    visit_levels(network, x, lambda name, level, *_: differ.update({name: int((counts[name] != level).sum())}))
    return differ


def _chunks(network, run, times):
    """The logits of an engine's run, None before the last phase; steps come in chunks, `times` among their ends."""
    now = 0
    yield from [None] * ((network.phases - 1) * max(times))
    for steps in sorted(times):
        while now < steps:
            count = min(run.at_once, steps - now)
            rows = run.steps(count)
            for i in range(count):
                yield tree_map_only(torch.Tensor, itemgetter(i), rows)
            now += count


def _stepped(network, run, frames, steps, seen):
    """The logits of a run step by step; None before the last phase. The last of `frames` stays."""
    frames = frames.unbind()  # once: a frame that stays is seen to be the same
    for now in range(network.phases * steps):
        yield run.step(frames[min(now, len(frames) - 1)], now, seen, wanted=now // steps == network.phases - 1)


def _checked(network, x, times, arithmetic, record, engine, start):
    """The arithmetic of a run, or InputError."""
    schedule = network.schedule
    exact = EXACT, f"engine of schedule {schedule.name!r}:"
    one_of(engine or "dense", *((ENGINES, "engine") if schedule.streams else exact))
    if engine == "event" and schedule.waits and {neuron.levels for neuron in network.layers.values()} != {*times}:
        raise InputError(
            f"engine 'event' runs {schedule.name!r} at T = L, the same in all layers, got T = {max(times)}"
        )
    for name in record:
        one_of(name, network.layers, "layer to record")
    if start is not None and engine not in (None, "dense"):
        raise InputError(f"no engine goes on from another run: choose none, got {engine!r}")
    if engine == "event" and not schedule.streams and arithmetic not in (None, "increments"):
        raise InputError(f"engine 'event' runs on increments: choose no other arithmetic, got {arithmetic!r}")
    arithmetic = arithmetic_of(schedule, arithmetic)
    if record and (engine not in (None, "dense") or arithmetic == "theorem"):
        raise InputError(f"what is recorded is stepped: choose no engine and no theorem, got {engine or arithmetic!r}")
    if network.images is not None and not torch.equal(network.images, x):
        raise InputError("a calibrated network simulates the images that it was calibrated on: calibrate it for these")
    for name, neuron in network.layers.items():
        counted, most = "levels" if schedule.settles else "steps", max(times)
        exact_levels(schedule.resolution(most, most, neuron.levels), x.dtype, name, counted)
    held(network.graph, x.dtype, max(times) if arithmetic == "increments" and schedule.waits else 1)
    return arithmetic


def _by_theorem(network, x, steps):
    """Integrate-then-fire without its steps: by T2, counts are the levels in one pass of the network at T levels."""
    counts: dict = {}
    spikes: dict = {}

    def see(name, level, total, some):
        counts[name], spikes[name] = level, (total, some)

    logits = visit_levels(network, x, see, steps)
    return Simulation(
        logits=tree_map_only(torch.Tensor, itemgetter(None), logits), counts=counts,
        emitted={name: count.abs() for name, count in counts.items()},
        latency=network.phases * steps,
        spikes_per_neuron=sum(total for total, _ in spikes.values()) / sum(c.numel() for c in counts.values()),
        settled_at=None, settled=None, units_that_differ=None, units_that_differ_last=None,
        nonzero_share={name: some / counts[name].numel() for name, (_, some) in spikes.items()},
    )  # fmt: skip


class _Seen:
    """Observes a run: spikes emitted, the last step in which each sample fired, and recorded layers."""

    def __init__(self, network, x, states, record):
        self.network, self.x = network, x
        self.emitted, self.settles = dict(network.pre_spikes), network.schedule.settles
        self.signed = self.settles or any(neuron.lowest for neuron in network.layers.values())
        self.settled_at = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.states = states
        self.record: dict = {name: ([], []) for name in record}

    def __call__(self, name, spike, now):
        if self.signed:  # otherwise the count says how many spikes were emitted
            some = spike != 0
            self.emitted[name] = self.emitted.get(name, 0) + some.int()
            if self.settles:
                self.settled_at[self._of_samples(name, some)] = now + 1
        if name in self.record:
            state, (spikes, membranes) = self.states[name], self.record[name]
            silent = now - len(spikes)  # steps in which it could not fire, or nothing fired
            spikes += [*[torch.zeros_like(spike)] * silent, spike.clone()]
            if state.membrane is not None:
                membranes.append(state.membrane.clone())

    def observed(self, run):
        """Use what an engine of exact schedules observes itself."""
        if not self.network.schedule.streams:
            self.emitted, self.settled_at, self.signed = run.emitted, run.settled_at, True

    def _of_samples(self, name, some):
        """Which samples have some spikes [batch]."""
        nodes, _ = images_lead(self.network, self.x)
        leads = nodes is None or any(layer_name(node) == name for node in nodes if node.op == "call_module")
        return some.reshape(len(self.x), -1).any(dim=1) if leads else some.any().expand(len(self.x))

    def recorded(self, steps):
        """{layer: `Recorded`} of the first `steps` steps, silent steps at the end included."""
        found = {}
        for name, (spikes, membranes) in self.record.items():
            spikes = spikes + [torch.zeros_like(spikes[0])] * (steps - len(spikes))
            found[name] = Recorded(torch.stack(spikes[:steps]), torch.stack(membranes[:steps]) if membranes else None)
        return found


def _stacked(*outputs):
    """One output over the steps; what is no tensor (a None, a size) stays what it is."""
    return torch.stack(outputs) if isinstance(outputs[0], torch.Tensor) else outputs[-1]


def _result(network, x, states, rows, steps, seen):
    """The `Simulation` of a run so far, its counts compared with levels where they should be equal."""
    for name, state in states.items():
        if any(part is not None and part.isnan().any() for part in (state.sent, state.membrane)):
            raise InputError(
                f"{name}: its input overflowed in {state.sent.dtype} on the way; simulate in a wider format"
            )
    counts = {name: state.sent.to(torch.int32, copy=True) for name, state in states.items()}  # the run may go on
    emitted, settles = {name: spikes.clone() for name, spikes in seen.emitted.items()}, network.schedule.settles
    if not seen.signed:
        emitted = {name: count + emitted[name] if name in emitted else count for name, count in counts.items()}
    compared = x is not None and (settles or all(neuron.levels == steps for neuron in network.layers.values()))
    differ = differing(network, x, counts) if compared else {}
    last = list(network.layers)[-1]
    neurons = sum(count.numel() for count in counts.values())
    settled_at = seen.settled_at.clone()
    return Simulation(
        logits=tree_map(_stacked, *rows[-steps:]),
        counts=counts,
        emitted=emitted,
        latency=int(settled_at.max()) if settles else network.pre_steps + len(rows),
        spikes_per_neuron=sum(int(spikes.sum()) for spikes in emitted.values()) / neurons,
        settled_at=settled_at if settles else None,
        settled=bool((settled_at < steps).all()) and network.coarse < steps if settles else None,
        units_that_differ=sum(differ.values()) / neurons if compared else None,
        units_that_differ_last=differ[last] / counts[last].numel() if compared else None,
        nonzero_share={name: (count != 0).double().mean().item() for name, count in counts.items()},
        recorded=seen.recorded(len(rows)),
    )


@torch.no_grad()
def simulate_at(network, x, times, arithmetic=None, record=(), start=None, frames=False, engine=None):
    """Yield (T, result of `simulate` for T) for several T, in order; in one run, unless the schedule waits."""
    if network.schedule.waits and len(times) > 1:  # T is the length of a phase
        for steps in times:
            yield steps, simulate(network, x, steps, arithmetic, record, start, frames, engine)
        return
    shown = sequence(network, x, times, engine) if frames else images(network, x)[None]
    x = mean_frame(shown)
    arithmetic = _checked(network, x, times, arithmetic, record, engine, start)
    sent = begun(network, x, start)
    with evaluating(network):
        if arithmetic == "theorem":
            yield times[0], _by_theorem(network, x, times[0])
            return
        rows: list = []
        kind = None if record or len(shown) > 1 else engine_named(engine or "dense", network.schedule)
        layerwise = kind and kind(network, x)
        if layerwise and layerwise.foldable:
            states, seen = layerwise.states, _Seen(network, x, {}, ())
            seen.observed(layerwise)
            run = _chunks(network, layerwise, times)
        else:
            states = {name: State(max(times), arithmetic == "totals", sent=sent.get(name)) for name in network.layers}
            stepped, states = network.begin(x, max(times), arithmetic, states)
            seen = _Seen(network, x, states, record)
            run = _stepped(network, stepped, shown, max(times), seen)
        compared = None if len(shown) > 1 and is_whole(network.graph) else x  # the mean of whole pixels is no image
        for logits in run:
            rows.append(logits)
            steps = len(rows) // network.phases
            if steps * network.phases == len(rows) and steps in times:
                found = _result(network, compared, states, rows, steps, seen)
                yield steps, found if start is None else joined(start, found)


def simulate(
    network: SpikingNetwork,
    x: torch.Tensor,
    steps: int | None = None,
    arithmetic: str | None = None,
    record: Sequence[str] = (),
    start: Simulation | None = None,
    frames: bool = False,
    engine: str | None = None,
) -> Simulation:
    """Simulate a spiking network on images x [batch, ...]; returns a `Simulation`. The network stays as it is.

    `steps` is T (streaming), T per phase (integrate-then-fire: (D + 1) T steps in all) or the steps simulated
    (signed, halving); by default as many as make the answer exact, and L where none do. `arithmetic` is "totals"
    (default, except under streaming), "increments" (streaming has no other), or "theorem": the counts and last logits
    of integrate-then-fire by T2, from one pass and without steps. `engine` is "dense" (PyTorch; the default) or "event"
    (on the CPU, layers with spikes as input add the weights of those that fired and skip the rest: sums in another
    order, and exact schedules in whole numbers alone, where the order does not matter); while streaming also "auto"
    (per layer, the faster one in the first steps) or "graph" (on a CUDA device, dense steps recorded once and
    replayed). `record` names layers whose spikes and membranes are kept for every step
    (`Recorded`). `start` is what a streaming network sent for the same images in T steps, where T divides each L: from
    there a network that settles goes on (T6), and steps, spikes and logits of both are reported. With `frames`, x is a
    sequence [T, batch, ...]: a streaming network sees its next frame in each step, any other waits for all of them and
    sees their mean (derivations 16).
    InputError for steps < 1, images that are not finite or do not fit, and counts that the format cannot hold.
    """
    if not isinstance(network, SpikingNetwork):
        raise InputError(f"simulate takes a spiking network, got {type(network).__name__}: convert it first")
    x = together(x) if frames else x
    if steps is None:
        steps = len(x) if frames and network.schedule.streams and x.ndim else network.steps
    steps = whole(steps, "steps")
    return dict(simulate_at(network, x, [steps], arithmetic, record, start, frames, engine))[steps]


@overload
def evaluate(network: SpikingNetwork, batches: Iterable, steps: int, engine: str | None = None) -> list[float]: ...
@overload
def evaluate(network: nn.Module, batches: Iterable, steps: None = None, engine: str | None = None) -> float: ...
def evaluate(network, batches, steps=None, engine=None):
    """The accuracy over all (images, labels) of `batches`, a DataLoader for instance; labels are class numbers.

    For a spiking network a list: the accuracy after each of `steps` steps (of the last phase, if there are phases). For
    any other network one number; `steps` is then not given. InputError if there are no images.
    """
    spiking = isinstance(network, SpikingNetwork)
    if spiking != (steps is not None):
        kind = "a spiking network" if spiking else "a network that does not spike"
        raise InputError(f"steps must be given for spiking networks and for no others, got {steps!r} for {kind}")
    right, images_seen = torch.zeros(steps or 1, dtype=torch.long), 0
    for x, y in batches:
        logits = simulate(network, x, steps, engine=engine).logits if spiking else answer(network, x)
        if not isinstance(logits, torch.Tensor):
            raise InputError("accuracy is that of one output; this network has several: simulate it, and choose")
        logits = logits if spiking else logits[None]
        right += (logits.argmax(-1) == torch.as_tensor(y, device=logits.device)).sum(dim=1).cpu()
        images_seen += len(x)
    if not images_seen:
        raise InputError("there are no images to evaluate on: the batches are empty")
    shares = (right.double() / images_seen).tolist()
    return shares if spiking else shares[0]
