"""What pages show of records and results, as plain data, which JSON answers contain too."""

from collections.abc import Callable
from pathlib import Path

from ..reports import report
from ..reports.plots import label, read_after
from . import figures, following, networks, outcomes
from .commands import CHECKPOINT, UPLOAD, typed
from .database import Record
from .options import PlatformOptions
from .records import ACTIVE, BROKEN, ENDED, KINDS, waits_for

STAGES = {
    "relu": "ANN",
    "stage 1": "QANN after the first stage",
    "stage 2": "QANN",
    "real": "QANN with real weights",
    "folded": "QANN as it is converted",
}
FILES = {  # what can be downloaded: name on the page -> path in the record's folder
    "weights.safetensors": "run/weights.safetensors", "results.json": "run/results.json", "report.md": "run/report.md",
    "metrics.jsonl": "run/metrics.jsonl", "simulation.jsonl": "run/simulation.jsonl", "log.txt": "log.txt",
    "accuracy.png": "run/accuracy.png", "pareto.png": "run/pareto.png", "thresholds.png": "run/thresholds.png",
    "neuron.png": "run/neuron.png", "network.html": "run/network.html", UPLOAD: UPLOAD, CHECKPOINT: CHECKPOINT,
}  # fmt: skip


def row(record: Record) -> dict:
    """A record as lists show it; the key "request" is "stop" or "delete" once that was asked."""
    settings = record.settings
    return {
        "id": record.id, "kind": record.kind, "name": record.name, "user": record.user.name,
        "network": networks.MODELS[settings["model"]], "data": networks.DATA[settings["data"]].label,
        "activation": settings.get("activation", ""), "state": record.state, "request": record.request,
        "best": record.best, "message": record.message, "detail": record.detail,
        "created": record.created, "began": record.began,
        "ended": record.ended if record.state in ENDED else None, "source": record.source_id,
        "snn": settings["until"] == "simulation", "levels": settings.get("levels"), "tags": record.tags,
    }  # fmt: skip


def record(found: Record, options: PlatformOptions) -> dict:
    """A record as its own page shows it."""
    folder = options.record(found.id)

    def threads_of(number):
        return ((outcomes.results(options.record(number)) or {}).get("environment") or {}).get("threads")

    return row(found) | {
        "first": [row(source) for source in sources(found) if source.state not in ENDED],
        "_ann": next((source.best for source in sources(found) if source.kind == "ann"), None),
        "title": KINDS[found.kind], "settings": found.settings, "commands": typed(found, threads_of),
        "files": [name for name, path in FILES.items() if _holds(folder / path)],
        "results": results(folder), "epochs": outcomes.metrics(folder),
        "kept": outcomes.kept(folder) if found.state in BROKEN else None,
        "live": following.Simulation(folder).read() if found.state in ACTIVE else [],
    }  # fmt: skip


def sources(found: Record) -> list[Record]:
    """The chain of records that one starts from, the oldest first."""
    source = waits_for(found)
    return [*sources(source), source] if source else []


def results(folder: Path) -> dict | None:
    """The results of a run: its table, series for the plot, sentences; None while there are none."""
    found = outcomes.results(folder)
    if found is None:
        return None
    series: dict = {}
    for entry in found["rows"]:
        point = entry["T"], read_after(entry), entry["spikes_per_neuron"], entry["accuracy"]
        series.setdefault(label(entry), []).append(point)
    rows = [
        dict(zip(report.HEADER, report.cells(entry), strict=True))
        | {"agree": entry.get("images_agreeing"), "equal": entry.get("images_equal")}
        for entry in found["rows"]
    ]
    environment = {key: value for key, value in found["environment"].items() if key != "data_root"}
    return {
        "accuracy": found["accuracy"], "images": found["test_images"], "seconds": found["seconds"],
        "_named": named(found["accuracy"]), "_ways": {entry["schedule"] for entry in found["rows"]},
        "environment": environment, "rows": rows, "series": series, "exact": exact(found["rows"]),
        "findings": list(report.findings(found)),
        "_last": list({row["schedule"]: row for row in rows}.values()),
        "ann_energy": 1e6 * rival(found["rows"][-1]) if found["rows"] else None,
    }  # fmt: skip


def rival(row: dict) -> float:
    """The energy of the quantised network beside which a row is shown; that of floats for a run of before."""
    return row.get("rival_joules") or row["ann_joules"]


def exact(rows: list[dict]) -> list[tuple]:
    """(way, T, step after which the answer is read, images with the quantised network's logits, images with its answer)
    of the first row of each way that has the most equal logits; the most exact way first.
    """
    best: dict = {}
    for entry in rows:
        if entry.get("images_equal") is not None:
            found = entry["T"], read_after(entry), entry["images_equal"], entry["images_agreeing"]
            name = label(entry)
            if name not in best or (found[2], -found[1]) > (best[name][2], -best[name][1]):
                best[name] = found
    return sorted(((name, *value) for name, value in best.items()), key=lambda way: (-way[3], way[2]))


def named(accuracy: dict) -> dict:
    """{label: accuracy}; the folded network only where its accuracy differs."""
    labelled = {STAGES[stage]: share for stage, share in accuracy.items()}
    quantised = labelled.get("QANN")
    return {name: share for name, share in labelled.items() if name != STAGES["folded"] or share != quantised}


def _holds(path):
    return path.is_file() and path.stat().st_size > 0


def drawings(series: dict, target: float | None, words: Callable[..., str], zoomed: bool = False) -> list[str]:
    """Accuracy over steps end to end, and over spikes; `words` translates the titles. Points without spikes are out."""
    found = []
    for column, title in ((1, words("Steps, end to end")), (2, words("Spikes per neuron and image"))):
        lines = {name: [(p[column], p[3]) for p in line if p[column] is not None] for name, line in series.items()}
        named = words("Accuracy, in numbers in the table below; across: {what}", what=title)
        found.append(figures.accuracy(lines, target, (title, words("accuracy in %")), named, zoomed))
    return [drawing for drawing in found if drawing]
