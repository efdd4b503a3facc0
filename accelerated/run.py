"""`python -m accelerated.run`: train, convert, simulate, report."""

import contextlib
import io
import re
import sys

import torch
import tyro
from rich.console import Console

from . import experiment, report
from .checks import InputError


def parse(arguments):
    """The Config that the command line asks for; InputError with the parser's complaint as one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(experiment.Config, prog="python -m accelerated.run", args=arguments)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        words = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]+", " ", said.getvalue())
        raise InputError(" ".join(words.split()).replace("Unrecognized options Unr", "Unr")) from None


def main(arguments=None):
    """Run the command line; returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    errors, out = Console(stderr=True), Console()
    try:
        folder, results, quantised, image = experiment.run(parse(arguments), errors)
        report.write(folder, results, quantised, image)
    except (InputError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        print(f"error: {str(error).splitlines()[0]}: choose a smaller --width or --batch", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command with --resume goes on where it was", file=sys.stderr)
        return 130
    out.print(report.table(results))
    for finding in report.findings(results):
        out.print(f"- {finding}", highlight=False)
    out.print(
        f"\nwritten to {folder}/ in {results['seconds']} s: report.md, results.json, weights, plots", highlight=False
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
