"""The functions of elementwise.py as Triton kernels, for CUDA devices; None if the arguments are not supported.

Every operation is rounded to the tensors' format, as in PyTorch, so values are PyTorch's bit for bit. Gradients of
thresholds are sums in another order, which is the same in every call. The threshold of element i is
numbers[(i // inner) % count], see `Thresholds`. With TRITON_INTERPRET=1 they run on the CPU, slowly, for tests.
"""

import functools
import os
import sys

import torch
import triton
import triton.language as tl

from ..checks import first_line
from . import Thresholds
from .elementwise import fits, gaps, like, room, same_shape  # noqa: F401  (gaps: for who asks this module)
from .plans import planned

FORMATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BLOCK, ROWS = 1024, 32  # elements per program; rows that a program of the backward pass sums


@triton.jit
def _wide(x):
    """Converted to the format in which PyTorch computes: float32 for the half formats."""
    return x if x.dtype == tl.float64 else x.to(tl.float32)


@triton.jit
def _rounded(x, kind: tl.constexpr):
    return _wide(x.to(kind))


@triton.jit
def _divided(a, b):
    """a / b as IEEE 754 rounds it, which Triton's own division of float32 does not."""
    return a / b if a.dtype == tl.float64 else tl.div_rn(a, b)


@triton.jit
def _places(size, BLOCK: tl.constexpr):
    """The elements of this program, and which of them exist."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return i, i < size


@triton.jit
def _thresholds(numbers, i, mask, count, inner):
    return _wide(tl.load(numbers + i // inner % count, mask=mask, other=1.0))


@triton.jit
def _u(z, theta, kind: tl.constexpr, LEVELS: tl.constexpr, SHIFT: tl.constexpr):
    """z L / theta + phi"""
    return _rounded(_rounded(_divided(_rounded(z * LEVELS, kind), theta), kind) + SHIFT, kind)


@triton.jit
def _level(u, LEVELS: tl.constexpr, LOWEST: tl.constexpr):
    """clip(floor(u), lowest, L); a NaN stays one"""
    level = tl.floor(u)
    return tl.where(level < LOWEST, LOWEST, tl.where(level > LEVELS, LEVELS, level)).to(u.dtype)


@triton.jit
def _value(theta, level, kind: tl.constexpr, LEVELS: tl.constexpr):
    """(theta level) / L"""
    return _divided(_rounded(theta * level, kind), tl.zeros_like(level) + LEVELS).to(kind)


@triton.jit
def _qcfs(z, out, numbers, count, inner, size, LEVELS: tl.constexpr, SHIFT: tl.constexpr,
          LOWEST: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    i, mask = _places(size, BLOCK)
    kind: tl.constexpr = z.dtype.element_ty
    theta = _thresholds(numbers, i, mask, count, inner)
    level = _level(_u(_wide(tl.load(z + i, mask=mask, other=0.0)), theta, kind, LEVELS, SHIFT), LEVELS, LOWEST)
    tl.store(out + i, _value(theta, level, kind, LEVELS), mask=mask)


@triton.jit
def _qcfs_counts(z, out, counts, totals, numbers, count, inner, size, LEVELS: tl.constexpr, SHIFT: tl.constexpr,
                 LOWEST: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Also the levels; per program the sum of their sizes, and the numbers that are not 0 and that are NaN."""
    i, mask = _places(size, BLOCK)
    kind: tl.constexpr = z.dtype.element_ty
    theta = _thresholds(numbers, i, mask, count, inner)
    level = _level(_u(_wide(tl.load(z + i, mask=mask, other=0.0)), theta, kind, LEVELS, SHIFT), LEVELS, LOWEST)
    tl.store(out + i, _value(theta, level, kind, LEVELS), mask=mask)
    wrong = (level != level) & mask
    whole = tl.where(wrong | (i >= size), 0.0, level).to(tl.int32)
    tl.store(counts + i, whole, mask=mask)
    place = totals + tl.program_id(0) * 3
    tl.store(place, tl.sum(tl.abs(whole.to(tl.int64))))
    tl.store(place + 1, tl.sum((whole != 0).to(tl.int64)))
    tl.store(place + 2, tl.sum(wrong.to(tl.int64)))


@triton.jit
def _qcfs_backward(z, upstream, by_z, sums, numbers, count, inner, size, width, LEVELS: tl.constexpr,
                   SHIFT: tl.constexpr, LOWEST: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Of ROWS rows of `width` elements each: upstream [lowest <= u < L], and by columns the sum of upstream d/dtheta.

    d/dtheta = (qcfs(z) - z) / theta inside, 1 above, lowest / L below.
    """
    column = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kind: tl.constexpr = z.dtype.element_ty
    theta = _thresholds(numbers, column, column < width, count, inner)
    total = tl.zeros_like(theta)
    for row in range(ROWS):
        i = (tl.program_id(0).to(tl.int64) * ROWS + row) * width + column
        mask = (column < width) & (i < size)
        current = _wide(tl.load(z + i, mask=mask, other=0.0))
        gradient = _wide(tl.load(upstream + i, mask=mask, other=0.0))
        u = _u(current, theta, kind, LEVELS, SHIFT)
        inside = (u >= LOWEST) & (u < LEVELS)
        tl.store(by_z + i, (gradient * tl.where(inside, 1.0, 0.0)).to(kind), mask=mask)
        value = _wide(_value(theta, _level(u, LEVELS, LOWEST), kind, LEVELS))
        slope = tl.where(inside, _divided(value - current, theta), tl.where(u >= LEVELS, 1.0, LOWEST / LEVELS))
        total += gradient * slope
    tl.store(sums + tl.program_id(0).to(tl.int64) * width + column, total, mask=column < width)


@triton.jit
def _total_step(total, sent, spike, value, numbers, count, inner, size, t, WORTH: tl.constexpr, LEVELS: tl.constexpr,
                LOWEST: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """WORTH 0: s = sign(level(total)) while t < |level(total)|; else the spike of a neuron that settles, w = WORTH.

    N <- N + w s; value = (theta N) / L. As in elementwise.h.
    """
    i, mask = _places(size, BLOCK)
    kind: tl.constexpr = total.dtype.element_ty
    theta = _thresholds(numbers, i, mask, count, inner)
    current = _wide(tl.load(total + i, mask=mask, other=0.0))
    level = _level(_u(current, theta, kind, LEVELS, 0.5), LEVELS, LOWEST)
    before = _wide(tl.load(sent + i, mask=mask, other=0.0))
    if WORTH == 0:
        fired = tl.where(t < level, 1.0, tl.where(t < -level, -1.0, 0.0)).to(level.dtype)
        now = before + fired
    elif WORTH == 1:
        more = level - before
        fired = tl.where(more < -1, -1.0, tl.where(more > 1, 1.0, more)).to(level.dtype)
        now = before + fired
    else:
        away = _rounded(_u(current, theta, kind, LEVELS, 0.0) - before, kind)
        up = (away >= WORTH / 2) & (before + WORTH <= LEVELS)
        down = (away < -WORTH / 2) & (before - WORTH >= LOWEST)
        fired = tl.where(up, 1.0, tl.where(down, -1.0, 0.0)).to(level.dtype)
        now = before + WORTH * fired
    tl.store(spike + i, fired.to(kind), mask=mask)
    tl.store(sent + i, now.to(kind), mask=mask)
    tl.store(value + i, _value(theta, _rounded(now, kind), kind, LEVELS), mask=mask)


@triton.jit
def _if_run(z, z_step, out, out_step, membrane, counts, numbers, count, inner, size, steps, UNIT: tl.constexpr,
            KEPT: tl.constexpr, COUNTED: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """V <- V + z_t; s_t = [V >= theta]; V <- V - theta s_t, from `membrane` if KEPT, else from theta / 2."""
    i, mask = _places(size, BLOCK)
    kind: tl.constexpr = z.dtype.element_ty
    theta = _thresholds(numbers, i, mask, count, inner)
    v, n = _rounded(theta * 0.5, kind), tl.zeros_like(theta)
    if KEPT:
        v = _wide(tl.load(membrane + i, mask=mask, other=0.0))
    for t in range(steps):
        high = _rounded(v + _wide(tl.load(z + t * z_step + i, mask=mask, other=0.0)), kind)
        fires = high >= theta
        v = tl.where(fires, _rounded(high - theta, kind), high)
        n += tl.where(fires, 1.0, 0.0).to(n.dtype)
        worth = tl.where(fires, 1.0, 0.0).to(n.dtype) if UNIT else tl.where(fires, theta, 0.0)
        tl.store(out + t * out_step + i, worth.to(kind), mask=mask)
    if KEPT:
        tl.store(membrane + i, v.to(kind), mask=mask)
    if COUNTED:
        before = _wide(tl.load(counts + i, mask=mask, other=0.0))
        tl.store(counts + i, (before + n).to(kind), mask=mask)


@triton.jit
def _running(x, out, sums, steps, size, first, BLOCK: tl.constexpr):
    """out_t = (sums + x_0 + ... + x_t) / (first + t); sums are updated."""
    i, mask = _places(size, BLOCK)
    kind: tl.constexpr = x.dtype.element_ty
    total = _wide(tl.load(sums + i, mask=mask, other=0.0))
    for t in range(steps):
        total = _rounded(total + _wide(tl.load(x + t * size + i, mask=mask, other=0.0)), kind)
        step = tl.zeros_like(total) + (first + t)
        tl.store(out + t * size + i, _divided(total, step).to(kind), mask=mask)
    tl.store(sums + i, total.to(kind), mask=mask)


@triton.jit
def _increments(f, out, before, steps, size, first, BLOCK: tl.constexpr):
    """out_t = (first + t) f_t minus the same one step earlier; `before` is updated."""
    i, mask = _places(size, BLOCK)
    kind: tl.constexpr = f.dtype.element_ty
    last = _wide(tl.load(before + i, mask=mask, other=0.0))
    for t in range(steps):
        now = _rounded(_wide(tl.load(f + t * size + i, mask=mask, other=0.0)) * (first + t), kind)
        tl.store(out + t * size + i, (now - last).to(kind), mask=mask)
        last = now
    tl.store(before + i, last.to(kind), mask=mask)


def interpreted():
    """Whether Triton's kernels are interpreted on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def works():
    """Whether Triton can compile and run a kernel here; if not, one line on stderr says why."""
    try:
        x = torch.ones(1, device="cpu" if interpreted() else "cuda")
        _launch(_running, 1, x, torch.empty_like(x), torch.zeros_like(x), 1, 1, 1)
    except Exception as error:  # compilers raise many kinds
        said = first_line(error)
        print(f"isospike: Triton's kernels do not run ({said}); PyTorch does their work, slower", file=sys.stderr)
        return False
    return True


def serves(*tensors):
    """Whether these kernels support these tensors: all on one CUDA device, in one format, not under torch.compile."""
    places = {tensor.device for tensor in tensors}
    here = len(places) == 1 and (places.pop().type == "cuda" or interpreted())
    kinds = {tensor.dtype for tensor in tensors}
    return here and len(kinds) == 1 and kinds <= set(FORMATS) and not torch.compiler.is_compiling() and works()


def _launch(kernel, size, first, *arguments, grid=None, block=BLOCK, **constants):
    grid = grid or (triton.cdiv(size, block),)
    with torch.cuda.device(first.device if first.is_cuda else -1):
        # no fused multiply-adds: they round once where PyTorch rounds twice
        kernel[grid](first, *arguments, BLOCK=block, enable_fp_fusion=False, **constants)


def _check(name, first, by=None, **given):
    """Check the buffers of a launch against entries.py; returns the arguments of a threshold."""
    thresholds = by.arguments if by else {}
    planned(name, first.dtype, first.device, {**given, **thresholds})
    return (by.numbers, by.count, by.inner) if by else ()


def qcfs(z, theta, levels, shift, lowest=0):
    """(theta level(z)) / L, or None."""
    if not (serves(z, theta) and fits(z, theta)):
        return None
    out = torch.empty_like(z)
    thresholds = _check("qcfs", z, Thresholds(theta.detach(), z[0]), z=z, out=out)
    _launch(_qcfs, z.numel(), z, out, *thresholds, z.numel(), LEVELS=float(levels), SHIFT=float(shift),
            LOWEST=float(lowest))  # fmt: skip
    return out


def qcfs_counts(z, theta, levels, shift, lowest=0):
    """((theta level(z)) / L, level(z) as int32, the sum of their sizes, the number not 0), or None; None for a NaN."""
    if not (serves(z, theta) and fits(z, theta)):
        return None
    out, counts = torch.empty_like(z), torch.empty_like(z, dtype=torch.int32)
    totals = torch.empty(triton.cdiv(z.numel(), BLOCK), 3, dtype=torch.int64, device=z.device)
    by = Thresholds(theta.detach(), z[0])
    thresholds = _check("gpu_qcfs_counts", z, by, z=z, out=out, counts=counts, totals=totals, block=BLOCK)
    _launch(_qcfs_counts, z.numel(), z, out, counts, totals, *thresholds, z.numel(), LEVELS=float(levels),
            SHIFT=float(shift), LOWEST=float(lowest))  # fmt: skip
    total, some, wrong = totals.sum(0).tolist()
    return None if wrong else (out, counts, total, some)


def qcfs_backward(z, theta, upstream, levels, shift, lowest=0):
    """(d loss / dz, d loss / dtheta), or None."""
    same_shape(z, upstream=upstream)
    if not (serves(z, theta, upstream) and fits(z, theta)):
        return None
    by, by_z, size, upstream = Thresholds(theta.detach(), z[0]), torch.empty_like(z), z.numel(), like(z, upstream)
    width = BLOCK if by.count == 1 else by.count * by.inner
    rows = triton.cdiv(triton.cdiv(size, width), ROWS)
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    sums = torch.empty(rows, width, dtype=wide, device=z.device)
    thresholds = _check("gpu_qcfs_backward", z, by, z=z, upstream=upstream, by_z=by_z, sums=sums, deep=ROWS)
    _launch(_qcfs_backward, size, z, upstream, by_z, sums, *thresholds, size, width, ROWS=ROWS,
            LEVELS=float(levels), SHIFT=float(shift), LOWEST=float(lowest),
            grid=(rows, triton.cdiv(width, BLOCK)))  # fmt: skip
    sums = sums.sum(0, dtype=torch.float64)
    sums = sums.sum().reshape(1) if by.count == 1 else sums.reshape(by.count, by.inner).sum(1)
    return by_z, by.gathered(sums).to(theta.dtype)


def total_step(total, sent, theta, levels, t, lowest=0):
    """(spikes, (theta N) / L) of a step on totals, or None; N, `sent`, is updated. t < 0: each spike is worth -t."""
    same_shape(total, sent=sent)
    if not (serves(total, sent, theta) and fits(total, theta) and sent.stride() == total.stride()):
        return None
    spike, value, by = torch.empty_like(total), torch.empty_like(total), Thresholds(theta, total[0])
    thresholds = _check("total_step", total, by, total=total, sent=sent, spike=spike, value=value)
    _launch(_total_step, total.numel(), total, sent, spike, value, *thresholds, total.numel(), int(t),
            WORTH=max(-t, 0), LEVELS=float(levels), LOWEST=float(lowest))  # fmt: skip
    return spike, value


def _over_time(name, kernel, values, steps, state, first):
    if not serves(values, state):
        return None
    values = values.contiguous()
    out = torch.empty_like(values)
    _check(name, values, values=values.view(steps, -1), out=out.view(steps, -1), state=state.view(-1))
    _launch(kernel, state.numel(), values, out, state, steps, state.numel(), int(first))
    return out


def running(values, steps, sums, first):
    """(sums + values_0 + ... + values_t) / (first + t) in each step of [steps batch, ...], or None; `sums` change."""
    return _over_time("running", _running, values, steps, sums, first)


def increments(values, steps, before, first):
    """(first + t) values_t minus the same one step earlier, or None; `before` is updated."""
    return _over_time("increments", _increments, values, steps, before, first)


def if_run(currents, steps, theta, membrane=None, counts=None, out=None, unit=False):
    """theta s_t (s_t if `unit`) [steps, batch, ...] of the IF neuron, or None; as on the CPU."""
    states = [state for state in (membrane, counts) if state is not None]
    sent = room(currents, steps, theta, states, out) if serves(currents, theta, *states) else None
    if sent is None:
        return None
    size, by = sent[0].numel(), Thresholds(theta, currents[0][0])
    z_step = size if len(currents) > 1 else 0
    thresholds = _check("if_run", sent, by, z=currents, out=sent, membrane=membrane, counts=counts)
    _launch(_if_run, size, currents, z_step, sent, size, membrane, counts, *thresholds, size, steps, UNIT=unit,
            KEPT=membrane is not None, COUNTED=counts is not None)  # fmt: skip
    return sent
