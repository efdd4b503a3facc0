"""The commands of `python -m accelerated.run` that rerun the thesis's tables and figures."""

from functools import partial

from ..checks import InputError
from ..run import PROGRAM, parse
from ..runs import distributed
from . import pages, tables
from .presets import PRESETS


def whole_table(name, arguments, errors, out):
    """Run or continue all rows of a preset, and print them with the published ones."""
    preset, made, path, failed = tables.run(name, parse(tables.TableOptions, arguments, f"{PROGRAM} {name}"), errors)
    if distributed.rank() == 0:
        out.print(pages.drawn(name, preset, made))
        out.print(f"\nwritten to {path}", highlight=False)
    if failed:
        raise InputError(f"{failed} of the runs could not be carried out: the page names them")


def listed(arguments, errors, out):
    """Every preset, with the number of its rows."""
    for name, preset in PRESETS.items():
        out.print(f"{name:18} {len(preset.rows):3} rows  {preset.title}", highlight=False, soft_wrap=True)
    out.print(f"\nrun one with: {PROGRAM} NAME --scale smoke|small|cifar|full; its options: {PROGRAM} NAME --help")


COMMANDS = {"list": listed, **{name: partial(whole_table, name) for name in PRESETS}}
