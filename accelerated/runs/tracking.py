"""The lines of a run's journal, mirrored to MLflow or Weights & Biases, if one is installed and asked for.

Where they are sent is theirs to say: MLFLOW_TRACKING_URI, WANDB_MODE and the like.
"""

import importlib.util
import json
from contextlib import contextmanager

from ..checks import InputError, first_line
from .folders import write_json

PROJECT = "isospike"


def _mlflow(name, known, settings):
    """(id of the run, function (values, step), function (whether all went well) that ends it)."""
    import mlflow

    mlflow.set_experiment(PROJECT)
    run = mlflow.start_run(run_id=known) if known else mlflow.start_run(run_name=name)
    if not known:
        mlflow.log_params(settings)

    def end(well):
        mlflow.end_run("FINISHED" if well else "FAILED")

    return run.info.run_id, lambda values, step: mlflow.log_metrics(values, step=step), end


def _wandb(name, known, settings):
    """The same for Weights & Biases."""
    import wandb

    run = wandb.init(project=PROJECT, id=known, name=name, config=settings, resume="allow")
    return run.id, lambda values, step: run.log(values, step=step), lambda well: run.finish(not well)


TRACKERS = {"mlflow": _mlflow, "wandb": _wandb}


def installed(name):
    """InputError if this tracker is one and is not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise InputError(f"track {name!r}: {name} is not installed: pip install {name}")


def numbers(name, line, past):
    """(values, step) of a line of metrics.jsonl or simulation.jsonl, None if it has none to show.

    The step of an epoch counts those of all stages, `past` lines and this one; a simulation is shown once it is over.
    """
    if name == "metrics.jsonl":
        left_out = ("stage", "epoch", "thresholds")
        return {f"{line['stage']}/{key}": value for key, value in line.items() if key not in left_out}, past + 1
    if line["images"] < line["of"]:
        return None
    ways = "/".join(line[key] for key in ("schedule", "arithmetic", "calibration", "operators"))
    return {f"{ways}/T {steps}": share for steps, share in line["accuracy"].items()}, past


@contextmanager
def tracked(tracker, folder, settings, say):
    """A function (file, line, past) that mirrors lines of the run in `folder`; it does nothing without a tracker.

    A run that is gone on with goes on there, too. If mirroring fails, `say` says so once, and the run goes on.
    """
    if tracker == "none":
        yield lambda *_: None
        return
    file = folder / "tracked.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    try:
        number, log, end = TRACKERS[tracker](folder.name, known.get(tracker), settings)
    except Exception as error:  # a network, a server, credentials
        raise InputError(f"track {tracker!r}: {first_line(error)}") from error
    write_json(file, known | {tracker: number})
    failed = False

    def mirror(name, line, past):
        nonlocal failed
        shown = None if failed else numbers(name, line, past)
        if shown:
            try:
                log(*shown)
            except Exception as error:  # as above
                failed = True
                say(f"{tracker} takes no more ({first_line(error)}): the run goes on without")

    well = False
    try:
        yield mirror
        well = True
    finally:
        try:
            end(well)
        except Exception as error:  # as above
            say(f"{tracker} was not told of the end ({first_line(error)})")
