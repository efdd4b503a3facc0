"""Results on disk -> the table and the plots."""

import json

from rich.table import Table

from .. import data as datasets
from ..checks import InputError
from ..exports.weights import whole_file
from ..runs.evaluation import LEAST_ACTIVE, converted, shown
from ..runs.saved import config_of, network_of
from ..schedules import SCHEDULES
from . import plots
from .plots import label, shown_rows

PLOTS = ("steps", "accuracy", "pareto", "thresholds", "neuron")
HEADER = (
    "schedule", "T", "accuracy", "units that differ", "latency in steps", "spikes per neuron",
    "synaptic operations", "energy", "of the rival's", "with memory", "break-even", "least active layer",
    "logits equal",
)  # fmt: skip
TERMINAL_HEADER = (  # of 80 columns
    "schedule", "T", "accu-\nracy\n%", "units\noff,\n%", "latency\n(steps)", "spikes\n/ unit", "energy\n% of\nrival",
    "with\nmemo-\nry, %", "least\nactive\n%", "bits\nequal",
)  # fmt: skip


def _share(value):
    return "" if value is None else f"{100 * value:.2f} %"


def people(count):
    """A count in words: 722 thousand, 1.5 million."""
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count:.0f}"


def joules(value):
    """An energy: 1.99 µJ; from 1000 µJ on in mJ."""
    return f"{1e3 * value:.3g} mJ" if value >= 1e-3 else f"{1e6 * value:.3g} µJ"


def cells(row):
    """A row of results as text, in the order of HEADER. Values that were not executed or are not defined are empty."""
    latency = "unsettled" if row["latency"] is None else f"{row['latency']:.4g}"
    if row["margin"] is not None:  # how many spikes and operations were saved is not known
        return label(row), str(row["T"]), _share(row["accuracy"]), "", latency, *[""] * 8
    least = min(row["nonzero_share"].values())
    equal = {None: "", True: "all bits" if least >= LEAST_ACTIVE else "vacuous", False: "no"}[row["logits_equal"]]
    return (label(row), str(row["T"]), _share(row["accuracy"]), _share(row["units_that_differ"]), latency,
            f"{row['spikes_per_neuron']:.3f}", people(row["acs"] + row["macs"]), *prices(row), _share(least),
            equal)  # fmt: skip


def prices(row):
    """Energy in whole numbers, its share of the rival's, the same with memory, and the break-even spikes per neuron."""
    if row.get("whole_joules") is None:  # a run of before
        return joules(row["joules"]), "", "", ""
    memory = [row[f"{who}_joules"] + row[f"{who}_memory"] for who in ("whole", "rival")]
    share = row["whole_joules"] / row["rival_joules"]
    even = f"{row['break_even']:.2f}" if row["break_even"] > 0 else "none"
    return joules(row["whole_joules"]), f"{100 * share:.0f} %", f"{100 * memory[0] / memory[1]:.0f} %", even


def findings(results):
    """Sentences that follow from executed rows only."""
    config, accuracy, images = results["config"], results["accuracy"], results["test_images"]
    if not results["rows"]:
        shares = ", ".join(f"{stage} {_share(share)}" for stage, share in accuracy.items())
        yield f"{shares} of {images} test images; nothing was simulated."
        return
    untrained = "" if config["epochs"][0] or config.get("start") else " (not trained)"
    relu = f"ReLU network {_share(accuracy['relu'])}{untrained}, " if "relu" in accuracy else ""
    real = f"{_share(accuracy['real'])}, in whole numbers " if "real" in accuracy else ""
    yield (
        f"{relu}quantised (L = {config['levels']}) {real}{_share(accuracy['folded'])} "
        f"of {images} test images; {results['depth']} spiking layers deep; thresholds within a layer differ by at most "
        f"{100 * results['threshold_spread']:.3g} %."
    )
    best = results.get("best")
    if best and best["accuracy"] > accuracy["folded"]:
        had = f"The best epoch, {best['epoch']}, had {_share(best['accuracy'])}"
        yield f"{had}; published code keeps that one, which was chosen on these images."
    if results.get("sums"):
        widths = ", ".join(f"{name} {bits}" for name, bits in results["sums"].items())
        yield f"Weights have {config['bits']} bits; proved bits of the sums of each spiking layer: {widths}."
    for row in results["rows"]:
        schedule = SCHEDULES[row["schedule"]]
        at_levels = schedule.waits and row["T"] == schedule.exact_at(results["depth"], config["levels"])
        settled = schedule.settles and row["settled"] and row is _last(results, row)
        if not (at_levels or settled) or row["margin"] is not None:
            continue
        spiking = [100 * share for share in row["nonzero_share"].values()]
        when = f"at T = L = {row['T']}" if at_levels else _settled(row)
        what = (
            "equal those of the folded quantised network bit for bit"
            if row["logits_equal"]
            else "were not executed step by step: by T2 they equal those of the folded quantised network"
            if row["arithmetic"] == "theorem"
            else f"are not all the folded quantised network's: {_share(row['units_that_differ'])} of units differ"
        )
        if row["logits_equal"] and min(row["nonzero_share"].values()) < LEAST_ACTIVE:
            what = "equal the folded quantised network's for free, since a layer hardly spikes"
        yield (
            f"{label(row)}: {when}, the logits of all {images} images {what}; "
            f"neurons that spike, per layer: {min(spiking):.0f} to {max(spiking):.0f} %."
        )

    yield in_short(results)


def _settled(row):
    """When a run settled, and with which worths."""
    mean = row.get("settled_at")  # of all images; runs of before did not keep it
    on_average = "" if mean is None else f", {mean:.1f} on average"
    when = f"settled after {counted(row['latency'], 'step')} (the slowest image{on_average})"
    if row.get("worths"):
        when += f" with spikes worth {', '.join(map(str, row['worths']))} levels"
    when += f", up to {row['span']} steps later in deeper layers" if row.get("span") else ""
    return when + (f", which begin up to {row['wait']} steps later" if row.get("wait") else "")


def counted(number, what):
    """1 step, 2 steps."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def in_short(results):
    """The result in one sentence: after how many steps each schedule has the answer, or how close it comes."""
    target, parts, exact = results["accuracy"]["folded"], [], []
    for name in dict.fromkeys(label(row) for row in results["rows"] if row["margin"] is None):
        rows = [row for row in results["rows"] if label(row) == name]
        equal = [row for row in rows if row["logits_equal"] and row["latency"] is not None]
        waiting = SCHEDULES[rows[0]["schedule"]].waits and results["config"]["levels"] not in [row["T"] for row in rows]
        if rows[0]["arithmetic"] == "theorem" or waiting:
            continue  # what was not executed has no nearest answer, nor has a phase of another length
        if equal:
            steps = counted(equal[0]["latency"], "step")
            free = (
                "" if min(equal[0]["nonzero_share"].values()) >= LEAST_ACTIVE else ", for free: a layer hardly spikes"
            )
            said = f"{name} has the quantised network's answer in every bit after {steps}{free}"
            exact.append((equal[0]["latency"], said))
            continue
        best = max(rows, key=lambda row: row["accuracy"])
        points = 100 * (best["accuracy"] - target)
        off = f"{points:+.2f} points of accuracy" if points else "the same accuracy, but other logits"
        parts.append(f"{name} comes nearest at T = {best['T']} ({off})")
    return f"In short: {'; '.join([said for _, said in sorted(exact)] + parts)}."


def _last(results, row):
    return [r for r in results["rows"] if label(r) == label(row)][-1]


def energy_note(results):
    """What the energies are, beside whom, and what is often published instead."""
    rows = [row for row in results["rows"] if row.get("whole_joules") is not None]
    if not rows:
        return ""
    row = min(rows, key=lambda row: (not row["logits_equal"], row["whole_joules"] + row["whole_memory"]))
    who = f"{label(row)} (T = {row['T']})"
    memory = {name: joules(row[f"{name}_joules"] + row[f"{name}_memory"]) for name in ("whole", "rival")}
    wins = "spikes win" if row["break_even"] > row["spikes_per_neuron"] else "spikes lose"
    return (
        "Energy is that of hardware that adds increments in whole numbers, at 45 nm (Horowitz 2014; equation 13.3 of "
        "the derivations), next to its share of a fair rival's: the quantised network with 8-bit weights and as many "
        "bits of activations as these levels need. With memory: weights, activations and membranes are read and "
        f"written. {who}: {joules(row['whole_joules'])} against {joules(row['rival_joules'])}, with memory "
        f"{memory['whole']} against {memory['rival']}: {wins}. Break-even: the spikes per neuron below which they do. "
        "Often published instead: 32-bit floats without memory, "
        f"{joules(row['joules'])} against {joules(row['ann_joules'])}. "
    )


def arithmetic_note(results):
    """The cost of the exact rows on totals, as they were computed."""
    rows = [row for row in results["rows"] if row["logits_equal"] and row["arithmetic"] == "totals"]
    if not rows:
        return ""
    times = max(row["totals_joules"] / row["ann_joules"] for row in rows)
    return f"Rows on totals were computed anew in every step: up to {times:.3g} times that network's work."


def markdown(results):
    """report.md: what was run, the table, the findings, the plots."""
    config, env = results["config"], results["environment"]
    lines = [f"# {config['data']}, {config['model']}, {config['activation']}, L = {config['levels']}", ""]
    lines += ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in shown_rows(results)]
    lines += ["", *(f"- {finding}" for finding in findings(results)), ""]
    lines += [
        f"Seed {config['seed']}, commit {env['commit']}, {env['device']}, torch {env['torch']}, "
        f"{results['seconds']} s. Latency counts all steps end to end; rows whose latency is `unsettled` still fire in "
        "their last step, or a spike in it is worth more than one level; the row that has settled, and shows it by one "
        "silent step, is the last one shown. "
        "Units that differ: share of pairs of image and neuron whose spike count is not the quantised network's level "
        "(empty where T is not L). Least active layer: the smallest share of a layer's neurons that spike; where it is "
        "next to nothing, an equality is free and called vacuous. " + energy_note(results) + arithmetic_note(results)
    ]
    lines += ["", *(f"![{name}]({name}.png)" for name in PLOTS)]
    return "\n".join(lines) + "\n"


def config_name(results):
    """A short name of a run's network."""
    return f"{results['config']['model']}, {results['config']['activation']}"


def write(folder, results, quantised, image):
    """report.md and the plots of a run; `image` [1, ...] is the one that the neuron plot shows."""
    plots.steps(results, folder / "steps.png")
    plots.accuracy(results, folder / "accuracy.png")
    named: dict = {}
    for row in results["rows"]:
        named.setdefault((config_name(results), label(row)), []).append(row)
    plots.pareto(named, folder / "pareto.png", 100 * results["accuracy"]["folded"])
    plots.thresholds(quantised, folder / "thresholds.png")
    plots.neuron(quantised, image, folder / "neuron.png", results["config"]["schedules"])
    with whole_file(folder / "report.md") as part:
        part.write_text(markdown(results))


def table(results):
    """The table of results for the terminal; it fits into 80 columns."""
    config = results["config"]
    title = f"{config['data']}, {config['model']}, {config['activation']}, L = {config['levels']}"
    drawn = Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in TERMINAL_HEADER:
        drawn.add_column(name, justify="left" if name == "schedule" else "right", no_wrap=True)
    before = None
    for row in shown_rows(results):
        name, *rest = cells(row)
        if before not in (None, name):
            drawn.add_row()
        rest = [*rest[:5], *rest[7:9], *rest[10:]]  # the others are in report.md
        shown = [cell.removesuffix(" %").removesuffix(" µJ").replace("all bits", "yes") for cell in rest]
        drawn.add_row("" if name == before else name.replace(", ", ",\n"), *shown)
        before = name
    return drawn


def again(folder):
    """Rebuild report.md and the plots of a finished run; returns its results."""
    config = config_of(folder)
    try:
        results = json.loads((folder / "results.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no finished run: there is no readable results.json") from error
    if not results["rows"]:
        raise InputError(f"{folder} holds a run that ended before the simulation: it has no report")
    data = datasets.load(config.data, results["environment"].get("data_root", "data"), config.size)
    quantised = converted(config, data, network_of(folder, config, data))
    image = next(shown(config, data, "test", 1))[0]
    write(folder, results, quantised, image)
    return results
