"""Streaming networks layer after layer: each takes several steps at once, with time folded into the batch.

What a step computes is what `Increments` computes; operators that are linear, and per-step ones, see [t batch, ...],
accumulated ones the running sums of their inputs. What depends on the image alone is computed once. Memory does not
grow with T: steps come in chunks.
"""

import torch

from .._native import elementwise
from ..checks import InputError
from ..graph.modules import SpikeMask
from ..graph.operations import is_constant, is_shape
from ..graph.trace import evaluate, layer_name
from ..neuron import if_step, resting
from .structure import Structure

CHUNK, LARGE = 4, 2**22  # steps at once, and numbers in a batch of images beyond which there are fewer


def _zeros(values, count):
    """Zeros of the shape of one of `count` steps in [count batch, ...]."""
    return torch.zeros(len(values) // count, *values.shape[1:], dtype=values.dtype, device=values.device)


def means(values, count, sums, now):
    """The mean of all so far, after each of `count` steps in values [count batch, ...] that follow `now` others.

    `sums`, of the others, are updated.
    """
    native = elementwise.running(values, count, sums, now + 1)
    if native is not None:
        return native
    out = []
    for step, value in enumerate(values.unflatten(0, (count, -1)), now + 1):
        sums += value
        out.append(sums / step)
    return torch.cat(out)


def news(values, count, before, now):
    """What is new in a sum in each step, from the means after them; `before`, the sum after `now` steps, is updated."""
    native = elementwise.increments(values, count, before, now + 1)
    if native is not None:
        return native
    out = []
    for step, value in enumerate(values.unflatten(0, (count, -1)), now + 1):
        total = value * step
        out.append(total - before)
        before.copy_(total)
    return torch.cat(out)


class Layerwise:
    """The state of one run; `steps(count)` takes the next steps and gives their logits [count, batch, classes]."""

    def __init__(self, network, x):
        self.network, self.graph, self.x, self.now = network, network.graph, x, 0
        if "structure" not in network.prepared:
            network.prepared["structure"] = Structure(network.graph)
        known = network.prepared["structure"]
        self.nodes, self.answer, self.neurons, self.constant = known.nodes, known.answer, known.neurons, known.constant
        self.moving, self.heard, self.linear = known.moving, known.heard, known.linear
        self.ends, self.tail, self.done, self.mixed = known.ends, known.tail, known.done, known.mixed
        self.sums: dict = {}
        self.still: dict = {}
        self.thetas: dict = {}

    @property
    def at_once(self):
        """How many steps are taken at once."""
        return max(1, min(CHUNK, LARGE // self.x.numel()))

    @property
    def foldable(self):
        """Whether time can be folded into the batch: no number of images is mixed with values that move.

        Nor where every step counts: random masks, and neurons that somebody watches by a hook.
        """
        masks = any(isinstance(module, SpikeMask) for module in self.graph.modules())
        masks |= any(module._forward_hooks or module._forward_pre_hooks for module in self.neurons.values())
        return not masks and not self.mixed

    def steps(self, count):
        """The logits of the next `count` steps."""
        rows = self._read_out(self._advance(count), count)
        self.now += count
        for module in self.neurons.values():
            module.now = self.now
        return rows

    def _advance(self, count):
        """The values of `ends` in the next `count` steps."""
        values, ends = {}, {}
        for node in self.nodes:
            if node in self.still:
                values[node] = self.still[node]
            elif node.op == "placeholder":
                values[node] = self._keep(node, self.x)
            elif node in self.neurons:
                values[node] = self._neuron(node, values, count)
            elif node not in self.moving:
                values[node] = self._keep(node, evaluate(self.graph, node, values))
            elif self._wanted(node):
                values[node] = self._operator(node, values, count)
            if node in self.ends:
                ends[node] = values[node]
            for source in self.done.get(node, ()):
                values.pop(source, None)
        return ends

    def _keep(self, node, value):
        """A value that is the same in every step, kept where a moving one reads it."""
        if any(user in self.moving for user in node.users) or node in self.tail:
            self.still[node] = value
        return value

    def _folded(self, value, count):
        """A still value [batch, ...] as [count batch, ...]."""
        return value.repeat(count, *(1,) * (value.ndim - 1))

    def _operator(self, node, values, count):
        """What is new in a node's output in each of `count` steps: [count batch, ...]."""
        seen = dict(values)
        for source in node.all_input_nodes:
            if source not in self.moving and source not in self.constant and isinstance(values[source], torch.Tensor):
                seen[source] = self._folded(values[source], count)
        if is_shape(node) or self.network.operators == "per-step" or node in self.linear or is_constant(node):
            return evaluate(self.graph, node, seen)
        sums = self.sums.setdefault(node, {})
        for source in node.all_input_nodes:
            if source in self.moving and isinstance(seen[source], torch.Tensor):
                total = sums.setdefault(source, _zeros(seen[source], count))
                seen[source] = means(seen[source], count, total, self.now)
        value = evaluate(self.graph, node, seen)
        return news(value, count, sums.setdefault(node, _zeros(value, count)), self.now)

    def _theta(self, module, dtype):
        """A layer's threshold, made from its parameter once."""
        if module not in self.thetas:
            self.thetas[module] = module.threshold.to(dtype)
        return self.thetas[module]

    def _begin(self, node, sample):
        """Membrane and counts of a layer before its first step, as its currents lie in memory."""
        module = self.neurons[node]
        if len(sample) != len(self.x):
            raise InputError(f"{layer_name(node)}: its first axis holds {len(sample)}, not the batch of {len(self.x)}")
        if module.sent is None:
            theta = self._theta(module, sample.dtype)
            module.membrane = torch.empty_like(sample).copy_(resting(theta, sample.shape, module.start))
            module.sent = torch.zeros_like(sample)
        return module

    def _wanted(self, node):
        """Whether a moving value is to be computed at all."""
        return node in self.heard

    def _neuron(self, node, values, count):
        """theta s_t of a layer, [count batch, ...]."""
        current = values[node.all_input_nodes[0]]
        currents = current.unflatten(0, (count, -1)) if node.all_input_nodes[0] in self.moving else current[None]
        if elementwise.gaps(currents):
            currents = currents.contiguous()
        module = self._begin(node, currents[0])
        theta, spikes = self._theta(module, current.dtype), None
        if module.fires is None:
            spikes = elementwise.if_run(currents, count, theta, module.membrane, module.sent)
        if spikes is None:
            spikes = self._in_torch(module, currents, count, theta)
        return spikes.flatten(0, 1)

    @staticmethod
    def _in_torch(module, currents, count, theta):
        spikes = []
        for now in range(count):
            spike, module.membrane = if_step(module.membrane, currents[now if len(currents) > 1 else 0], theta)
            spike = spike if module.fires is None else spike * module.fires
            module.sent = module.sent + spike
            spikes.append(theta * spike)
        return torch.stack(spikes)

    def _read_out(self, values, count):
        """The answer after each step: what follows `self.ends`, on the means of their values so far."""
        values = dict(values)
        for node in self.nodes:
            if node in self.ends:
                total = self.sums.setdefault(node, {}).setdefault("answer", _zeros(values[node], count))
                values[node] = means(values[node], count, total, self.now)
            elif node in self.tail:
                values[node] = self._once(node, values, count)
        return values[self.answer].unflatten(0, (count, -1))

    def _once(self, node, values, count):
        """A node of the tail on means: the operator itself, whatever `operators` says."""
        if node in self.constant:
            return evaluate(self.graph, node, values)
        if node not in self.moving:
            value = self.still[node]
            return self._folded(value, count) if isinstance(value, torch.Tensor) else value
        return evaluate(self.graph, node, values)
