"""How a spiking layer's output differs from relu: clipping + quantisation + unevenness (derivations 8.1)."""

from typing import NamedTuple

import numpy as np

from .activation import level_value, qcfs
from .checks import array, number
from .conversion import convert
from .schedules import Schedule
from .simulation import propagate, simulate


class ConversionError(NamedTuple):
    """The three errors of one layer, each [batch, ...]; their sum is sent - relu(X)."""

    clipping: np.ndarray  # min(relu(X), theta) - relu(X)
    quantisation: np.ndarray  # qcfs(X) - min(relu(X), theta)
    unevenness: np.ndarray  # sent - qcfs(X)

    @property
    def total(self) -> np.ndarray:
        """sent - relu(X)."""
        return self.clipping + self.quantisation + self.unevenness


def conversion_error(
    network: list[dict], x: np.ndarray, steps: int, schedule: str | Schedule
) -> dict[str, ConversionError]:
    """{layer: ConversionError} of a quantised network simulated for `steps` steps, for each layer's own mean input X.

    X is the layer's operator applied to what the layers before have sent; `qcfs` has `steps` levels (signed: L, since
    a signed spike is worth theta / L). Unevenness is 0 under integrate-then-fire, and under signed once settled.
    A layer with levels below zero stands for X itself, which takes the place of relu(X).
    """
    spiking = convert(network, schedule)
    counts = simulate(spiking, x, steps).counts
    schedule, errors = spiking.schedule, {}

    def sent(node, mean):
        theta, resolution = node["threshold"], schedule.resolution(steps, steps, node["levels"])
        lowest = schedule.lowest(resolution, node["levels"], node["lowest"])
        value = level_value(array(counts[node["name"]], like=mean), theta, resolution)
        errors[node["name"]] = _errors(mean, value, theta, resolution, lowest)
        return value

    propagate(spiking, x, sent)
    return errors


def _errors(mean, sent, theta, levels, lowest):
    """The three errors of a layer with mean input `mean` that has sent `sent`."""
    wanted = mean if lowest else np.maximum(mean, number(0, mean))
    least = level_value(array(lowest, like=mean), theta, levels)
    clipped, quantised = np.clip(wanted, least, theta), qcfs(mean, theta, levels, lowest=lowest)
    return ConversionError(clipped - wanted, quantised - clipped, sent - quantised)
