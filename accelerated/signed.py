"""Spikes that can be taken back: the functions of `reference.signed` on tensors."""

from collections.abc import Sequence
from itertools import chain, repeat

import torch

from .activation import qcfs_level, unchecked_level
from .checks import InputError, not_above_zero, tensor, whole
from .neuron import prepare, resting


def halves(levels: int) -> tuple:
    """The default worths of a halving neuron: L, L/2, ..., 1; the powers of two below L where L is none."""
    return tuple(2**power for power in reversed(range(whole(levels, "levels").bit_length())))


def whole_worths(worths) -> tuple:
    """The worths as a tuple; InputError unless they are whole numbers of at least 1, the last of them 1."""
    worths = tuple(whole(worth, "a worth") for worth in worths)
    if worths[-1:] != (1,):
        raise InputError(f"worths must end in 1, so that the answer becomes exact, got {worths}")
    return worths


def halving_step(
    total: torch.Tensor, sent: torch.Tensor, threshold: float | torch.Tensor, levels: int, worth: int, lowest: int = 0
) -> torch.Tensor:
    """The next spike of a halving neuron, -1 | 0 | 1, each worth w = `worth` levels (T6); all [batch, ...].

    +1 where u - N >= w / 2, -1 where u - N < -w / 2, with u = X L / theta; none that would leave lowest..L. `total` is
    the accumulated input X, `sent` the levels sent so far, N. For w = 1 it is clip(level(X) - N, -1, 1), as in T5.
    """
    total = tensor(total)
    qcfs_level(total, threshold, levels, lowest=lowest)  # checks
    sent, threshold = tensor(sent, like=total), tensor(threshold, like=total)
    return unchecked_halving_step(total, sent, threshold, levels, whole(worth, "worth"), lowest)


def unchecked_halving_step(total, sent, threshold, levels, worth, lowest=0):
    """`halving_step` of tensors that were checked."""
    if worth == 1:
        return torch.clamp(unchecked_level(total, threshold, levels, lowest=lowest) - sent, -1, 1)
    away = total * levels / threshold - sent
    up = (away >= worth / 2) & (sent + worth <= levels)
    down = (away < -worth / 2) & (sent - worth >= lowest)
    return up.to(total.dtype) - down.to(total.dtype)


def halving_membrane_step(membrane, current, sent, threshold, levels, lowest, worth):
    """One step of the incremental halving neuron: V <- V + z, then V <- V - w s d, with d = theta / L. Returns (s, V).

    s = +1 if V >= (1 + w) d / 2 and N + w <= L; -1 if V < (1 - w) d / 2 and N - w >= lowest; else 0. N = `sent`, and
    V = (u - N + 1/2) d is in units of the current: of whole currents and d, it is a whole number of halves.
    """
    membrane, value = membrane + current, threshold / levels
    up = (membrane >= (1 + worth) / 2 * value) & (sent + worth <= levels)
    down = (membrane < (1 - worth) / 2 * value) & (sent - worth >= lowest)
    spike = up.to(membrane.dtype) - down.to(membrane.dtype)
    return spike, membrane - worth * value * spike


def halving_run(
    currents: torch.Tensor,
    threshold: float | torch.Tensor,
    levels: int,
    worths: Sequence | None = None,
    lowest: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The halving neuron on increments: (spikes -1 | 0 | 1 [T, batch, ...], levels sent N [batch, ...]) (T6).

    A spike in step t is worth `worths[t]` levels, and 1 after the last of them; by default L, L/2, ..., 1. Once the
    input stops and every worth is 1, N settles at level(sum of all currents) within L - lowest steps.
    """
    currents, threshold = prepare(currents, threshold)
    levels, lowest = whole(levels, "levels"), not_above_zero(lowest)
    worths = halves(levels) if worths is None else whole_worths(worths)
    membrane, sent, spikes = resting(threshold / levels, currents.shape[1:]), torch.zeros_like(currents[0]), []
    for current, worth in zip(currents, chain(worths, repeat(1)), strict=False):
        spike, membrane = halving_membrane_step(membrane, current, sent, threshold, levels, lowest, worth)
        sent = sent + worth * spike
        spikes.append(spike)
    return torch.stack(spikes), sent


def signed_step(
    total: torch.Tensor, sent: torch.Tensor, threshold: float | torch.Tensor, levels: int, lowest: int = 0
) -> torch.Tensor:
    """The next signed spike, -1 | 0 | 1 = clip(level(total) - sent, -1, 1) (T3, T5): `halving_step` of worth 1."""
    return halving_step(total, sent, threshold, levels, 1, lowest)


def st_bif_run(
    currents: torch.Tensor, threshold: float | torch.Tensor, levels: int, lowest: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The signed neuron (ST-BIF) on increments: `halving_run` in which every spike is worth one level (T3).

    Returns (signed spikes [T, batch, ...], tracer N [batch, ...]).
    """
    return halving_run(currents, threshold, levels, (1,), lowest)
