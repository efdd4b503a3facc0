"""Several processes on one job, started by torchrun: ranks, shares, and how results are combined."""

import contextlib
import os

import torch
import torch.distributed as dist

from ..checks import InputError


def launched():
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(device):
    """Join the other processes; returns this process's device, "cuda" becoming its own GPU."""
    if not launched():
        return device
    if str(device).startswith("cuda"):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if str(device).startswith("cuda") else "gloo")
        dist.barrier()  # no process leaves before all are connected
    return device


def leave():
    """Leave the group of processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank():
    """The number of this process: 0, 1, ..."""
    return dist.get_rank() if dist.is_initialized() else 0


def world():
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(rows):
    """The rows of this process: every world-th one, without repetition or padding."""
    return rows[rank() :: world()]


def gather(value):
    """[value of process 0, value of process 1, ...] in every process."""
    if not dist.is_initialized():
        return [value]
    values = [None] * world()
    dist.all_gather_object(values, value)
    return values


def refuse(message):
    """Raise an InputError that every process raises at the same place; only process 0 prints it."""
    refusal = InputError(message)
    refusal.reported = rank() > 0
    refusal.shared = True
    raise refusal


def everywhere(action):
    """The result of `action()` in this process; if any process has an InputError, all raise the first of them."""
    if not dist.is_initialized():
        return action()
    value, said = None, None
    try:
        value = action()
    except InputError as error:
        said = str(error)
    wrong = [line for line in gather(said) if line is not None]
    if wrong:
        refuse(wrong[0])
    return value


def on_first(action):
    """The result of `action()` in process 0, for every process; its InputError is raised in all of them."""
    if not dist.is_initialized():
        return action()
    outcome: list = [None, None]
    if rank() == 0:
        try:
            outcome[0] = action()
        except InputError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        refuse(outcome[1])
    return outcome[0]


@contextlib.contextmanager
def on_first_only(opening):
    """Hold the context of `opening()` in process 0 while the others continue; its InputError is raised in all."""
    held = []
    on_first(lambda: held.append(opening()))
    try:
        yield
    finally:
        for file in held:
            file.close()


def same_buffers(network):
    """Copy the running statistics of process 0 to every process: each has computed them on its own share."""
    if dist.is_initialized():
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)
