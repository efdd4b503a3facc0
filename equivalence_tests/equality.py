"""Equality with a message that teaches: the result, the expected value, the statement, the input."""

import numpy as np


def plainly(value):
    """A number or array as short text; size-1 axes left out."""
    array = np.squeeze(np.asarray(value))
    return str(array.tolist() if array.size <= 12 else f"{array.ravel()[:12].tolist()} and so on")


def assert_equal(what, got, expected, law, **given):
    """Assert that arrays agree in shape and every element; `given` is the input by name."""
    got, expected = np.asarray(got), np.asarray(expected)
    on = ", ".join(f"{name} = {plainly(value)}" for name, value in given.items())
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape} ({law}); {on}"
    assert np.array_equal(got, expected), f"{what}: {plainly(got)}, expected {plainly(expected)} ({law}); {on}"
