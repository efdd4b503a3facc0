"""Operators of a spiking network on increments: `reference.increments` on a graph of torch modules."""

import torch
import torch.nn.functional as F
from torch import nn

from .graph.operations import is_linear, is_product, is_shape
from .graph.trace import evaluate, module_of
from .tokens import product_step


class Increments:
    """All operators of a network in one run of `steps` steps (per phase), with the sums that they remember."""

    def __init__(self, network, steps):
        self.schedule, self.operators, self.depth = network.schedule, network.operators, network.depth
        self.graph, self.steps = network.graph, steps
        self.sums, self.constant = {}, set()

    def _due(self, now, depth):
        """Whether what does not change over time (a bias, the image) enters in this step."""
        return {"streaming": True, "integrate-then-fire": now // self.steps == depth, "signed": now == 0}[self.schedule]

    def image(self, x, now):
        """What is new of the image [batch, ...] in step `now` (from 0)."""
        return x if self._due(now, 0) else torch.zeros_like(x)

    def __call__(self, node, values, now):
        """What is new in a node's output, from what is new in its inputs in step `now`."""
        moving = [source for source in node.all_input_nodes if source not in self.constant]
        if not moving or is_shape(node):  # weights, sizes and what is made of them
            self.constant.add(node)
            return evaluate(self.graph, node, values)
        if self.operators == "per-step":
            return evaluate(self.graph, node, values)
        module, on = module_of(self.graph, node), self._due(now, max(self.depth[source.name] for source in moving))
        if isinstance(module, nn.Linear) and not on:
            return F.linear(values[moving[0]], module.weight)
        if isinstance(module, nn.Conv2d) and not on:
            return module._conv_forward(values[moving[0]], module.weight, None)
        if is_linear(self.graph, node):
            return evaluate(self.graph, node, values)
        # a sum that stands for `scale` images: its share of the total is scale f(sum / scale)
        scale = {"streaming": now + 1, "integrate-then-fire": self.steps, "signed": 1}[self.schedule]
        sums, before = self.sums.get(node, ([0] * len(moving), 0))
        if is_product(node) and len(moving) == 2 and self.schedule != "streaming":
            return self._product(node, values, moving, scale)
        sums = [s + values[source] for s, source in zip(sums, moving, strict=True)]
        mean = {source: s / scale for source, s in zip(moving, sums, strict=True)}
        total = scale * evaluate(self.graph, node, {**values, **mean})
        self.sums[node] = sums, total
        return total - before

    def _product(self, node, values, moving, scale):
        """What is new in a product of two trains, by the product rule."""
        now = [values[source] for source in moving]
        before = self.sums.get(node, [torch.zeros_like(value) for value in now])
        self.sums[node] = [total + value for total, value in zip(before, now, strict=True)]

        def product(a, b):
            return evaluate(self.graph, node, {**values, **dict(zip(moving, (a, b), strict=True))})

        return product_step(product, *now, *before) / scale
