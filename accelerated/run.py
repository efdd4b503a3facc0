"""`python -m accelerated.run`: train, convert, simulate, report."""

import sys

import tyro
from rich.console import Console

from . import experiment, report
from .checks import InputError


def main(arguments=None):
    """Run the command line; returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    errors, out = Console(stderr=True), Console()
    try:
        config = tyro.cli(experiment.Config, prog="python -m accelerated.run", args=arguments)
        folder, results, quantised, data = experiment.run(config, errors)
        report.write(folder, results, quantised, data.test_x[:1])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
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
