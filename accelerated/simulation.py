"""Run a spiking network step by step: `reference.simulation` on a graph of torch modules.

An operator is computed only where its value is asked for: the same operator on the same numbers gives the same bits.
Schedules and arithmetics: see `reference.simulation`.
"""

from dataclasses import dataclass

import torch

from .activation import level_value, qcfs_counts
from .checks import InputError, one_of, whole
from .conversion import SpikingNetwork, exact_levels
from .engines import ENGINES, engine_named
from .engines.structure import read_last, sources_of
from .engines.totals import totals
from .graph.trace import evaluate, layer_name, module_of, output_of
from .increments import Increments
from .network import images
from .neuron import SpikingNeuron


@dataclass(repr=False)
class Simulation:
    """What came out of a run; printed, it shows what is short enough."""

    logits: torch.Tensor  # [steps, batch, classes]; the last row is the answer
    counts: dict  # layer -> spikes sent, int32 [batch, ...]; signed: +1 minus -1
    emitted: dict  # layer -> the same with -1 counted as a spike, and with the spikes of pre-steps
    latency: int  # steps, end to end
    spikes_per_neuron: float  # per image; a negative spike counts as one
    settled_at: torch.Tensor | None  # signed: the last step in which a unit of the sample fired [batch]
    settled: bool | None  # signed: no sample fired in the last step
    units_that_differ: float | None  # share of (sample, unit) pairs whose count is not the ANN's level
    units_that_differ_last: float | None  # the same for the last spiking layer alone
    nonzero_share: dict  # layer -> share of counts that are not 0

    def __repr__(self):
        names = ("latency", "settled", "units_that_differ", "spikes_per_neuron", "nonzero_share")
        shown = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"Simulation({shown}, logits {tuple(self.logits.shape)}, counts of {len(self.counts)} layers)"


def propagate(network, x, neuron, nodes=None):
    """The answer, with `neuron(name, module, total)` giving what a spiking node has sent.

    `nodes` are those that it is made of, if not all; values are dropped as soon as nobody reads them any more.
    """
    values, nodes = {}, list(network.graph.graph.nodes if nodes is None else nodes)
    done = read_last(nodes)
    for node in nodes:
        module = module_of(network.graph, node)
        if isinstance(module, SpikingNeuron):
            total = values.get(node.all_input_nodes[0])
            values[node] = neuron(layer_name(node), module, total)
        elif node.op == "placeholder":
            values[node] = x
        elif node.op == "output":
            return values[node.all_input_nodes[0]]
        else:
            values[node] = evaluate(network.graph, node, values)
        for source in done.get(node, ()):
            values.pop(source, None)
    return values[nodes[-1]]


def settling_steps(depth, levels):
    """1 + D (L - 1): the steps within which a signed network settles; one silent step more shows it (T5)."""
    return 1 + depth * (levels - 1)


def read_out_early(logits, margin):
    """(answer, step) of each sample: read out in the first step in which its best class leads by `margin` in softmax.

    logits [T, batch, classes] of a streaming simulation; a sample that never leads so far is read out at T.
    """
    best = logits.softmax(-1).topk(2, dim=-1).values
    sure = best[..., 0] - best[..., 1] >= margin
    sure[-1] = True
    step = sure.int().argmax(dim=0)
    return logits.argmax(-1).gather(0, step[None])[0], step + 1


def visit_levels(network, x, see, levels=None):
    """The logits of the quantised network that this one came from; of each spiking layer see(name, level(z) as int32,
    their sum, how many are not 0).

    `levels`: as if all its layers had so many, and not their own.
    """

    def neuron(name, module, z):
        value, *seen = qcfs_counts(z, module.threshold.to(z.dtype), levels or module.levels)
        see(name, *seen)
        return value

    return propagate(network, x, neuron)


def ann_levels(network, x):
    """{layer: level(z) as int32} of the quantised network that this one came from."""
    levels: dict = {}
    visit_levels(network, x, lambda name, level, *_: levels.update({name: level}))
    return levels


def differing(network, x, counts):
    """{layer: units of all samples whose count is not the quantised network's level}; no second copy is held."""
    differ: dict = {}
    visit_levels(network, x, lambda name, level, *_: differ.update({name: int((counts[name] != level).sum())}))
    return differ


def increments(network, x, steps, fired):
    """Each neuron sums what is new into its membrane; the logits are read out of what was sent in total."""
    operators, answer = Increments(network, steps), output_of(network.graph)
    reads = sources_of(network, [answer])
    ending = [node for node in network.graph.graph.nodes if node in reads]

    def sent(_, module, __):
        theta = module.threshold.to(module.sent.dtype)
        return level_value(module.sent, theta, module.resolution(module.now))

    nodes = list(network.graph.graph.nodes)
    done = read_last(nodes)
    for now in range(network.phases * steps):
        values = {}
        for node in nodes:
            module = module_of(network.graph, node)
            if isinstance(module, SpikingNeuron):
                values[node] = module(values[node.all_input_nodes[0]])
                fired(layer_name(node), module.spike, now)
                module.spike = None
            elif node.op == "placeholder":
                values[node] = operators.image(x, now)
            elif node.op != "output":
                values[node] = operators(node, values, now)
            for source in done.get(node, ()):
                del values[source]
        yield propagate(network, x, sent, ending)


def _chunks(network, x, times, engine):
    """The streaming run layer by layer, some steps at once; it stops at each of `times` with the state of that T."""
    run, now = engine_named(engine)(network, x), 0
    if not run.foldable:
        yield from increments(network, x, max(times), lambda *_: None)
        return
    for steps in sorted(times):
        while now < steps:
            count = min(run.at_once, steps - now)
            yield from run.steps(count)
            now += count


def _checked(network, x, times, arithmetic):
    """(images, arithmetic) of a run, or InputError."""
    x, schedule = images(network, x), network.schedule
    arithmetic = arithmetic or ("increments" if schedule == "streaming" else "totals")
    one_of(arithmetic, ("totals", "increments", "theorem"), "arithmetic")
    if arithmetic == "theorem" and schedule != "integrate-then-fire":
        raise InputError(f"arithmetic 'theorem' is for integrate-then-fire, whose counts T2 gives; got {schedule!r}")
    if schedule == "streaming" and arithmetic == "totals":
        raise InputError("streaming neurons carry increments: arithmetic must be 'increments', got 'totals'")
    if network.images is not None and not torch.equal(network.images, x):
        raise InputError("a calibrated network simulates the images that it was calibrated on: calibrate it for these")
    for name, neuron in network.layers.items():
        signed = schedule == "signed"
        exact_levels(neuron.levels if signed else max(times), x.dtype, name, "levels" if signed else "steps")
    return x, arithmetic


def _by_theorem(network, x, steps):
    """Integrate-then-fire without its steps: by T2 counts are the levels of one pass of the network at T levels."""
    counts: dict = {}
    spikes: dict = {}

    def see(name, level, total, some):
        counts[name], spikes[name] = level, (total, some)

    logits = visit_levels(network, x, see, steps)
    return Simulation(
        logits=logits[None], counts=counts, emitted=dict(counts), latency=network.phases * steps,
        spikes_per_neuron=sum(total for total, _ in spikes.values()) / sum(c.numel() for c in counts.values()),
        settled_at=None, settled=None, units_that_differ=None, units_that_differ_last=None,
        nonzero_share={name: some / counts[name].numel() for name, (_, some) in spikes.items()},
    )  # fmt: skip


class _Spikes:
    """What has been fired so far: by layer, and the last step in which a unit of each sample fired."""

    def __init__(self, network, x):
        self.emitted, self.signed = dict(network.pre_spikes), network.schedule == "signed"
        self.settled_at = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def __call__(self, name, spike, now):
        if len(spike) != len(self.settled_at):
            raise InputError(f"{name}: its first axis holds {len(spike)}, not the batch of {len(self.settled_at)}")
        if self.signed:  # otherwise what was emitted is what was sent
            some = spike != 0
            self.emitted[name] = self.emitted.get(name, 0) + some.int()
            self.settled_at[some.reshape(len(spike), -1).any(dim=1)] = now + 1


def _result(network, x, rows, steps, fired, compared):
    """The `Simulation` of a run as it stands; `compared`: whether its counts ought to be levels."""
    for name, neuron in network.layers.items():
        if neuron.sent.isnan().any():
            raise InputError(
                f"{name}: its input overflowed in {neuron.sent.dtype} on the way; simulate in a wider format"
            )
    counts = {name: neuron.sent.int() for name, neuron in network.layers.items()}
    emitted = dict(fired.emitted)
    if not fired.signed:
        emitted = {name: count + emitted[name] if name in emitted else count for name, count in counts.items()}
    differ = differing(network, x, counts) if compared else {}
    last = list(network.layers)[-1]
    neurons = sum(count.numel() for count in counts.values())
    settled_at = fired.settled_at.clone()
    return Simulation(
        logits=torch.stack(rows[-steps:]),
        counts=counts,
        emitted=emitted,
        latency=int(settled_at.max()) if fired.signed else network.pre_steps + len(rows),
        spikes_per_neuron=sum(int(spikes.sum()) for spikes in emitted.values()) / neurons,
        settled_at=settled_at if fired.signed else None,
        settled=bool((settled_at < steps).all()) if fired.signed else None,
        units_that_differ=sum(differ.values()) / neurons if compared else None,
        units_that_differ_last=differ[last] / counts[last].numel() if compared else None,
        nonzero_share={name: (count != 0).double().mean().item() for name, count in counts.items()},
    )


@torch.no_grad()
def simulate_at(network, x, times, arithmetic=None, engine="dense"):
    """Yield (T, what `simulate` gives for T) for several T, in order; one run where a shorter one is its beginning.

    The network carries the run's state until the last is taken.
    """
    if network.schedule == "integrate-then-fire" and len(times) > 1:  # T is the length of a phase
        for steps in times:
            yield steps, simulate(network, x, steps, arithmetic, engine)
        return
    one_of(engine, ENGINES, "engine")
    x, arithmetic = _checked(network, x, times, arithmetic)
    if arithmetic == "theorem":
        yield times[0], _by_theorem(network.eval(), x, times[0])
        return
    network.eval().reset(max(times), arithmetic)
    fired, rows = _Spikes(network, x), []
    if network.schedule == "streaming":
        run = _chunks(network, x, times, engine)
    else:
        run = (totals if arithmetic == "totals" else increments)(network, x, max(times), fired)
    for logits in run:
        rows.append(logits)
        steps = len(rows) // network.phases
        if steps * network.phases == len(rows) and steps in times:
            same = fired.signed or all(neuron.levels == steps for neuron in network.layers.values())
            yield steps, _result(network, x, rows, steps, fired, same)
    network.reset()


def simulate(network, x, steps, arithmetic=None, engine="dense"):
    """Simulate a spiking network on images x [batch, ...]; returns a `Simulation`.

    `steps` is T (streaming), T per phase (integrate-then-fire: (D + 1) T steps in all) or the steps simulated
    (signed). `arithmetic` is "totals" (default, but for streaming), "increments" (streaming has no other), or
    "theorem": the counts and the last logits that integrate-then-fire has by T2, from one pass, without any step.
    `engine` is for streaming: "dense" (PyTorch), "event" (on the CPU, layers that see spikes add weights for what
    fired and skip the rest: sums in another order), "auto" (by layer, what was faster in the first steps) or "graph"
    (on a CUDA device, dense steps recorded once and replayed).
    InputError for steps < 1, images that are not finite or do not fit, and counts that the format cannot hold.
    """
    if not isinstance(network, SpikingNetwork):
        raise InputError(f"simulate takes a spiking network, got {type(network).__name__}: convert it first")
    return dict(simulate_at(network, x, [whole(steps, "steps")], arithmetic, engine))[steps]
