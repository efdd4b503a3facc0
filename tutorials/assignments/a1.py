"""A1, the neuron. Fill in the functions; what you may import is in README.md, under Rules.

Shapes: currents [T, batch, ...], time first; threshold: a positive number, or an array that broadcasts against one sample
[...]. Return arrays of the format (dtype) of the currents. You may call your own functions from one another.
"""

import numpy as np  # noqa: F401


def qcfs_level(z, threshold, levels, shift=0.5):
    """The level of each z [batch, ...], a whole number 0..L: clip(floor(z L / theta + shift), 0, L) (derivations 2.1).

    In this order of operations: first z L, then the division, then the shift.
    """


def if_run(currents, threshold, v0=None):
    """The integrate-and-fire neuron (derivations 3.1). In every step, in this order:

        V <- V + z_t;   s_t = 1 if V >= theta, else 0;   V <- V - theta s_t

    V starts at theta / 2, or at `v0`. Returns (spikes [T, batch, ...], the last V [batch, ...]).
    """


def lif_run(currents, threshold, leak, v0=None):
    """As `if_run`, with the same soft reset, but the membrane decays first: V <- leak V + z_t, leak in [0, 1]."""


def integrate_then_fire_run(currents, threshold):
    """Add all T currents to V = theta / 2 without firing; then fire for T steps without any input (statement T2).

    Returns (spikes of the T firing steps [T, batch, ...], the last V [batch, ...]).
    """


def signed_step(total, sent, threshold, levels):
    """The next signed spike, -1, 0 or 1: one step from `sent` towards level(total) (statement T3).

    `total` [batch, ...] is the sum of all input so far, `sent` the spikes sent so far (a spike taken back counts as -1).
    """


def st_bif_run(currents, threshold, levels):
    """The signed neuron on its membrane. V starts at 1/2, in units of theta / L, and N, the spikes sent, at 0. Each step:

        V <- V + z_t L / theta
        s_t = 1 if V >= 1 and N < L;   s_t = -1 if V < 0 and N > 0;   else 0
        V <- V - s_t;   N <- N + s_t

    Returns (signed spikes [T, batch, ...], N [batch, ...]).
    """
