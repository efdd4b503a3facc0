"""Operators of a spiking network on increments: they turn the increments of their inputs into those of the output.

A bias enters when it is due; a nonlinear operator passes on f(X_t) - f(X_t-1), a product of two trains
a_t B_<=t + A_<t b_t (derivations 7.1 to 7.3). Per step, as published, every operator acts on that step alone.
"""

from .conversion import LINEAR
from .operators import FORWARD
from .tokens import product_step


def image(network, x, now, steps):
    """The increment of the image [batch, ...] in step `now` (from 0)."""
    return x if network.schedule.due(now, steps, 0) else 0 * x


def operate(network, node, now, steps, memory, *inputs):
    """(increment of a node's output, its memory) in step `now`, from the increments of its inputs.

    `memory` is that of the step before, None at first; `steps` is T (per phase).
    """
    op, schedule = FORWARD[node["op"]], network.schedule
    if network.operators == "per-step":
        return op(node, *inputs), None
    if node["op"] in LINEAR:
        on = schedule.due(now, steps, max(network.depth[name] for name in node["inputs"]))
        return op(node if on or "bias" not in node else node | {"bias": None}, *inputs), None
    # the sum represents `scale` presentations of the image: the output's total is scale f(sum / scale)
    scale = schedule.images(now, steps)
    sums, before = ([0 * i for i in inputs], 0) if memory is None else memory
    after = [s + i for s, i in zip(sums, inputs, strict=True)]
    if node["op"] == "product" and not schedule.streams:
        (a, b), (a_before, b_before) = inputs, sums
        return product_step(a, b, a_before, b_before, node["transpose"]) / scale, (after, 0)
    total = scale * op(node, *(s / scale for s in after))
    return total - before, (after, total)
