"""`python -m accelerated.run export c RUN`: a run's network in another language."""

from dataclasses import dataclass, replace
from pathlib import Path

from ..checks import InputError, one_of
from ..conversion import convert
from ..exports.c import c
from ..schedules import SCHEDULES
from ..sums import is_whole
from . import evaluation, saved
from .validation import schedule_with

KINDS = {"c": c}


@dataclass(frozen=True)
class ExportOptions:
    """Write a run's network in whole numbers as one C99 file and its header, which need nothing else."""

    schedule: str = "halving"
    """streaming, integrate-then-fire, signed or halving."""
    worths: str = "auto"
    """Of the spikes of halving in its first steps, in levels, such as 4,2,1; auto: L, L/2, ..., 1."""
    bits: int = 8
    """Of the weights, 2 to 8, where the run itself is of real numbers."""
    name: str = "network"
    """With which all that the file defines begins."""
    out: str = ""
    """Folder for NAME.c and NAME.h; by default the run's."""


def export(kind, folder, options):
    """Write the network of a run's folder; returns the path of its source. InputError for what cannot be exported."""
    write = KINDS[one_of(kind, KINDS, "export")]
    one_of(options.schedule, SCHEDULES, "schedule")
    if options.worths != "auto" and options.schedule != "halving":
        raise InputError(f"worths are for schedule halving, got {options.schedule!r}")
    network = saved.load(folder)
    image = network.images[:1]
    if not is_whole(network):
        config = replace(network.config, bits=options.bits)
        network = evaluation.in_whole_numbers(config, saved.data_of(folder, config), network)
    spiking = convert(network, schedule_with(options.worths, 0, 0) or options.schedule)
    out = Path(options.out or folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}") from error
    return write(spiking, out / f"{options.name}.c", image, options.name)
