"""T1, T2, T3, T6 and N1 over all real numbers, by an SMT solver; each claim's broken neighbours have counterexamples.

theta = 1 without loss of generality: every quantity scales with it (docs/derivations.md, (2.2)).
"""

from fractions import Fraction

import numpy as np
import pytest
import z3

import reference
from reference import signed

from . import model

ONE, HALF = z3.RealVal(1), z3.RealVal("1/2")


def as_fraction(m, variable):
    value = m.eval(variable, model_completion=True)
    return Fraction(value.numerator_as_long(), value.denominator_as_long())


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 13, 16, 32])
def test_T1_constant_current_over_all_reals(steps):
    z = z3.Real("z")
    claim = model.if_count([z] * steps, ONE, HALF) == model.level(z, ONE, steps)
    assert model.counterexample(claim) is None


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_T1_varying_current_within_0_theta_and_any_shift(steps):
    currents, phi = z3.Reals(" ".join(f"z{t}" for t in range(steps))), z3.Real("phi")
    mean = z3.Sum(*currents) / steps
    claim = model.if_count(currents, ONE, phi) == model.level(mean, ONE, steps, phi)
    inside = [z3.And(z >= 0, z <= 1) for z in currents]
    assert model.counterexample(claim, [*inside, phi >= 0, phi <= 1]) is None


@pytest.mark.parametrize(
    ("broken", "v0", "levels"),
    [("V0 = 0", "0", 4), ("V0 = 0.5 / T (the summary's)", "1/8", 4), ("T != L", "1/2", 3)],
)
def test_T1_needs_each_of_its_conditions(broken, v0, levels):
    z = z3.Real("z")
    count = model.if_count([z] * 4, ONE, z3.RealVal(v0))
    equal = count * levels == model.level(z, ONE, levels) * 4
    found = model.counterexample(equal)
    assert found is not None, f"{broken}: no counterexample, so the test proves nothing"
    point = np.array([as_fraction(found, z)], dtype=object)
    spikes, _ = reference.if_run(np.stack([[point]] * 4)[:, 0], Fraction(1), v0=Fraction(v0))
    value = reference.qcfs(point, Fraction(1), levels)
    assert spikes.sum() / 4 != value[0], f"{broken}: the reference does not confirm the solver's point {point[0]}"


def test_T1_fails_with_a_strict_threshold():
    z, membrane, count = z3.Real("z"), HALF, z3.IntVal(0)
    for _ in range(2):
        fires = membrane + z > 1
        membrane, count = z3.If(fires, membrane + z - 1, membrane + z), count + z3.If(fires, 1, 0)
    assert model.counterexample(count == model.level(z, ONE, 2)) is not None


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 8])
def test_T2_any_order_over_all_reals(steps):
    currents = z3.Reals(" ".join(f"z{t}" for t in range(steps)))
    mean = z3.Sum(*currents) / steps
    claim = model.integrate_then_fire_count(list(currents), ONE) == model.level(mean, ONE, steps)
    assert model.counterexample(claim) is None


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 8, 16])
def test_T3_a_step_moves_towards_the_level(levels):
    """Invariant and step at once: V = u - N with N in [0, L] gives N + sign(level - N), whatever came before."""
    u, sent = z3.Real("u"), z3.Int("sent")  # u = (total input) L / theta + 1/2, this step's input included
    target = model.level(u / levels, ONE, levels, z3.RealVal(0))
    spike, membrane, after = model.st_bif_step(u - sent, 0, sent, levels)
    sign = z3.If(target > sent, 1, z3.If(target < sent, -1, 0))
    claim = z3.And(spike == sign, after >= 0, after <= levels, membrane == u - after)
    assert model.counterexample(claim, [sent >= 0, sent <= levels]) is None


@pytest.mark.parametrize("missing", ["N < L", "N > 0"])
def test_T3_needs_each_bound_on_what_was_sent(missing):
    u, sent = z3.Real("u"), z3.Int("sent")
    fires = u - sent >= 1 if missing == "N < L" else z3.And(u - sent >= 1, sent < 4)
    takes_back = u - sent < 0 if missing == "N > 0" else z3.And(u - sent < 0, sent > 0)
    unbounded = z3.If(fires, 1, z3.If(takes_back, -1, 0))
    target = model.level(u / 4, ONE, 4, z3.RealVal(0))
    sign = z3.If(target > sent, 1, z3.If(target < sent, -1, 0))
    assert model.counterexample(unbounded == sign, [sent >= 0, sent <= 4]) is not None


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 8, 16])
def test_T6_a_step_stays_within_bounds_and_worth_1_is_signed(levels):
    """For every real u, every whole N in 0..L and every worth: N + w s is in 0..L; at w = 1, s = sign(level - N)."""
    u, (sent, worth) = z3.Real("u"), z3.Ints("sent worth")
    inside = [sent >= 0, sent <= levels, worth >= 1]
    after = sent + worth * model.halving_step(u, sent, levels, worth)
    assert model.counterexample(z3.And(after >= 0, after <= levels), inside) is None
    target = model.level(u / levels, ONE, levels)
    sign = z3.If(target > sent, 1, z3.If(target < sent, -1, 0))
    assert model.counterexample(model.halving_step(u, sent, levels, 1) == sign, inside) is None


@pytest.mark.parametrize("levels", [1, 2, 4, 8, 16])
def test_T6_halving_codes_a_constant_input(levels):
    """For every real u held from step 1: N = level after the worths L, L/2, ..., 1 (14.3)."""
    u, sent = z3.Real("u"), z3.IntVal(0)
    for worth in signed.halves(levels):
        sent = sent + worth * model.halving_step(u, sent, levels, worth)
    assert model.counterexample(sent == model.level(u / levels, ONE, levels)) is None


@pytest.mark.parametrize("broken", ["starts at L / 2", "fires above half a worth alone", "does not take back"])
def test_T6_coding_needs_each_part_of_the_rule(broken):
    """From w = L / 2 an input of L is not reached in one pass; strictly above half and without -1, others are not."""
    u, sent = z3.Real("u"), z3.IntVal(0)
    for worth in (2, 1) if broken.startswith("starts") else (4, 2, 1):
        spike = model.halving_step(u, sent, 4, worth)
        if broken.startswith("fires"):
            spike = z3.If(2 * (u - sent) == worth, 0, spike)
        if broken.startswith("does"):
            spike = z3.If(spike < 0, 0, spike)
        sent = sent + worth * spike
    found = model.counterexample(sent == model.level(u / 4, ONE, 4))
    assert found is not None
    if broken.startswith("starts"):
        point = np.array([[as_fraction(found, u)]], dtype=object)
        held = np.concatenate([point[None] / 4, point[None] * 0])
        _, count = reference.halving_run(held, Fraction(1), 4, (2, 1))
        assert count != reference.qcfs_level(point / 4, Fraction(1), 4), "the reference does not confirm the point"


@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("early", [True, False])
def test_N1_the_solver_finds_uneven_currents(steps, early):
    """Streaming fails once currents leave [0, theta]: a spike too many (early), or one too few."""
    currents = z3.Reals(" ".join(f"z{t}" for t in range(steps)))
    count = model.if_count(currents, ONE, HALF)
    target = model.level(z3.Sum(*currents) / steps, ONE, steps)
    found = model.counterexample(count <= target if early else count >= target)
    assert found is not None
    values = [as_fraction(found, z) for z in currents]
    assert any(not 0 <= z <= 1 for z in values), "inside [0, theta] T1 forbids it"
    z = np.array(values, dtype=object)[:, None, None]
    spikes, _ = reference.if_run(z, Fraction(1))
    wanted = reference.qcfs_level(z.sum(axis=0) / Fraction(steps), Fraction(1), steps)
    assert (spikes.sum(axis=0) > wanted).all() if early else (spikes.sum(axis=0) < wanted).all()
