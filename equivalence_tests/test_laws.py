"""Laws that hold for every correct implementation, without a partner."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from .pairs import sum_to_arguments
from .strategies import dyadic_array, dyadic_neuron, near_step


def test_sum_to_is_the_adjoint_of_broadcasting(impl, rounds):
    """<broadcast(a), g> = <a, sum_to(g)>, exactly on dyadic numbers."""

    @rounds(60)
    @given(arguments=sum_to_arguments(), data=st.data())
    def check(arguments, data):
        g, shape = arguments
        a = data.draw(dyadic_array(shape)) if shape else np.array(0.75)
        summed = impl.sum_to(g, shape)
        assert np.shape(summed) == shape
        assert (np.broadcast_to(a, g.shape) * g).sum() == (a * summed).sum(), (shape, a, g)

    check()


def test_qcfs_is_idempotent_on_its_own_outputs(impl, rounds):
    """qcfs(qcfs(z)) = qcfs(z): an output lies in the middle of a step, half a step from any edge."""

    @rounds(100)
    @given(near_step())
    def check(arguments):
        z, theta, levels = arguments
        once = impl.qcfs(z, theta, levels)
        assert np.array_equal(impl.qcfs(once, theta, levels), once), arguments
        # half a step, and what rounding z L / theta + 1/2 <= 3 L + 1 and the division back may add
        half = theta / (2 * levels) + 16 * np.finfo(z.dtype).eps * theta
        assert np.shape(once) == z.shape, arguments
        assert (np.abs(once - np.clip(z, 0, theta)) <= half).all(), f"more than half a step off: {arguments}"

    check()


def test_levels_are_whole_numbers_between_0_and_L(impl, rounds):
    """qcfs_level returns 0..L, whatever the input, and the value of a level is (theta level) / L."""

    @rounds(100)
    @given(near_step())
    def check(arguments):
        z, theta, levels = arguments
        level = impl.qcfs_level(z, theta, levels)
        assert np.shape(level) == z.shape, arguments
        assert (level == np.round(level)).all(), arguments
        assert ((level >= 0) & (level <= levels)).all(), arguments
        assert np.array_equal(impl.qcfs(z, theta, levels), theta * level / z.dtype.type(levels)), arguments
        # one unit beside an edge that rounding may move by that much
        assert (
            np.abs(level - np.clip(z * levels / theta, 0, levels)) <= 0.5 + 16 * levels * np.finfo(z.dtype).eps
        ).all()

    check()


def test_counts_never_decrease_in_the_input(impl, rounds):
    """A larger current never gives fewer spikes: level for any z, integrate-then-fire for any train."""

    @rounds(60)
    @given(neuron=dyadic_neuron(), more=st.integers(0, 8), data=st.data())
    def check(neuron, more, data):
        currents, theta, steps = neuron
        t = data.draw(st.integers(0, steps - 1))
        larger = currents.copy()
        larger[t] += more * theta / (2 * steps)
        few, many = (impl.integrate_then_fire_run(z, theta)[0].sum(axis=0) for z in (currents, larger))
        assert (few <= many).all(), (neuron, more, t)
        low, high = (impl.qcfs_level(z.mean(axis=0), theta, steps) for z in (currents, larger))
        assert (low <= high).all(), (neuron, more, t)

    check()


def test_softplus_is_positive_and_its_inverse_undoes_it(impl, rounds):
    """softplus > 0 and softplus_inverse(softplus(x)) = x, as well as theta's own rounding allows."""

    @rounds(60)
    @given(st.floats(-30, 200))
    def check(x):
        theta = impl.softplus(np.array(x))
        assert theta > 0
        back = impl.softplus_inverse(theta)
        # an ulp of theta moves x by ulp (1 + e^-x), and theta ~ e^x below 0: a few ulp relative to max(1, |x|)
        assert abs(back - x) <= 16 * np.finfo(float).eps * max(1, abs(x)), x

    check()


def test_numbers_beyond_the_format_are_beyond_the_bounds(impl):
    """z L / theta overflows in float16: clipped to L or 0, and the derivatives are those of a saturated unit."""
    z, theta = np.array([[6e4, -6e4, 1e-3]], dtype=np.float16), np.array(1e-3, dtype=np.float16)
    assert impl.qcfs_level(z, theta, 16).tolist() == [[16, 0, 16]]
    by_z, by_theta = impl.qcfs_grad(z, theta, 16)
    assert by_z.tolist() == [[0, 0, 0]]
    assert by_theta.tolist() == [[1, 0, 1]]
