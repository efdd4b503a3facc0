"""Checks of input, with errors of one clear line, and numbers that stay exact.

`number` and `array` keep a computation in the arithmetic of its input: float16 stays float16, and an object
array of `fractions.Fraction` stays exact (every float is a fraction, so its conversion is exact).
"""

from difflib import get_close_matches
from fractions import Fraction
from numbers import Integral

import numpy as np

from isospike import InputError


def is_exact(x):
    """Whether `x` is an object array, that is, holds `Fraction`s."""
    return np.asarray(x).dtype == object


def array(x, like=None):
    """`x` as an array of floats or Fractions; in the arithmetic of `like` if that is given."""
    x = np.asarray(x)
    kind = x.dtype if like is None else np.asarray(like).dtype
    if kind.hasobject:
        return np.frompyfunc(Fraction, 1, 1)(x) if x.ndim else np.array(Fraction(x.item()), dtype=object)
    return x.astype(kind if np.issubdtype(kind, np.floating) else np.float64, copy=False)


def number(value, like):
    """A Python number that does not change the arithmetic of `like`: Fraction(4) / 3 is exact, 4 / 3 is not."""
    return Fraction(value) if is_exact(like) else value


def whole(value, name, least=1):
    """`value` as an int of at least `least`; InputError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def not_above_zero(lowest):
    """The lowest level as an int of at most 0; InputError otherwise."""
    if isinstance(lowest, bool) or not isinstance(lowest, Integral) or int(lowest) > 0:
        raise InputError(f"lowest must be a whole number of at most 0, got {lowest!r}")
    return int(lowest)


def positive(threshold, name="threshold"):
    """`threshold` unchanged if every element is positive and finite; InputError names the first that is not."""
    values = np.asarray(threshold)
    wrong = ~np.asarray((values > 0) & (values < float("inf")), dtype=bool)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        place = f" at {where}" if where else ""
        raise InputError(f"{name} must be positive and finite, got {values[where]}{place}")
    return threshold


def broadcasts(threshold, shape, name="threshold"):
    """`threshold` unchanged if it broadcasts against `shape` without enlarging it; InputError otherwise."""
    own = np.shape(threshold)
    if len(own) > len(shape) or any(n not in (1, m) for n, m in zip(own[::-1], shape[::-1], strict=False)):
        raise InputError(f"a {name} of shape {own} does not broadcast against {tuple(shape)}")
    return threshold


def finite(x, name):
    """`x` unchanged if it holds neither NaN nor infinity; InputError names the first place otherwise."""
    x = np.asarray(x)
    if x.dtype != object and not np.isfinite(x).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise InputError(f"{name} must be finite, got {x[where]} at {where}")
    return x


def one_of(value, choices, name):
    """`value` unchanged if it is among `choices`; otherwise InputError suggests the nearest one."""
    if value not in choices:
        near = get_close_matches(str(value), [str(c) for c in choices], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"unknown {name} {value!r}: choose from {', '.join(map(str, choices))}{hint}")
    return value
