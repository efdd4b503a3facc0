"""How a spiking layer's output differs from relu: clipping + quantisation + unevenness (Eq. 2-22, three parts)."""

from typing import NamedTuple

import torch
from torch import nn

from .activation import level_value, qcfs
from .conversion import convert
from .schedules import Schedule
from .simulation import propagate, simulate


class ConversionError(NamedTuple):
    """The three errors of one layer, each [batch, ...]; their sum is sent - relu(X)."""

    clipping: torch.Tensor  # min(relu(X), theta) - relu(X)
    quantisation: torch.Tensor  # qcfs(X) - min(relu(X), theta)
    unevenness: torch.Tensor  # sent - qcfs(X)

    @property
    def total(self) -> torch.Tensor:
        """sent - relu(X)."""
        return self.clipping + self.quantisation + self.unevenness


@torch.no_grad()
def conversion_error(
    network: nn.Module, x: torch.Tensor, steps: int, schedule: str | Schedule
) -> dict[str, ConversionError]:
    """{layer: ConversionError} of a quantised network simulated for `steps` steps, for each layer's own mean input X.

    X is the layer's operator applied to what the layers before have sent; `qcfs` has `steps` levels (signed: L, since
    a signed spike is worth theta / L). Unevenness is 0 under integrate-then-fire, and under signed once settled.
    A layer with levels below zero stands for X itself, which takes the place of relu(X).
    """
    spiking = convert(network, schedule)
    counts, errors = simulate(spiking, x, steps).counts, {}

    def neuron(name, module, mean):
        theta = module.threshold.to(mean.dtype)
        levels = spiking.schedule.resolution(steps, steps, module.levels)
        sent, lowest = level_value(counts[name].to(mean.dtype), theta, levels), module.lowest_at(levels)
        wanted = mean if lowest else torch.clamp(mean, min=0)
        clipped = torch.clamp(wanted, level_value(torch.full_like(theta, lowest), theta, levels), theta)
        quantised = qcfs(mean, theta, levels, lowest=lowest)
        errors[name] = ConversionError(clipped - wanted, quantised - clipped, sent - quantised)
        return sent

    propagate(spiking, x, neuron)
    return errors
