"""A record as a command line of `accelerated.run`: the one that the worker starts, and the one that a person types."""

import shlex
import sys
from dataclasses import fields

from ..runs.config import Config

UPLOAD = "upload.safetensors"


def words_of(settings):
    """The options of `accelerated.run` for settings that are fields of its Config."""
    words = []
    for field in fields(Config):
        if field.name not in settings or field.name == "start":
            continue
        value, flag = settings[field.name], field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return words


def weights(record):
    """The file of weights that a record begins with, seen from its folder; or None."""
    kind = record.settings.get("start")
    if kind == "upload":
        return UPLOAD
    return f"../{record.source_id}/run/weights.safetensors" if kind == "source" else None


def environment(record):
    """{variable: value} of a record's processes: the number of threads, where it is given; sums round as it says."""
    threads = record.settings.get("threads")
    return {"OMP_NUM_THREADS": str(threads)} if threads else {}


def launch(record):
    """What lets Python start several processes of a module; nothing for one."""
    processes = record.settings.get("processes", 1)
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []


def command(record, options):
    """What the worker starts in the record's folder; a log names no place outside it."""
    start = weights(record)
    return [
        sys.executable, *launch(record), "-m", "accelerated.run", *words_of(record.settings),
        *(["--start", start] if start else []), "--data-root", str(options.data), "--out", ".", "--name", "run",
    ]  # fmt: skip


def typed(record):
    """The commands that do the same in a terminal, the sources' first; an uploaded file goes by its name."""
    before = typed(record.source) if record.source else []
    start = []
    if record.settings.get("start") == "upload":
        start = ["--start", f"record-{record.id}-{UPLOAD}"]
    elif record.settings.get("start") == "source" and record.source is None:
        start = ["--start", "WEIGHTS-OF-A-RECORD-THAT-WAS-DELETED"]
    elif record.source:
        start = ["--start", f"runs/record-{record.source_id}/weights.safetensors"]
    words = [*words_of(record.settings), *start, "--name", f"record-{record.id}"]
    variables = [f"{key}={value}" for key, value in environment(record).items()]
    return [*before, " ".join([*variables, shlex.join(["python", *launch(record), "-m", "accelerated.run", *words])])]
