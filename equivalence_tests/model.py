"""The neurons once more, for the SMT solver: one variable each, over all real numbers at once.

Nothing is shared with the implementations; tests compare both at the points that the solver finds.
"""

import z3

HALF = z3.RealVal("1/2")


def level(z, theta, levels, shift=HALF):
    """clip(floor(z L / theta + phi), 0, L) as an integer term."""
    floor = z3.ToInt(z * levels / theta + shift)
    return z3.If(floor < 0, 0, z3.If(floor > levels, levels, floor))


def fire(membrane, theta):
    """(spike 0/1, membrane after a soft reset)."""
    fires = membrane >= theta
    return z3.If(fires, 1, 0), z3.If(fires, membrane - theta, membrane)


def if_count(currents, theta, v0):
    """Spikes of the IF neuron after all currents."""
    membrane, count = v0, z3.IntVal(0)
    for current in currents:
        spike, membrane = fire(membrane + current, theta)
        count = count + spike
    return count


def integrate_then_fire_count(currents, theta):
    """Spikes of a neuron that integrates all its currents first."""
    membrane, count = theta / 2 + z3.Sum(*currents), z3.IntVal(0)
    for _ in currents:
        spike, membrane = fire(membrane, theta)
        count = count + spike
    return count


def st_bif_step(membrane, current, sent, levels):
    """(spike, membrane, sent) of the signed neuron; membrane and current in units of theta / L."""
    membrane = membrane + current
    spike = z3.If(z3.And(membrane >= 1, sent < levels), 1, z3.If(z3.And(membrane < 0, sent > 0), -1, 0))
    return spike, membrane - spike, sent + spike


def halving_step(u, sent, levels, worth):
    """The spike of the halving neuron: u is the accumulated input in levels."""
    up = z3.And(2 * (u - sent) >= worth, sent + worth <= levels)
    down = z3.And(2 * (u - sent) < -worth, sent - worth >= 0)
    return z3.If(up, 1, z3.If(down, -1, 0))


def counterexample(claim, assumptions=(), seconds=120):
    """None if the claim holds for all values of its variables under the assumptions, else a model against it.

    A solver that gives up raises: "unknown" is not a proof.
    """
    solver = z3.Solver()
    solver.set("timeout", seconds * 1000)
    solver.add(*assumptions, z3.Not(claim))
    answer = solver.check()
    if answer == z3.unknown:
        raise RuntimeError(f"the solver gave up: {solver.reason_unknown()}")
    return solver.model() if answer == z3.sat else None
