"""QCFS and the neuron over many steps on native kernels; None where they do not serve."""

import torch

from . import FORMATS, Thresholds, lies, real, run, serves


def fits(z, theta):
    """Whether z [batch, ...] lies without gaps, its samples one after another, and theta is that of a sample."""
    order = lies(z) if z.numel() else None
    return order is not None and order[0] == 0 and theta.ndim < z.ndim


def like(z, other):
    """`other` as it would lie in memory in z's place."""
    return other if other.stride() == z.stride() else torch.empty_like(z).copy_(other)


def qcfs(z, theta, levels, shift):
    """(theta level(z)) / L, or None."""
    if not (serves(z, theta) and fits(z, theta)):
        return None
    out, by = torch.empty_like(z), Thresholds(theta.detach(), z[0])
    run(f"qcfs_{FORMATS[z.dtype]}", z.numel(), z, out, *by.arguments, real(levels, z.dtype), real(shift, z.dtype))
    return out


def qcfs_counts(z, theta, levels, shift):
    """((theta level(z)) / L, level(z) as int32, the sum of the levels, how many are not 0), or None; None for a NaN."""
    if not (serves(z, theta) and fits(z, theta)):
        return None
    out, counts, by = torch.empty_like(z), torch.empty_like(z, dtype=torch.int32), Thresholds(theta.detach(), z[0])
    totals = torch.zeros(torch.get_num_threads(), 8, dtype=torch.int64)
    run(f"qcfs_counts_{FORMATS[z.dtype]}", z.numel(), z, out, counts, *by.arguments, real(levels, z.dtype),
        real(shift, z.dtype), totals)  # fmt: skip
    total, some, wrong = totals.sum(0)[:3].tolist()
    return None if wrong else (out, counts, total, some)


def qcfs_backward(z, theta, upstream, levels, shift):
    """(d loss / dz, d loss / dtheta), or None."""
    if not (serves(z, theta, upstream) and fits(z, theta)):
        return None
    by, by_z = Thresholds(theta.detach(), z[0]), torch.empty_like(z)
    sums = torch.zeros(torch.get_num_threads(), by.count, dtype=torch.float64)
    numbers = (real(levels, z.dtype), real(shift, z.dtype))
    run(f"qcfs_backward_{FORMATS[z.dtype]}", z.numel(), z, like(z, upstream), by_z, *by.arguments, *numbers,
        sums)  # fmt: skip
    return by_z, (by.gathered(sums.sum(0)) / theta.detach()).to(theta.dtype)


def total_step(total, sent, theta, levels, t):
    """(spikes, (theta N) / L) of a step on totals, or None; N, `sent`, is updated. t < 0: signed, else [t < level]."""
    if not (serves(total, sent, theta) and fits(total, theta) and sent.stride() == total.stride()):
        return None
    spike, value, by = torch.empty_like(total), torch.empty_like(total), Thresholds(theta, total[0])
    run(f"total_step_{FORMATS[total.dtype]}", total.numel(), total, sent, spike, value, *by.arguments,
        real(levels, total.dtype), real(t, total.dtype))  # fmt: skip
    return spike, value


def _over_time(name, values, steps, state, first):
    """A kernel of (values, state) over [steps batch, ...], values one after another; None where it does not serve."""
    if not serves(values, state):
        return None
    values = values.contiguous()
    out, size = torch.empty_like(values), state.numel()
    run(f"{name}_{FORMATS[values.dtype]}", size, values, out, state, steps, size, real(first, values.dtype))
    return out


def running(values, steps, sums, first):
    """(sums + values_0 + ... + values_t) / (first + t) for each of `steps` steps in [steps batch, ...], or None.

    `sums` (contiguous, of a step's size) are updated.
    """
    return _over_time("running", values, steps, sums, first)


def increments(values, steps, before, first):
    """(first + t) values_t less the same a step before, or None; `before` is updated."""
    return _over_time("increments", values, steps, before, first)


def gaps(currents):
    """Whether `if_run` needs a copy of these currents [steps, batch, ...] that lies in memory step after step."""
    order = lies(currents)
    return order is None or order[0] != 0 or lies(currents[0])[0] != 0


def room(currents, steps, theta, states, out=None):
    """Memory for what `if_run` sends, step after step as the currents lie; None where these or states do not fit."""
    sample, order = currents[0], lies(currents)
    if order is None or order[0] != 0 or not fits(sample, theta):
        return None
    if any(state.stride() != sample.stride() for state in states):
        return None
    shape, strides = (steps, *sample.shape), (sample.numel(), *sample.stride())
    if out is None:
        return torch.empty_strided(shape, strides, dtype=sample.dtype, device=sample.device)
    assert (out.shape, out.stride()) == (shape, strides)
    return out


def if_run(currents, steps, theta, membrane=None, counts=None, out=None, unit=False):
    """theta s_t (s_t if `unit`) [steps, batch, ...] of the IF neuron, or None.

    currents [steps, batch, ...], or [1, batch, ...] for a constant one. `membrane` and `counts` [batch, ...] are
    updated; without a membrane it starts at theta / 2. `out` is memory for the answer.
    """
    states = [state for state in (membrane, counts) if state is not None]
    sent = room(currents, steps, theta, states, out) if serves(currents, theta, *states) else None
    if sent is None:
        return None
    sample, stride = currents[0], currents[0].numel() if len(currents) > 1 else 0
    run(f"if_run_{FORMATS[sample.dtype]}", sample.numel(), currents, stride, sent, sample.numel(), membrane, counts,
        int(unit), *Thresholds(theta, sample[0]).arguments, steps)  # fmt: skip
    return sent
