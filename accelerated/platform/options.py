"""The options of the platform's command line."""

import os
import re
import subprocess
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from ..checks import InputError, whole


@dataclass(frozen=True)
class PlatformOptions:
    """Open the training platform: a server, and a worker that starts queued runs. Ctrl-C ends both; runs continue."""

    folder: str = "platform-data"
    """Folder that holds everything: database, runs, logs, uploads. Only its owner can read it."""
    data_root: str = ""
    """Folder that holds the data sets; empty is data/ in the folder above."""
    host: str = "127.0.0.1"
    """Address to listen on. Other machines can reach the server only if this is not 127.0.0.1; put HTTPS before it."""
    port: int = 8000
    """Port to listen on."""
    names: tuple[str, ...] = ()
    """Host names of the server, beside localhost and --host."""
    path: str = ""
    """Path under which a proxy shows the server, for example /spikes; it passes requests on without it."""
    access_log: bool = False
    """Print a line for each request."""
    registration: bool = False
    """Let anyone who can reach the server create an account. Otherwise the administrator invites users."""
    jobs: int = 1
    """How many runs may run at once; they share the cores unless OMP_NUM_THREADS is set."""
    jobs_per_user: int = 1
    """How many of them may belong to one user."""
    queue_per_user: int = 20
    """How many waiting runs a user may have."""
    processes: int = 1
    """Processes of each run, started by torchrun: one per GPU."""
    executor: str = "here"
    """Where runs are computed: here, or slurm: on a cluster whose nodes see the folder under the same path."""
    slurm: tuple[str, ...] = ()
    """Of executor slurm: options of its jobs as NAME=VALUE, for example partition=gpu gpus_per_node=1 time=600."""
    gpus: int = -1
    """GPUs that runs may use, each run as many as it has processes, and no two the same; -1 is all of the machine's."""
    quota: int = 10240
    """Disk space, in MiB, that the records of a user may take."""
    memory: int = 0
    """Memory, in MiB, that each process of a run may take for its data, that of GPUs not counted; 0 is no limit."""
    hours: float = 0.0
    """Hours after which a run is stopped; 0 is never."""
    upload_limit: int = 1024
    """The largest file of weights, in MiB, that can be uploaded."""
    new_password: str = ""
    """Print a link with which this user sets a new password, and exit."""
    backup: str = ""
    """Copy everything but data sets to this new folder, and exit; the platform may be running. To go back to it, start
    with it as --folder."""
    copy_database: str = ""
    """Copy the database to the empty one at this address, for example postgresql://USER:PASSWORD@HOST/NAME, and exit.
    Give the same address as DATABASE_URL from then on."""
    worker: int = 0
    """Run only the worker of the server with this process number; the server itself uses this option."""

    @property
    def shared(self) -> dict:
        """Settings of all runs: processes, and threads per process, where they differ from the default. Runs at once
        share the cores: with more threads than cores all of them would be far slower.
        """
        given = os.environ.get("OMP_NUM_THREADS", "")
        part = len(os.sched_getaffinity(0)) // (self.jobs * self.processes) or 1
        settings = {"processes": self.processes} if self.processes > 1 else {}
        if given:
            return settings | ({"threads": int(given)} if given.isdigit() else {})  # "4,2" is inherited unchanged
        return settings | ({"threads": part} if self.jobs > 1 else {})

    @cached_property
    def devices(self) -> int:
        """How many GPUs runs may use."""
        if self.gpus >= 0 or self.executor != "here":
            return max(self.gpus, 0)
        try:
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return 0
        return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())

    @property
    def home(self) -> Path:
        """The folder as a path."""
        return Path(self.folder).resolve()

    @property
    def data(self) -> Path:
        """The folder of the data sets."""
        return Path(self.data_root).resolve() if self.data_root else self.home / "data"

    @property
    def database(self) -> str:
        """The address of the database: $DATABASE_URL, or SQLite in the folder."""
        return os.environ.get("DATABASE_URL") or f"sqlite:///{self.home / 'isospike.db'}"

    def record(self, number: int) -> Path:
        """The folder of a record."""
        return self.home / "records" / str(int(number))

    def arguments(self) -> list[str]:
        """The command line that gives these options."""
        words: list = []
        for field in fields(self):
            value = getattr(self, field.name)
            flag = f"--{field.name.replace('_', '-')}"
            if value == field.default:
                continue
            words += [flag] if value is True else [flag, *map(str, value if isinstance(value, tuple) else [value])]
        return words


def checked(options: PlatformOptions) -> PlatformOptions:
    """The options, checked, with their folder made; InputError for invalid ones."""
    for name in ("jobs", "jobs_per_user", "queue_per_user", "processes", "upload_limit", "quota"):
        whole(getattr(options, name), name)
    if options.path and not re.fullmatch("(/[A-Za-z0-9_.~-]+)+", options.path):
        raise InputError(f"path must be like /spikes, or empty, got {options.path!r}")
    whole(options.memory, "memory", 0)
    whole(options.gpus, "gpus", -1)
    if 0 < options.devices < options.processes:
        raise InputError(f"a run of {options.processes} processes needs as many GPUs, and there are {options.devices}")
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
