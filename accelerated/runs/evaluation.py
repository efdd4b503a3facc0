"""The test images through the spiking networks of a run: one row of results for each way of simulating."""

from itertools import chain
from typing import NamedTuple

import torch

from .. import data as datasets
from ..anytime import read_out_early
from ..calibration import calibrate
from ..conversion import convert, fold_batch_norms
from ..energy import energy
from ..integers import integers
from ..schedules import SCHEDULES, Schedule, halving
from ..simulation import simulate_at
from ..worths import choose_halving
from . import distributed
from .validation import on_events, schedule_with

LEAST_ACTIVE = 0.01  # smallest share of active neurons, in every layer, for an equality to be meaningful
ROUNDED_ON = 512  # training images on which whole numbers keep the means
CHOSEN_ON = 64  # training images on which worths are chosen
AVERAGED = (
    "units_that_differ", "units_that_differ_last", "spikes_per_neuron", "acs", "macs", "joules", "ann_joules",
    "totals_joules", "settled_at", "whole_joules", "rival_joules", "whole_memory", "rival_memory", "break_even",
)  # fmt: skip


def laid_out(config, batches):
    """The batches in the memory format of the settings."""
    for x, y in batches:
        yield (x.contiguous(memory_format=torch.channels_last) if config.channels_last else x), y


def shown(config, data, part, count=0):
    """This process's share of the batches of the first `count` (0: all) images of a part, not augmented."""
    total = len(data.train_y if part == "train" else data.test_y)
    rows = distributed.share(torch.arange(min(count or total, total)))
    chosen = [chunk for chunk in rows.split(config.test_batch) if len(chunk)]
    return laid_out(config, datasets.batches(data, part, chosen, config.device, workers=config.workers))


def converted(config, data, network):
    """The network that a run converts: batch norm folded, in whole numbers if its settings ask for them."""
    folded = fold_batch_norms(network)
    return in_whole_numbers(config, data, folded, config.bits) if config.bits else folded


def in_whole_numbers(config, data, network, bits):
    """A quantised network with weights of so many bits."""
    sample = datasets.first(data, "train", ROUNDED_ON, config.device)
    return integers(network, sample, bits, data.mean, data.std, data.most)


class Tally:
    """One row of results over many batches: shares weighted by images.

    `equal`: the number of images with the quantised network's logits bit for bit; `agreeing`: with its answer.
    """

    def __init__(self, **what):
        self.what, self.parts, self.right, self.equal, self.agreeing = what, [], 0, 0, 0

    def add(self, spiking, x, y, result, expected):
        """Add a batch: its simulation, and the quantised network's logits."""
        logits = result.logits[-1]
        self.right += int((logits.argmax(1) == y).sum())
        self.equal += int((logits == expected).all(1).sum())
        self.agreeing += int((logits.argmax(1) == expected.argmax(1)).sum())
        cost, settled_at = energy(spiking, x, result), result.settled_at
        self.parts.append((len(x), {
            "units_that_differ": result.units_that_differ, "units_that_differ_last": result.units_that_differ_last,
            "spikes_per_neuron": result.spikes_per_neuron, "nonzero_share": result.nonzero_share,
            "latency": result.latency, "settled": result.settled, "acs": sum(cost.acs.values()),
            "settled_at": None if settled_at is None else float(settled_at.double().mean()),
            "macs": sum(cost.macs.values()), "joules": cost.joules, "ann_joules": cost.ann_joules,
            "totals_joules": cost.totals_joules, "whole_joules": cost.whole_joules,
            "rival_joules": cost.rival_joules, "whole_memory": cost.whole_memory, "rival_memory": cost.rival_memory,
            "break_even": cost.break_even * result.spikes_per_neuron,
        }))  # fmt: skip

    def row(self):
        """The row, over the batches of all processes."""
        gathered = distributed.gather((self.parts, self.right, self.equal, self.agreeing))
        parts = [part for shares, *_ in gathered for part in shares]
        right, equal, agreeing = (sum(counts) for counts in list(zip(*gathered, strict=True))[1:])
        images = sum(n for n, _ in parts)

        def mean(pick):
            values = [(n, pick(part)) for n, part in parts]
            return None if values[0][1] is None else sum(n * v for n, v in values) / images

        settled = [part["settled"] for _, part in parts]
        settles, comparable = settled[0] is not None, parts[0][1]["units_that_differ"] is not None
        return (
            self.what
            | {
                "accuracy": right / images,
                "images_agreeing": agreeing,
                "images_equal": equal if comparable else None,
                "latency": max(part["latency"] for _, part in parts) if all(settled) or not settles else None,
                "settled": all(settled) if settles else None,
                "logits_equal": equal == images if comparable else None,
                "nonzero_share": {k: mean(lambda p, k=k: p["nonzero_share"][k]) for k in parts[0][1]["nonzero_share"]},
            }
            | {key: mean(lambda p, key=key: p[key]) for key in AVERAGED}
        )


class Job(NamedTuple):
    """One kind of row: how to simulate, and for which T; `form` is the `Schedule` with its worths."""

    schedule: str
    form: Schedule
    arithmetic: str
    calibration: str
    operators: str
    times: list
    engine: str | None = None

    @property
    def words(self):
        """Its name for people."""
        return self.schedule, self.calibration, self.operators


def halving_of(config, quantised, data):
    """The halving schedule of a run: with its worths, or with those that are best on training images."""

    def chosen():
        x, _ = next(shown(config, data, "train", CHOSEN_ON * distributed.world()))
        found = choose_halving(quantised, x, CHOSEN_ON, "event" if on_events(config) else None)
        return found.worths, found.span

    return schedule_with(config.worths, config.span, config.wait) or halving(*distributed.on_first(chosen))


def plan(config, depth, halving=None):
    """The `Job` of every kind of row; `halving` is the `Schedule` whose worths were chosen.

    A schedule that can be exact also runs at a T at which it is: T = L, or enough steps for all to settle. In whole
    numbers the event engine runs what is exact.
    """
    for name in config.schedules:
        schedule = SCHEDULES[name]
        form = halving or schedule if schedule.worths is None else schedule
        exact = form.exact_at(depth, config.levels)
        times = sorted({*config.times, *([] if exact is None else [exact])})
        if schedule.streams:
            for operators in config.operators:
                for calibration in config.calibrations:
                    yield Job(name, form, schedule.arithmetics[0], calibration, operators, times, config.engine)
            continue
        stated = "theorem" in schedule.arithmetics and not config.audit
        if on_events(config) and not stated:
            yield Job(name, form, "increments", "none", "accumulated", [exact] if form.waits else times, "event")
            times = [steps for steps in times if steps != exact] if form.waits else []
        if not times:
            continue
        ways = {"theorem"} if stated else {schedule.arithmetics[0], config.arithmetic}
        for arithmetic in sorted(ways, reverse=True):
            yield Job(name, form, arithmetic, "none", "accumulated", times)


def rows_of(config, quantised, data, job, advance):
    """The rows of one kind over the test images, one for each T and each margin.

    Calls `advance(images, {T: how many of them are right})` after each batch, with the totals so far.
    """
    schedule, form, arithmetic, calibration, operators, times, engine = job
    what = {"schedule": schedule, "arithmetic": arithmetic, "calibration": calibration, "operators": operators}
    if form.worths != (1,):
        what |= {"worths": form.worths, "span": form.span, "wait": form.wait}
    tallies = {steps: Tally(**what, T=steps, margin=None) for steps in times}
    early = {margin: [] for margin in (config.margins if arithmetic != "theorem" else ())}
    spiking, images = convert(quantised, form, operators), 0
    for x, y in shown(config, data, "test", config.test_images):
        ready = spiking
        if calibration != "none":
            ready = calibrate(spiking, x, calibration, config.pre_steps, config.iterations)
        with torch.no_grad():
            expected = quantised(x)
        for steps, result in simulate_at(ready, x, times, arithmetic, engine=engine):
            tallies[steps].add(ready, x, y, result, expected)
        for margin, seen in early.items():
            answer, taken = read_out_early(result.logits, margin)  # of the longest
            before = 0 if form.settles else result.latency - len(result.logits)  # pre-steps and phases
            seen.append((len(x), int((answer == y).sum()), int(taken.sum()) + before * len(x)))
        images += len(x)
        advance(images, {steps: tally.right for steps, tally in tallies.items()})
    rows = [tally.row() for tally in tallies.values()]
    for margin, seen in early.items():
        images, right, taken = (sum(part) for part in zip(*chain.from_iterable(distributed.gather(seen)), strict=True))
        read = {"T": times[-1], "margin": margin, "accuracy": right / images, "latency": taken / images}
        rows.append(dict.fromkeys(rows[-1]) | what | read)
    return rows
