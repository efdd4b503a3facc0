"""Weights on disk: safetensors, written whole or not at all, and checked by name and shape when they are read."""

import json
import os
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ..activation import WithLevels
from ..checks import InputError, first_line


@contextmanager
def whole_file(path):
    """A path to write to; afterwards `path` is either the old file or the whole new one, also after an error."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def written(path, write):
    """The path of a whole file that write(path) has written; InputError where it cannot be."""
    try:
        with whole_file(Path(path)) as part:
            write(part)
    except OSError as error:
        raise InputError(f"cannot write {path}: {first_line(error)}") from error
    return Path(path)


def activations(network):
    """{layer: "L = 8, softplus"} of a quantised or spiking network: what its parameters alone do not determine.

    With levels below zero: "L = -3..8, softplus".
    """
    layers = {name: m for name, m in network.named_modules() if isinstance(m, WithLevels)}
    found = {}
    for name, module in layers.items():
        levels, lowest, *others = module.stated().values()
        found[name] = ", ".join([f"L = {lowest}..{levels}" if lowest else f"L = {levels}", *others])
    return found


def save_weights(network, path):
    """Write all parameters and buffers of a network; the file is either the old one or the whole new one."""
    save_state(network.state_dict(), activations(network), path)


def save_state(state, kinds, path):
    """Write a state dictionary and the `activations` of its network, as `save_weights` does."""
    path = Path(path)
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    try:
        with whole_file(path) as part:
            save_file(weights, part, {"activations": json.dumps(kinds)})
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {path}: {first_line(error)}") from error


def thresholds_in(path):
    """{layer: shape of its threshold} in a file of weights, {} for a network of ReLUs; InputError if unreadable."""
    try:
        with safe_open(path, "pt") as file:
            layers = dict.fromkeys(json.loads((file.metadata() or {}).get("activations", "{}")))
            return {name: tuple(file.get_slice(f"{name}.parameter").get_shape()) for name in layers}
    except (OSError, SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {first_line(error)}") from error


def load_weights(network, path):
    """Read weights into a network and return it; InputError names the first difference and changes nothing."""
    try:
        found = load_file(path)
        with safe_open(path, "pt") as file:
            before = json.loads((file.metadata() or {}).get("activations", "{}"))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {first_line(error)}") from error
    wanted = network.state_dict()
    for name, value in wanted.items():
        if name not in found:
            raise InputError(f"{path} does not fit the network: it lacks {name!r}")
        if found[name].shape != value.shape:
            shapes = f"{tuple(found[name].shape)}, the network needs {tuple(value.shape)}"
            raise InputError(f"{path} does not fit the network: {name!r} has shape {shapes}")
    extra = sorted(set(found) - set(wanted))
    if extra:
        raise InputError(f"{path} does not fit the network: it has {extra[0]!r}, which the network has not")
    for name, kind in activations(network).items():
        if before.get(name, kind) != kind:
            raise InputError(f"{path} does not fit the network: {name!r} has {before[name]}, the network {kind}")
    network.load_state_dict(found)
    return network
