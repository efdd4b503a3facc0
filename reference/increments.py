"""Operators of a spiking network on increments: what is new in a step goes in, what is new comes out.

A bias enters when it is due; an operator that is not linear passes on f(X_t) - f(X_t-1), a product of two trains
a_t B_<=t + A_<t b_t (derivations 7.1 to 7.3). Per step, as published, every operator sees the step alone.
"""

from .conversion import LINEAR
from .operators import FORWARD
from .tokens import product_step


class Increments:
    """All operators of a network in one run of `steps` steps (per phase), with the sums that they remember."""

    def __init__(self, network, steps):
        self.schedule, self.operators = network.schedule, network.operators
        self.depth, self.steps, self.sums = network.depth, steps, {}

    def _due(self, now, depth):
        """Whether what does not change over time (a bias, the image) enters in this step."""
        return {"streaming": True, "integrate-then-fire": now // self.steps == depth, "signed": now == 0}[self.schedule]

    def image(self, x, now):
        """What is new of the image [batch, ...] in step `now` (from 0)."""
        return x if self._due(now, 0) else 0 * x

    def __call__(self, node, now, *inputs):
        """What is new in a node's output, from what is new in its inputs in step `now`."""
        if self.operators == "per-step":
            return FORWARD[node["op"]](node, *inputs)
        on = self._due(now, max(self.depth[name] for name in node["inputs"]))
        if node["op"] in LINEAR:
            return FORWARD[node["op"]](node if on or "bias" not in node else node | {"bias": None}, *inputs)
        # a sum that stands for `scale` images: its share of the total is scale f(sum / scale)
        scale = {"streaming": now + 1, "integrate-then-fire": self.steps, "signed": 1}[self.schedule]
        sums, before = self.sums.get(node["name"], ([0 * i for i in inputs], 0))
        if node["op"] == "product" and self.schedule != "streaming":
            self.sums[node["name"]] = [s + i for s, i in zip(sums, inputs, strict=True)], 0
            (a, b), (a_before, b_before) = inputs, sums
            return product_step(a, b, a_before, b_before, node["transpose"]) / scale
        sums = [s + i for s, i in zip(sums, inputs, strict=True)]
        total = scale * FORWARD[node["op"]](node, *(s / scale for s in sums))
        self.sums[node["name"]] = sums, total
        return total - before
