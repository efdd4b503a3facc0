"""QCFS and the neuron over many steps on native kernels; None if the arguments are not supported."""

import torch

from ..checks import InputError
from . import Thresholds, call, lies, serves


def fits(z, theta):
    """Whether z [batch, ...] is dense in memory, sample after sample, and theta broadcasts to a sample."""
    order = lies(z) if z.numel() else None
    return order is not None and order[0] == 0 and theta.ndim < z.ndim


def same_shape(z, **others):
    """InputError unless all have the shape of z: state of other images is never broadcast or read beyond its end."""
    for name, other in others.items():
        if other.shape != z.shape:
            raise InputError(f"{name} has shape {tuple(other.shape)}, its neighbour {tuple(z.shape)}: reset() first")


def like(z, other):
    """`other` in the memory layout of z."""
    return other if other.stride() == z.stride() else torch.empty_like(z).copy_(other)


def qcfs(z, theta, levels, shift, lowest=0):
    """(theta level(z)) / L, or None."""
    if not (serves(z, theta) and fits(z, theta)):
        return None
    out, by = torch.empty_like(z), Thresholds(theta.detach(), z[0])
    call("qcfs", z.dtype, z=z, out=out, **by.arguments, levels=levels, shift=shift, lowest=lowest)
    return out


def qcfs_counts(z, theta, levels, shift, lowest=0):
    """((theta level(z)) / L, level(z) as int32, the sum of their sizes, the number not 0), or None; None for a NaN."""
    if not (serves(z, theta) and fits(z, theta)):
        return None
    out, counts, by = torch.empty_like(z), torch.empty_like(z, dtype=torch.int32), Thresholds(theta.detach(), z[0])
    totals = torch.zeros(torch.get_num_threads(), 8, dtype=torch.int64)
    call("qcfs_counts", z.dtype, z=z, out=out, counts=counts, **by.arguments, levels=levels, shift=shift, lowest=lowest,
         totals=totals)  # fmt: skip
    total, some, wrong = totals.sum(0)[:3].tolist()
    return None if wrong else (out, counts, total, some)


def qcfs_backward(z, theta, upstream, levels, shift, lowest=0):
    """(d loss / dz, d loss / dtheta), or None."""
    same_shape(z, upstream=upstream)
    if not (serves(z, theta, upstream) and fits(z, theta)):
        return None
    by, by_z = Thresholds(theta.detach(), z[0]), torch.empty_like(z)
    sums = torch.zeros(torch.get_num_threads(), by.count, dtype=torch.float64)
    call("qcfs_backward", z.dtype, z=z, upstream=like(z, upstream), by_z=by_z, **by.arguments, levels=levels,
         shift=shift, lowest=lowest, sums=sums)  # fmt: skip
    return by_z, (by.gathered(sums.sum(0)) / theta.detach()).to(theta.dtype)


def total_step(total, sent, theta, levels, t, lowest=0):
    """(spikes, (theta N) / L) of a step on totals, or None; N, `sent`, is updated. t < 0: each spike is worth -t."""
    same_shape(total, sent=sent)
    if not (serves(total, sent, theta) and fits(total, theta) and sent.stride() == total.stride()):
        return None
    spike, value, by = torch.empty_like(total), torch.empty_like(total), Thresholds(theta, total[0])
    call("total_step", total.dtype, total=total, sent=sent, spike=spike, value=value, **by.arguments, levels=levels,
         t=t, lowest=lowest)  # fmt: skip
    return spike, value


def _over_time(name, values, steps, state, first):
    """Run a kernel of (values, state) over [steps batch, ...], step after step; None if not supported."""
    if not serves(values, state):
        return None
    values = values.contiguous()
    out = torch.empty_like(values)
    rows, numbers = values.view(steps, -1), state.view(-1)
    call(name, values.dtype, values=rows, out=out.view(steps, -1), state=numbers, first=first)
    return out


def running(values, steps, sums, first):
    """(sums + values_0 + ... + values_t) / (first + t) for each of `steps` steps in [steps batch, ...], or None.

    `sums` (contiguous, of a step's size) are updated.
    """
    return _over_time("running", values, steps, sums, first)


def increments(values, steps, before, first):
    """(first + t) values_t minus the same one step earlier, or None; `before` is updated."""
    return _over_time("increments", values, steps, before, first)


def gaps(currents):
    """Whether `if_run` needs a contiguous copy of these currents [steps, batch, ...]."""
    order = lies(currents)
    return order is None or order[0] != 0 or lies(currents[0])[0] != 0


def room(currents, steps, theta, states, out=None):
    """Memory for the output of `if_run`, laid out like the currents; None if these or the states do not fit."""
    sample, order = currents[0], lies(currents)
    same_shape(sample, **{f"state {i}": state for i, state in enumerate(states)})
    if order is None or order[0] != 0 or not fits(sample, theta):
        return None
    if any(state.stride() != sample.stride() for state in states):
        return None
    shape, strides = (steps, *sample.shape), (sample.numel(), *sample.stride())
    if out is None:
        return torch.empty_strided(shape, strides, dtype=sample.dtype, device=sample.device)
    if (out.shape, out.stride()) != (shape, strides):
        raise InputError(f"out must have shape {shape} and strides {strides}, got {tuple(out.shape)}, {out.stride()}")
    return out


def if_run(currents, steps, theta, membrane=None, counts=None, out=None, unit=False):
    """theta s_t (s_t if `unit`) [steps, batch, ...] of the IF neuron, or None.

    currents [steps, batch, ...], or [1, batch, ...] for a constant one. `membrane` and `counts` [batch, ...] are
    updated; without a membrane it starts at theta / 2. `out` is memory for the result.
    """
    states = [state for state in (membrane, counts) if state is not None]
    sent = room(currents, steps, theta, states, out) if serves(currents, theta, *states) else None
    if sent is None:
        return None
    call("if_run", sent.dtype, z=currents, out=sent, membrane=membrane, counts=counts, unit=int(unit),
         **Thresholds(theta, currents[0][0]).arguments)  # fmt: skip
    return sent
