"""`python -m accelerated.run`: train, convert, simulate, report; whole tables; reports of what is on disk."""

import contextlib
import importlib
import importlib.util
import io
import re
import sys
from pathlib import Path

import torch
import tyro
from rich.console import Console

from .checks import InputError, one_of
from .reports import report
from .runs import distributed, experiment
from .runs.config import Config

PROGRAM = "python -m accelerated.run"


def parse(kind, arguments, program=PROGRAM, description=None):
    """The dataclass that the command line asks for; InputError with the parser's complaint as one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=program, args=arguments, description=description)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        words = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]+", " ", said.getvalue())
        raise InputError(" ".join(words.split()).replace("Unrecognized options Unr", "Unr")) from None


def one_run(arguments, errors, out):
    """Train, convert, compare and report once."""
    folder, results, quantised, image = experiment.run(parse(Config, arguments, description=HELP), errors)
    if distributed.rank():
        return
    if quantised is None:
        what = "results.json, weights"
    else:
        report.write(folder, results, quantised, image)
        what = "report.md, results.json, weights, plots"
    show(results, out)
    out.print(f"\nwritten to {folder}/ in {results['seconds']} s: {what}", highlight=False)


def show(results, out):
    """The table of a run and what follows from it."""
    if results["rows"]:
        out.print(report.table(results))
    for finding in report.findings(results):
        out.print(f"- {finding}", highlight=False)


def reports(folders, out):
    """Rebuild the tables and plots of runs from what is on disk."""
    if not folders:
        raise InputError("report needs the folder of a run, for instance runs/digits-cnn-cs-qcfs-L8-seed0")
    if "--help" in folders or "-h" in folders:
        return out.print(f"{PROGRAM} report RUN ...: rebuild tables and plots of runs from what is in their folders")
    for folder in map(Path, folders):
        runs = sorted(path.parent.name for path in folder.glob("*/results.json"))
        if runs and not (folder / "results.json").exists():
            raise InputError(f"{folder} holds runs and is none: choose among {', '.join(runs)}")
        show(report.again(folder), out)
        out.print(f"\nwritten to {folder}/", highlight=False)


HELP = (
    "Train a network, convert it to a spiking one, and compare the two. Writes runs/NAME/.\n\n"
    "Other commands: list (the tables and figures that can be rerun), table-3-2 and its like (run one of them), "
    "report RUN ... (rebuild tables and plots from disk)."
)


def thesis_tables():
    """{command: what carries it out} of the thesis's tables; none where that folder was taken out."""
    if importlib.util.find_spec(f"{__package__}.thesis") is None:
        return {}
    return importlib.import_module(f"{__package__}.thesis.command").COMMANDS


def dispatch(arguments, errors, out):
    """Do what the first word asks for; without one, a single run."""
    command, *rest = arguments or [""]
    tables = thesis_tables()
    if not command or command.startswith("-"):
        one_run(arguments, errors, out)
    elif one_of(command, ("report", *tables), "command") == "report":
        reports(rest, out)
    else:
        tables[command](rest, errors, out)


def main(arguments=None):
    """Run the command line; returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    errors, out = Console(stderr=True), Console()
    try:
        dispatch(sys.argv[1:] if arguments is None else arguments, errors, out)
    except (InputError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        if not getattr(error, "told", False):
            print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        print(f"error: {str(error).splitlines()[0]}: choose a smaller --width or --batch", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted: the same command with --resume goes on where it was (tables go on by themselves)",
            file=sys.stderr,
        )
        return 130
    finally:
        distributed.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
