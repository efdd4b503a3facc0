"""Checks of input, with errors of one clear line, for torch tensors; the names are those of `reference.checks`."""

from difflib import get_close_matches
from numbers import Integral

import torch

from isospike import InputError


def tensor(x, like=None):
    """`x` as a floating tensor; on the device and in the format of `like` if that is given."""
    if like is not None:
        return torch.as_tensor(x, dtype=like.dtype, device=like.device)
    x = torch.as_tensor(x)
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def whole(value, name, least=1):
    """`value` as an int of at least `least`; InputError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def first_line(error):
    """The first line that an exception says, or its name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _first(wrong):
    return tuple(int(i) for i in wrong.nonzero()[0])


def not_above_zero(lowest):
    """The lowest level as an int of at most 0; InputError otherwise."""
    if isinstance(lowest, bool) or not isinstance(lowest, Integral) or int(lowest) > 0:
        raise InputError(f"lowest must be a whole number of at most 0, got {lowest!r}")
    return int(lowest)


def positive(threshold, name="threshold"):
    """`threshold` unchanged if every element is positive and finite; InputError names the first that is not."""
    values = threshold.detach() if isinstance(threshold, torch.Tensor) else torch.tensor(threshold, device="cpu")
    wrong = ~((values > 0) & (values < float("inf")))
    if wrong.any():
        where = _first(wrong)
        place = f" at {where}" if where else ""
        raise InputError(f"{name} must be positive and finite, got {values[where].item():.6g}{place}")
    return threshold


def broadcasts(threshold, shape, name="threshold"):
    """`threshold` unchanged if it broadcasts against `shape` without enlarging it; InputError otherwise."""
    own = tuple(threshold.shape)
    if len(own) > len(shape) or any(n not in (1, m) for n, m in zip(own[::-1], tuple(shape)[::-1], strict=False)):
        raise InputError(f"a {name} of shape {own} does not broadcast against {tuple(shape)}")
    return threshold


def finite(x, name):
    """`x` unchanged if it holds neither NaN nor infinity; InputError names the first place otherwise."""
    if not x.detach().sum().isfinite():  # fast check; a sum of finite numbers may overflow too
        wrong = ~torch.isfinite(x)
        if not wrong.any():
            return x
        where = _first(wrong)
        raise InputError(f"{name} must be finite, got {x[where].item()} at {where}")
    return x


def one_of(value, choices, name):
    """`value` unchanged if it is among `choices`; otherwise InputError suggests the nearest one."""
    if value not in choices:
        near = get_close_matches(str(value), [str(c) for c in choices], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"unknown {name} {value!r}: choose from {', '.join(map(str, choices))}{hint}")
    return value
