"""Where a spiking layer's output leaves relu: clipping + quantisation + unevenness (derivations 8.1)."""

from typing import NamedTuple

import numpy as np

from .activation import level_value, qcfs
from .checks import array, number
from .conversion import convert
from .simulation import propagate, simulate


class ConversionError(NamedTuple):
    """Three errors of one layer, each [batch, ...]; they add up to sent - relu(X)."""

    clipping: np.ndarray  # min(relu(X), theta) - relu(X)
    quantisation: np.ndarray  # qcfs(X) - min(relu(X), theta)
    unevenness: np.ndarray  # sent - qcfs(X)

    @property
    def total(self):
        """sent - relu(X)."""
        return self.clipping + self.quantisation + self.unevenness


def conversion_error(network, x, steps, schedule):
    """{layer: ConversionError} of a quantised network simulated for `steps`, each on that layer's own mean input X.

    X is the layer's operator applied to what the layers before have sent; `qcfs` has `steps` levels (signed: L, since
    a signed spike is worth theta / L). Unevenness is 0 under integrate-then-fire, and under signed once settled.
    """
    spiking = convert(network, schedule)
    counts, errors = simulate(spiking, x, steps).counts, {}

    def neuron(node, mean):
        theta, name = node["threshold"], node["name"]
        levels = node["levels"] if schedule == "signed" else steps
        sent = level_value(array(counts[name], like=mean), theta, levels)
        relu = np.maximum(mean, number(0, mean))
        clipped, quantised = np.minimum(relu, theta), qcfs(mean, theta, levels)
        errors[name] = ConversionError(clipped - relu, quantised - clipped, sent - quantised)
        return sent

    propagate(spiking, x, neuron)
    return errors
