"""How the platform is started."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

from ..checks import InputError, whole


@dataclass(frozen=True)
class Options:
    """Open the training platform: a server, and a worker that runs what is queued. Ctrl-C ends both; runs go on."""

    folder: str = "platform-data"
    """Folder that holds everything: database, runs, logs, uploads. Only its owner can read it."""
    data_root: str = ""
    """Folder that holds the data sets; empty is data/ in the folder above."""
    host: str = "127.0.0.1"
    """Address to listen on. Others can reach it from elsewhere only if this is not 127.0.0.1; put HTTPS before it."""
    port: int = 8000
    """Port to listen on."""
    names: tuple[str, ...] = ()
    """Names by which browsers may call the server, beside localhost and --host."""
    registration: bool = False
    """Let anyone who reaches the server make an account. Otherwise the administrator invites."""
    jobs: int = 1
    """How many runs may be at work at once; they share the cores, unless OMP_NUM_THREADS says otherwise."""
    jobs_per_user: int = 1
    """How many of them may be one user's."""
    queue_per_user: int = 20
    """How many runs a user may have waiting."""
    processes: int = 1
    """Processes of each run, started by torchrun: as many as there are GPUs for it."""
    quota: int = 10240
    """Room on the disk, in MiB, that a user's records may take before they have to delete some."""
    hours: float = 0.0
    """Hours after which a run is stopped; 0 is never."""
    upload_limit: int = 1024
    """The largest file of weights, in MiB, that can be uploaded."""
    new_password: str = ""
    """Print a link with which this user sets a new password, and end."""
    worker: int = 0
    """Only the worker of the server whose process has this number: the server starts it, and again whenever it ends."""

    @property
    def shared(self):
        """Settings of all runs: processes, and threads of each process, where they are not the usual. Runs at once
        share the cores: with more threads than cores all of them would be far slower.
        """
        given = os.environ.get("OMP_NUM_THREADS", "")
        part = len(os.sched_getaffinity(0)) // (self.jobs * self.processes) or 1
        settings = {"processes": self.processes} if self.processes > 1 else {}
        if given:
            return settings | ({"threads": int(given)} if given.isdigit() else {})  # "4,2" is inherited as it is
        return settings | ({"threads": part} if self.jobs > 1 else {})

    @property
    def home(self):
        """The folder as a path."""
        return Path(self.folder).resolve()

    @property
    def data(self):
        """Where data sets lie."""
        return Path(self.data_root).resolve() if self.data_root else self.home / "data"

    @property
    def database(self):
        """Where the database is: $DATABASE_URL, or SQLite in the folder."""
        return os.environ.get("DATABASE_URL") or f"sqlite:///{self.home / 'isospike.db'}"

    def record(self, number):
        """The folder of a record."""
        return self.home / "records" / str(int(number))

    def arguments(self):
        """The command line that gives these options."""
        words = []
        for field in fields(self):
            value, flag = getattr(self, field.name), f"--{field.name.replace('_', '-')}"
            if value == field.default:
                continue
            words += [flag] if value is True else [flag, *map(str, value if isinstance(value, tuple) else [value])]
        return words


def checked(options):
    """The options, and their folder made; InputError for what cannot be."""
    for name in ("jobs", "jobs_per_user", "queue_per_user", "processes", "upload_limit", "quota"):
        whole(getattr(options, name), name)
    if not 0 <= options.port < 2**16:
        raise InputError(f"port must lie in 0..65535, got {options.port}")
    if not 0 <= options.hours < float("inf"):
        raise InputError(f"hours must be 0 (never) or more, got {options.hours}")
    if not Path("/proc/self/stat").exists():
        raise InputError("the platform follows its jobs through /proc, which only Linux has")
    try:
        options.home.mkdir(parents=True, exist_ok=True)
        options.home.chmod(0o700)
        (options.home / "records").mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {options.home}: {error.strerror}; choose another --folder") from error
    return options
