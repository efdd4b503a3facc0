"""A record as a command line of `accelerated.run`: for the worker to start, and for a person to type."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import fields

from ..runs.config import Config
from . import networks
from .database import Record
from .options import PlatformOptions
from .records import waits_for
from .runner import MEMORY

UPLOAD, CHECKPOINT = "upload.safetensors", "start.safetensors"  # weights that a record has in its own folder
OWN = {"upload": UPLOAD, "checkpoint": CHECKPOINT}  # by how it starts


def words_of(settings: dict) -> list[str]:
    """The options of `accelerated.run` for settings that are fields of its Config."""
    words: list = []
    for field in fields(Config):
        if field.name not in settings or field.name == "start":
            continue
        value = settings[field.name]
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return words


def weights(record: Record) -> str | None:
    """The path of the weights that a record starts from, relative to its folder; or None."""
    kind = record.settings.get("start", "")
    return f"../{record.source_id}/run/weights.safetensors" if kind == "source" else OWN.get(kind)


def environment(record: Record, options: PlatformOptions | None = None) -> dict[str, str]:
    """Environment variables of a record's processes: the number of threads, which sums in floating point depend on.

    With `options`, of a job here: also the memory that it may take.
    """
    threads = record.settings.get("threads")
    limit = {MEMORY: str(options.memory)} if options and options.memory else {}
    return limit | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def launch(record: Record) -> list[str]:
    """The arguments of Python that start several processes of a module; none for one process."""
    processes = record.settings.get("processes", 1)
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []


def command(record: Record, options: PlatformOptions) -> list[str]:
    """What the worker starts in the record's folder; relative paths keep other folders out of the log."""
    start = weights(record)
    from_folder = networks.DATA[record.settings["data"]].markers
    return [
        sys.executable, *launch(record), "-m", "accelerated.run", *words_of(record.settings),
        *(["--start", start] if start else []), *(["--data-root", str(options.data)] if from_folder else []),
        "--out", ".", "--name", "run", *(["--resume"] if (options.record(record.id) / "run").exists() else []),
    ]  # fmt: skip


def typed(record: Record, threads_of: Callable[[int], int | None]) -> list[str]:
    """The commands that do the same in a terminal, those of its sources first; files of its own go by their names.

    `threads_of(number)`: of a record that is finished, how many threads it had.
    """
    kind, source = record.settings.get("start"), waits_for(record)
    before = typed(source, threads_of) if source else []
    start = []
    if kind in OWN:
        start = ["--start", f"record-{record.id}-{OWN[kind]}"]
    elif source:
        start = ["--start", f"runs/record-{record.source_id}/weights.safetensors"]
    elif kind == "source":
        start = ["--start", "WEIGHTS-OF-A-RECORD-THAT-WAS-DELETED"]
    words = [*words_of(record.settings), *start, "--name", f"record-{record.id}"]
    threads = threads_of(record.id)
    given = environment(record) or ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    variables = [f"{key}={value}" for key, value in given.items()]
    return [*before, " ".join([*variables, shlex.join(["python", *launch(record), "-m", "accelerated.run", *words])])]
