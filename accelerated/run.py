"""`python -m accelerated.run`: train, convert, simulate, report; whole tables; reports of runs on disk."""

import contextlib
import importlib
import importlib.util
import io
import os
import re
import sys
from pathlib import Path

import torch
import tyro
from rich.console import Console

import isospike

from .checks import InputError, first_line, one_of
from .reports import report
from .runs import distributed, experiment, exporting, help, receipts, saved
from .runs.config import Config
from .runs.machine import choose_threads

PROGRAM = "python -m accelerated.run"


class Out(Console):
    """A console whose output may be closed early, as by `| head`."""

    def on_broken_pipe(self):
        raise BrokenPipeError


def parse(kind, arguments, program=PROGRAM, description=None):
    """The dataclass of the command line's options; InputError with the parser's message as one line."""
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
    if {"-h", "--help"} & set(arguments):
        help.show(out, PROGRAM, HELP)
        return
    config = parse(Config, arguments)
    if not distributed.launched():
        choose_threads(lambda line: errors.print(line, highlight=False, soft_wrap=True))
    folder, results, quantised, image = experiment.run(config, errors)
    if distributed.rank():
        return
    if quantised is None:
        what = "results.json, weights"
    else:
        with errors.status("drawing plots"):
            report.write(folder, results, quantised, image)
        what = "report.md, results.json, weights, plots"
        if results["config"]["bits"]:
            with errors.status("writing the page"):
                what += f", {exporting.leave_page(folder, quantised)}"
    show(results, out)
    out.print(f"\nwritten to {folder}/ in {results['seconds']} s: {what}", highlight=False)


def show(results, out):
    """The table of a run and its findings."""
    if results["rows"]:
        out.print(report.table(results))
    for finding in report.findings(results):
        out.print(f"- {finding}", highlight=False)


def reports(folders, out):
    """Rebuild the tables and plots of runs from their files."""
    if not folders:
        raise InputError("report needs the folder of a run, for instance runs/digits-cnn-cs-qcfs-L8-seed0")
    if "--help" in folders or "-h" in folders:
        return out.print(f"{PROGRAM} report RUN ...: rebuild tables and plots of runs from what is in their folders")
    refused = []
    for folder in map(Path, folders):
        try:
            runs = sorted(path.parent.name for path in folder.glob("*/results.json"))
            if runs and not (folder / "results.json").exists():
                raise InputError(f"{folder} holds runs and is none: choose among {', '.join(runs)}")
            show(report.again(folder), out)
            out.print(f"\nwritten to {folder}/", highlight=False)
        except InputError as error:
            if len(folders) == 1:
                raise
            refused.append(folder)
            print(f"left out: {error}", file=sys.stderr)
    if refused:
        raise InputError(f"{len(refused)} of {len(folders)} folders have no report: {', '.join(map(str, refused))}")


def exported(arguments, out):
    """Write a run's network for others."""
    words = [word for word in arguments[:2] if not word.startswith("-")]
    asked = {"-h", "--help"} & set(arguments)
    if len(words) < 2 and not (words and asked):
        raise InputError(
            f"export needs what to write and the folder of a run: {PROGRAM} export c RUN, or folder, nir, onnx, page"
        )
    options, write = exporting.KINDS[one_of(words[0], exporting.KINDS, "export")]
    given = parse(options, arguments[len(words) :], f"{PROGRAM} export {words[0]} RUN")
    out.print(f"written to {write(words[1], given)}", highlight=False, soft_wrap=True)


def verify(arguments, out):
    """Compute the digests of a folder's receipt again."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise InputError(f"verify needs one folder that `export folder` made, or digits: {PROGRAM} verify FOLDER")
    found = receipts.verified(saved.place(arguments[0]))
    for schedule, differences in found.items():
        out.print(f"{schedule}: {', '.join(differences) or 'every level and answer as claimed'}", highlight=False)
    wrong = sum(map(bool, found.values()))
    if wrong:
        raise InputError(f"{wrong} of {len(found)} schedules do not give what {arguments[0]} claims")


HELP = """Train a network, convert it to a spiking one, and compare the two. Writes runs/NAME/.

Other commands:
  export c RUN     write a run's network in whole numbers as one C99 file and its header
  export onnx RUN  write it as ONNX, of integer operators
  export folder RUN  write it as a folder that others can load and verify
  export nir RUN   write it as graphs of NIR, with a kit of the spikes that they lead to
  export page RUN  write it as one page on which it can be watched
  verify FOLDER    compute the digests of such a folder again; of digits, the network that comes with the package
  report RUN ...   rebuild tables and plots of runs from what is in their folders
  list             the thesis's tables and figures that can be rerun; then, for instance, table-3-2"""


def thesis_tables():
    """{command: its function} for the thesis's tables; empty without that folder."""
    if importlib.util.find_spec(f"{__package__}.thesis") is None:
        return {}
    return importlib.import_module(f"{__package__}.thesis.command").COMMANDS


def dispatch(arguments, errors, out):
    """Run the command of the first word; without one, a single run."""
    command, *rest = arguments or [""]
    if command == "--version":
        out.print(f"isospike {isospike.__version__}", highlight=False)
        return
    tables = thesis_tables()
    if not command or command.startswith("-"):
        one_run(arguments, errors, out)
    elif one_of(command, ("report", "export", "verify", *tables), "command") == "report":
        reports(rest, out)
    elif command == "export":
        exported(rest, out)
    elif command == "verify":
        verify(rest, out)
    else:
        tables[command](rest, errors, out)


def main(arguments=None):
    """Run the command line; returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    errors, out = Console(stderr=True), Out()
    try:
        dispatch(sys.argv[1:] if arguments is None else arguments, errors, out)
    except BrokenPipeError:  # the reader closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (InputError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        if not getattr(error, "reported", False):
            print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        print(f"error: {first_line(error)}: choose a smaller --width or --batch", file=sys.stderr)
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
