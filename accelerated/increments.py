"""Operators of a spiking network on increments: `reference.increments` on a graph of torch modules."""

import torch
import torch.nn.functional as F
from torch import nn

from .graph.operations import is_linear, is_product, is_shape
from .graph.trace import module_of, value_of
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


class IncrementalOperators:
    """All operators of a network in one run of `steps` steps (per phase), with their running sums."""

    def __init__(self, network, steps):
        self.schedule, self.operators, self.depth = network.schedule, network.operators, network.depth
        self.graph, self.steps = network.graph, steps
        self.sums, self.constant = {}, set()
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
        moving = [source for source in node.all_input_nodes if source not in self.constant]
        if not moving or is_shape(node):  # weights, sizes and values computed from them alone
            self.constant.add(node)
            return value_of(self.graph, node, values)
        if self.operators == "per-step":
            return value_of(self.graph, node, values)
        module, depth = module_of(self.graph, node), max(self.depth[source.name] for source in moving)
        on = self.schedule.due(now, self.steps, depth)
        if isinstance(module, nn.Linear) and not on:
            return F.linear(values[moving[0]], module.weight)
        if isinstance(module, nn.Conv2d) and not on:
            return module._conv_forward(values[moving[0]], module.weight, None)
        if is_linear(self.graph, node):
            return value_of(self.graph, node, values)
        # the sum represents `scale` presentations of the image: the output's total is scale f(sum / scale)
        scale = self.schedule.images(now, self.steps)
        sums, before = self.sums.get(node, ([0] * len(moving), 0))
        if is_product(node) and len(moving) == 2 and not self.schedule.streams:
            return self._product(node, values, moving, scale)
        sums = [s + values[source] for s, source in zip(sums, moving, strict=True)]
        mean = {source: s / scale for source, s in zip(moving, sums, strict=True)}
        total = scale * value_of(self.graph, node, {**values, **mean})
        self.sums[node] = sums, total
        return total - before

    def _product(self, node, values, moving, scale):
        """The increment of a product of two trains, by the product rule."""
        now = [values[source] for source in moving]
        before = self.sums.get(node, [torch.zeros_like(value) for value in now])
        self.sums[node] = [total + value for total, value in zip(before, now, strict=True)]

        def product(a, b):
            return value_of(self.graph, node, {**values, **dict(zip(moving, (a, b), strict=True))})

        return product_step(product, *now, *before) / scale
