"""Runs of a table as jobs, through submitit: several at once on this machine, or as arrays of jobs under Slurm.

A run waits for the one from which it goes on; what is finished is not run again, what was interrupted goes on.
"""

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from rich.console import Console

from ..checks import InputError, one_of, whole
from ..runs import distributed
from ..runs.cluster import library, slurm_executor
from ..runs.config import Config
from ..runs.folders import finished

LAUNCHERS = ("here", "local", "slurm")
LONG = 60 * 24 * 30  # minutes: a local job has no other limit


@dataclass
class Work:
    """One run as a job: its results, or the line that says why there are none."""

    config: Config
    threads: int = 0  # 0: as many as the job finds
    visible: str | None = None  # CUDA_VISIBLE_DEVICES as it was: submitit counts GPUs from 0

    def __call__(self):
        from . import tables

        if self.visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible
        if self.threads:
            torch.set_num_threads(self.threads)
        return tables.carry_out([[self.config]], Console(stderr=True))[0]

    def checkpoint(self):
        """What Slurm queues again when the job's time is up: the same, for a run goes on where it was."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def executor_for(launcher, folder, slurm=()):
    """submitit's executor, which writes its logs to a new folder in `folder`; InputError where it cannot work.

    Its files are named by numbers of processes, which return: a new folder holds none of before.
    """
    folder = os.path.join(folder, f"{time.strftime('%Y-%m-%d-%H-%M-%S')}-{os.getpid()}")
    submitit = library(f"launcher {launcher!r}")
    if launcher == "local":
        here, gpus = submitit.LocalExecutor(folder), list(range(torch.cuda.device_count()))
        here.update_parameters(timeout_min=LONG, gpus_per_node=len(gpus), visible_gpus=gpus)
        return here
    return slurm_executor(folder, slurm)


def _last_line(error):
    """The last line of an exception, where a command's own words and a traceback's reason stand, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def outcome_of(job):
    """What a job returned, or the line that says that it broke off."""
    try:
        return job.result()
    except Exception as error:  # whatever happened there
        return f"job {job.job_id} broke off ({_last_line(error)}): see {job.paths.stderr}"


def submitted(executor, works):
    """{name: job} of {name: work}: of a cluster, one array; InputError with what it says where it refuses."""
    try:
        with executor.batch():
            return {name: executor.submit(work) for name, work in works.items()}
    except (RuntimeError, OSError) as error:
        raise InputError(f"the jobs could not be submitted: {_last_line(error)}") from error


def _known(config):
    try:
        return finished(config)
    except InputError as error:
        return str(error)


def carry_out_as_jobs(lineages, executor, console, at_once=0, threads=0, gpus=0, pause=1.0):
    """[results, or the line that says why there are none], one per lineage; at most `at_once` jobs at a time (0: all).

    Runs for a GPU take that of `gpus` on which fewest are at work. Interrupted or told to end, it leaves jobs of a
    cluster at work, and stops those of this machine.
    """
    runs = {run.name: (before, run) for lineage in lineages for before, run in pairwise([None, *lineage])}
    outcomes = {name: known for name, (_, run) in runs.items() if (known := _known(run)) is not None}
    waiting = [run.name for lineage in lineages if lineage[-1].name not in outcomes for run in lineage]
    waiting = [name for name in dict.fromkeys(waiting) if name not in outcomes]
    jobs: dict = {}
    devices: dict = {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if at_once else None
    try:
        while waiting or jobs:
            for name in list(waiting):
                before = runs[name][0]
                if before is not None and isinstance(outcomes.get(before.name), str):
                    outcomes[name] = outcomes[before.name]
                    waiting.remove(name)
            free = [name for name in waiting if runs[name][0] is None or runs[name][0].name in outcomes]
            ready = free[: at_once - len(jobs)] if at_once else free
            for name in ready:
                devices[name] = device_for(runs[name][1], gpus, devices.values())
            if ready:
                placed = {name: replace(runs[name][1], device=devices[name]) for name in ready}
                jobs |= submitted(executor, {name: Work(run, threads, visible) for name, run in placed.items()})
            for name in ready:
                waiting.remove(name)
                console.print(f"{name}: job {jobs[name].job_id}", highlight=False)
            ended = [name for name, job in jobs.items() if job.done()]
            for name in ended:
                outcomes[name] = outcome_of(jobs.pop(name))
                del devices[name]
                how = outcomes[name] if isinstance(outcomes[name], str) else "done"
                console.print(f"{name}: {how}", highlight=False)
            if not ended:
                time.sleep(pause)
    except BaseException:  # Ctrl-C above all
        for job in jobs.values() if at_once else ():
            job.cancel()
        if jobs and not at_once:
            console.print("the jobs go on; the same command goes on with what they leave", highlight=False)
        raise
    return [outcomes[lineage[-1].name] for lineage in lineages]


def device_for(config, gpus, taken):
    """The device of a run, where those of other runs are taken: of the GPUs, the first on which fewest are at work."""
    if config.device != "cuda" or not gpus:
        return config.device
    busy = list(taken)
    return min((f"cuda:{i}" for i in range(gpus)), key=busy.count)


@contextmanager
def ended_by_signal():
    """SIGTERM as an exception, so that what is being done can be given up in order."""

    def end(number, _frame):
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check(options):
    """InputError for a table's options that do not fit together."""
    one_of(options.launcher, LAUNCHERS, "launcher")
    whole(options.jobs, "jobs")
    if options.jobs != type(options).jobs and options.launcher != "local":
        raise InputError(f"jobs is for launcher local, got {options.launcher!r}")
    if options.slurm and options.launcher != "slurm":
        raise InputError(f"slurm options are for launcher slurm, got {options.launcher!r}")
    if options.launcher != "here" and distributed.launched():
        raise InputError("launcher starts processes of its own, and so does torchrun: choose one")


def launched(lineages, options, console):
    """`carry_out_as_jobs` by the options of a table."""
    executor = executor_for(options.launcher, os.path.join(options.out, "jobs"), options.slurm)
    if options.launcher == "slurm":
        return carry_out_as_jobs(lineages, executor, console)
    cores = 0 if "OMP_NUM_THREADS" in os.environ else max(1, (os.cpu_count() or 1) // options.jobs)
    with ended_by_signal():
        return carry_out_as_jobs(lineages, executor, console, options.jobs, cores, torch.cuda.device_count())
