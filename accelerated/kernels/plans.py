"""A call of a kernel, checked against `ENTRIES` once for arguments of the same kinds, shapes and strides."""

import ctypes
from typing import NamedTuple

import torch

from ..checks import InputError
from .buffers import FORMATS, Buffer, Checked, size_of
from .entries import ENTRIES, REAL, WHOLE

REALS = {"float32": ctypes.c_float, "float64": ctypes.c_double}


def checked(name, dtype, device, parts, given):
    """The sizes of a call of ENTRIES[name]; InputError names the first argument that does not fit its declaration."""
    entry = ENTRIES[name]
    numbers = {key: value for key, value in given.items() if not isinstance(value, (torch.Tensor, list, type(None)))}
    call = Checked(name, dtype, device, numbers)
    for argument, declared in entry.arguments.items():
        if not isinstance(declared, Buffer):
            continue
        tensor = given.get(argument)
        if tensor is not None or not declared.optional:
            call.see(argument, declared, tensor)
        elif isinstance(declared.shape[0], str):
            call.sizes.setdefault(declared.shape[0], 0)  # there are none
    sizes = call.sizes
    for argument, declared in entry.arguments.items():
        if _is_list(declared):
            for i, part in enumerate(given[argument]):
                part.check(f"{argument} {i}", call)
    elements = size_of(entry.elements, sizes)
    sizes["parts"] = parts(elements)
    for condition in entry.conditions:
        if not size_of(condition, sizes):
            raise InputError(f"kernel {name}: {condition} does not hold, for {sizes}")
    return sizes, elements


class Plan(NamedTuple):
    """A checked call: the numbers of elements and parts, and its arguments, buffers by name."""

    elements: int
    parts: int
    arguments: tuple

    def filled(self, given):
        """The arguments in C's form, with the addresses of these buffers."""
        return [_address(given, argument) if isinstance(argument, str) else argument for argument in self.arguments]


_plans: dict = {}
MOST_PLANS = 4096  # plans kept: bounded, since networks of many sizes would fill the memory


def planned(name, dtype, device, given, least=None):
    """The `Plan` of a call; arguments of the same kinds, shapes and strides are checked only once.

    A part has at least `least` elements; without it, the plan is not for C, and has no arguments.
    """
    threads = torch.get_num_threads()
    try:
        key = name, dtype, device, least, threads, tuple(given), tuple(map(_looks, given.values()))
        if key in _plans:
            return _plans[key]
    except TypeError:  # not an argument of a kernel; the check names it
        key = None

    def parts(count):
        return max(1, min(threads, count // least)) if least else 1

    sizes, elements = checked(name, dtype, device, parts, given)
    arguments = _arguments(name, FORMATS[dtype], given, sizes) if least else ()
    plan = Plan(elements, sizes["parts"], tuple(arguments))
    if len(_plans) >= MOST_PLANS:
        _plans.clear()
    if key is not None:
        _plans[key] = plan
    return plan


def _looks(value):
    """All that decides whether an argument fits; not its contents or address."""
    if isinstance(value, torch.Tensor):
        return (value.shape, value.stride() if value.layout == torch.strided else None, value.dtype, value.device)
    if isinstance(value, list):
        return tuple(tuple(map(_looks, source)) for source in value)
    return value


def _arguments(name, format, given, sizes):
    """The arguments of C in order: numbers, and the names of buffers."""
    for argument, declared in ENTRIES[name].arguments.items():
        if isinstance(declared, Buffer) or _is_list(declared):
            yield argument
        if _is_list(declared):
            yield ctypes.c_longlong(len(given[argument]))
        elif declared == REAL:
            yield REALS[format](given[argument])
        elif not isinstance(declared, Buffer):
            yield ctypes.c_longlong(given[argument] if declared == WHOLE else size_of(declared, sizes))


def _is_list(declared):
    """Whether a list of structures was declared."""
    return isinstance(declared, type)


def _address(given, name):
    value = given.get(name)
    if isinstance(value, list):
        made = [part.in_c() for part in value]
        return ctypes.byref((type(made[0]) * len(made))(*made)) if made else None
    return ctypes.c_void_p(None if value is None else value.data_ptr())
