"""Spiking neurons, step by step. All reset softly (V <- V - theta) and fire at V >= theta.

Currents are [T, batch, ...]; theta broadcasts against one sample. Spikes are 0 / 1 (signed: -1 / 0 / 1), in the
arithmetic of the currents, so a count is a sum. Formulas: docs/derivations.md (3.1) to (5.2).
"""

import numpy as np

from .checks import InputError, array, broadcasts, finite, not_above_zero, number, positive


def prepare(currents, threshold):
    """Currents [T, batch, ...] with T >= 1 and a positive theta, in one arithmetic."""
    currents = array(finite(currents, "currents"))
    if currents.ndim < 2 or len(currents) < 1:
        raise InputError(f"currents must have shape [T, batch, ...] with T >= 1, got {currents.shape}")
    return currents, broadcasts(positive(array(threshold, like=currents)), currents.shape[2:])


def resting(threshold, shape, v0=None):
    """The membrane before the first step: `v0`, or else theta / 2; `shape` is [batch, ...]."""
    start = threshold / number(2, threshold) if v0 is None else array(finite(v0, "v0"), like=threshold)
    return np.broadcast_to(broadcasts(start, shape, "v0"), shape)


def if_step(membrane, current, threshold):
    """V <- V + z; s = [V >= theta]; V <- V - theta s. Returns (s, V). Eq. 2-8 and 2-10 without leak, as derived."""
    membrane = membrane + current
    spike = array(membrane >= threshold, like=membrane)
    return spike, membrane - threshold * spike


def bounded_step(membrane, sent, threshold, levels, lowest):
    """s = +1 if V >= theta and N < L; -1 if V < 0 and N > lowest; else 0; then V <- V - theta s. Returns (s, V)."""
    up = (membrane >= threshold) & (sent < levels)
    down = (membrane < 0) & (sent > lowest)
    spike = array(up, like=membrane) - array(down, like=membrane)
    return spike, membrane - threshold * spike


def lif_run(
    currents: np.ndarray, threshold: float | np.ndarray, leak: float, v0: float | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """V <- leak V + z_t, otherwise like `if_run`; leak in [0, 1]; leak = 1 is the IF neuron (Eq. 2-8)."""
    currents, threshold = prepare(currents, threshold)
    if not 0 <= leak <= 1:
        raise InputError(f"leak must lie in [0, 1], got {leak}")
    membrane, spikes = resting(threshold, currents.shape[1:], v0), []
    for current in currents:
        spike, membrane = if_step(membrane * number(leak, membrane), current, threshold)
        spikes.append(spike)
    return np.stack(spikes), membrane


def if_run(
    currents: np.ndarray, threshold: float | np.ndarray, v0: float | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The integrate-and-fire neuron: (spikes [T, batch, ...], last membrane [batch, ...]).

    A spike has the value theta; outputs are means. With constant current z and T = L, the count is level(z) (T1).
    InputError for currents that are not [T >= 1, batch, ...] and finite, or a theta that is not positive.
    """
    return lif_run(currents, threshold, 1, v0)


def integrate_then_fire_run(
    currents: np.ndarray, threshold: float | np.ndarray, lowest: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Integrate all T currents from theta / 2, then fire for max(T, -lowest) steps without input (T2).

    Returns (spikes of the firing phase [max(T, -lowest), batch, ...], membrane); the count is
    clip(floor(sum z / theta + 1/2), lowest, T), its spikes all of one sign.
    """
    currents, threshold = prepare(currents, threshold)
    lowest, membrane = not_above_zero(lowest), resting(threshold, currents.shape[1:])
    for current in currents:
        membrane = membrane + current
    sent, spikes = 0 * membrane, []
    for _ in range(max(len(currents), -lowest)):
        spike, membrane = bounded_step(membrane, sent, threshold, len(currents), lowest)
        sent = sent + spike
        spikes.append(spike)
    return np.stack(spikes), membrane
