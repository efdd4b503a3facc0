"""Operators of a spiking network on increments: `reference.increments` on a graph of torch modules."""

import copy
from functools import partial

import torch
from torch.fx.node import map_arg
from torch.utils._pytree import tree_map

from .checks import InputError
from .graph.operations import (
    FIXED,
    WEIGHTED,
    Kind,
    kinds_of,
    module_of,
    named,
    operation_of,
    place_of,
    unbiased_arguments,
)  # fmt: skip
from .graph.trace import value_of
from .tokens import product_step


class Shown:
    """The images of a run's last step: notices other images, and the same tensor when it was overwritten.

    `keep` also keeps their values in `copy`.
    """

    def __init__(self, x, keep=False):
        self.x, self.version = x, None if x.is_inference() else x._version
        self.copy = x.clone() if keep or x.is_inference() else None  # inference tensors do not count their changes

    def changed(self, x):
        """Whether x holds other images."""
        if x is not self.x:
            return True
        if self.version is None:
            return self.copy is None or not torch.equal(x, self.copy)
        return x._version != self.version


def difference(node, total, before):
    """total - before, and 0 where both are the same infinity (a mask); InputError for what has no increments."""
    if total.dtype == torch.bool:
        raise InputError(
            f"{named(node)}{place_of(node)} says true or false, which has no increments: simulate on totals"
        )
    return torch.where(total == before, torch.zeros_like(total), total - before)


def _without_bias(module):
    """A module with the same weight and no bias."""
    module = copy.copy(module)
    module._parameters = {**module._parameters, "bias": None}
    return module


class IncrementalOperators:
    """All operators of a network in one run of `steps` steps (per phase), with their running sums."""

    def __init__(self, network, steps):
        self.schedule, self.operators, self.depth = network.schedule, network.operators, network.depth
        self.graph, self.steps = network.graph, steps
        self.kinds = kinds_of(network.graph)
        self.unbiased = {}  # node of a weighted module -> the module without its bias
        for node, kind in self.kinds.items():
            module = module_of(self.graph, node) if kind is Kind.LINEAR else None
            if operation_of(self.graph, node) in WEIGHTED and module is not None:
                self.unbiased[node] = _without_bias(module)
        self.zeros: dict = {}  # weighted node -> what it returns for no spikes
        self.sums: dict = {}
        self.shown: Shown | None = None

    def image(self, x, now):
        """The increment of the image [batch, ...] in step `now` (from 0); the image may change between steps."""
        if self.shown is not None and self.shown.changed(x):
            before, self.shown = self.shown.copy, Shown(x, keep=self.schedule.settles)
            if self.schedule.settles:
                return x - before
        self.shown = self.shown or Shown(x, keep=self.schedule.settles)
        return x if self.schedule.due(now, self.steps, 0) else torch.zeros_like(x)

    def __call__(self, node, values, now):
        """The increment of a node's output in step `now`, from those of its inputs."""
        kind = self.kinds[node]
        if kind is Kind.OUTPUT:  # read out from what was sent
            return None
        if kind in FIXED or self.operators == "per-step":
            return value_of(self.graph, node, values)
        moving = [source for source in node.all_input_nodes if self.kinds[source] not in FIXED]
        if kind is Kind.LINEAR:
            on = self.schedule.due(now, self.steps, max(self.depth[source.name] for source in moving))
            return value_of(self.graph, node, values) if on else self._unbiased(node, values)
        # the sum represents `scale` presentations of the image: the output's total is scale f(sum / scale)
        scale = self.schedule.images(now, self.steps)
        sums, before = self.sums.get(node, ([0] * len(moving), None))
        if kind is Kind.PRODUCT and len(moving) == 2 and not self.schedule.streams:
            return self._product(node, values, moving, scale)
        sums = [s + values[source] for s, source in zip(sums, moving, strict=True)]
        mean = {source: s / scale for source, s in zip(moving, sums, strict=True)}
        total = tree_map(lambda value: scale * value, value_of(self.graph, node, {**values, **mean}))
        self.sums[node] = sums, total
        return total if before is None else tree_map(partial(difference, node), total, before)

    def _unbiased(self, node, values):
        """The value of a linear node without its bias, which is added once, or once in every step of its phase.

        Nothing is computed for a layer that no spike reaches.
        """
        if operation_of(self.graph, node) not in WEIGHTED:
            return value_of(self.graph, node, values)
        first = values[node.all_input_nodes[0]]
        if node not in self.zeros:
            self.zeros[node] = torch.zeros_like(self._weighted(node, values))
        return self._weighted(node, values) if first.any() else self.zeros[node]

    def _weighted(self, node, values):
        if node in self.unbiased:
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            return self.unbiased[node](*args, **kwargs)
        return value_of(self.graph, node, values, *unbiased_arguments(node))

    def _product(self, node, values, moving, scale):
        """The increment of a product of two trains, by the product rule."""
        now = [values[source] for source in moving]
        before = self.sums.get(node, [torch.zeros_like(value) for value in now])
        self.sums[node] = [total + value for total, value in zip(before, now, strict=True)]

        def product(a, b):
            return value_of(self.graph, node, {**values, **dict(zip(moving, (a, b), strict=True))})

        return product_step(product, *now, *before) / scale
