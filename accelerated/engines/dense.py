"""Streaming networks layer by layer: each layer takes several steps at once, with time folded into the batch.

A step computes the same as `IncrementalOperators`: linear and per-step operators act on [t batch, ...], accumulated
ones on running means of their inputs. Values that depend on the image alone are computed once. Steps come in chunks,
so memory does not grow with T.
"""

import torch
from torch.utils._pytree import tree_map_only

from .._native import elementwise
from ..checks import InputError
from ..graph.operations import FIXED, named, place_of
from ..graph.trace import layer_name, value_of
from ..neuron import State, if_step, resting
from .structure import Structure, batch_leads

CHUNK, MANY_NUMBERS = 4, 2**22  # steps at once; fewer if a batch holds more numbers than this


def _zeros(values, count):
    """Zeros in the shape of one step of values [count batch, ...]."""
    return torch.zeros(len(values) // count, *values.shape[1:], dtype=values.dtype, device=values.device)


def means(values, count, sums, now):
    """The running mean after each of `count` steps in values [count batch, ...], which follow `now` earlier steps.

    `sums`, those of the earlier steps, are updated.
    """
    native = elementwise.running(values, count, sums, now + 1)
    if native is not None:
        return native
    out = []
    for step, value in enumerate(values.unflatten(0, (count, -1)), now + 1):
        sums += value
        out.append(sums / step)
    return torch.cat(out)


def increments_of(values, count, before, now):
    """The increments of a sum, from its means after each step; `before`, the sum after `now` steps, is updated."""
    native = None if values.isinf().any() else elementwise.increments(values, count, before, now + 1)
    if native is not None:
        return native
    out = []
    for step, value in enumerate(values.unflatten(0, (count, -1)), now + 1):
        total = value * step
        out.append(torch.where(total == before, torch.zeros_like(total), total - before))  # a mask is infinite
        before.copy_(total)
    return torch.cat(out)


class DenseRun:
    """One run; `steps(count)` takes the next steps and returns their logits [count, batch, classes].

    It owns `states` {layer: `State`}.
    """

    def __init__(self, network, x):
        self.network, self.graph, self.x, self.now = network, network.graph, x, 0
        if "structure" not in network.prepared:
            network.prepared["structure"] = Structure(network.graph)
        known = network.prepared["structure"]
        self.nodes, self.answer, self.neurons, self.constant = known.nodes, known.answer, known.neurons, known.constant
        self.moving, self.feeding, self.linear = known.moving, known.feeding, known.linear
        self.kinds = known.kinds
        self.ends, self.tail, self.done, self.mixed = known.ends, known.tail, known.done, known.mixed
        self.states = {layer_name(node): State() for node in self.neurons}
        self.sums: dict = {}
        self.still: dict = {}
        self.thetas: dict = {}

    @property
    def at_once(self):
        """How many steps are taken at once."""
        return max(1, min(CHUNK, MANY_NUMBERS // self.x.numel()))

    @property
    def foldable(self):
        """Whether time can be folded into the batch: it leads everywhere, and no value that moves meets its size.

        Random masks, hooks on neurons and negative spikes need single steps.
        """
        if any(module.lowest for module in self.neurons.values()):
            return False
        return batch_leads(self.network, self.x) and not self.hooked and not self.mixed

    @property
    def hooked(self):
        """Whether someone watches the neurons."""
        return any(module._forward_hooks or module._forward_pre_hooks for module in self.neurons.values())

    def steps(self, count):
        """The logits of the next `count` steps."""
        rows = self._read_out(self._advance(count), count)
        self.now += count
        for state in self.states.values():
            state.now = self.now
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
                values[node] = self._keep(node, value_of(self.graph, node, values))
            elif self._wanted(node):
                values[node] = self._operator(node, values, count)
            if node in self.ends:
                ends[node] = values[node]
            for source in self.done.get(node, ()):
                values.pop(source, None)
        return ends

    def _keep(self, node, value):
        """A value that is the same in every step, kept if a moving node or the tail reads it."""
        if any(user in self.moving for user in node.users) or node in self.tail:
            self.still[node] = value
        return value

    def _folded(self, value, count):
        """A constant value [batch, ...] as [count batch, ...]."""
        return value.repeat(count, *(1,) * (value.ndim - 1))

    def _operator(self, node, values, count):
        """The increments of a node's output in `count` steps: [count batch, ...]."""
        seen = dict(values)
        for source in node.all_input_nodes:
            if source not in self.moving and source not in self.constant and isinstance(values[source], torch.Tensor):
                seen[source] = self._folded(values[source], count)
        if self.network.operators == "per-step" or node in self.linear or self.kinds[node] in FIXED:
            return value_of(self.graph, node, seen)
        sums = self.sums.setdefault(node, {})
        for source in node.all_input_nodes:
            if source in self.moving and self.kinds[source] not in FIXED:
                total = sums.setdefault(source, _zeros(seen[source], count))
                seen[source] = means(seen[source], count, total, self.now)
        value = value_of(self.graph, node, seen)
        if isinstance(value, torch.Tensor) and value.dtype == torch.bool:
            raise InputError(f"{named(node)}{place_of(node)} says true or false, which has no increments")
        if isinstance(value, torch.Tensor):
            return increments_of(value, count, sums.setdefault(node, _zeros(value, count)), self.now)
        parts = [(part, sums.setdefault((node, i), _zeros(part, count))) for i, part in enumerate(value)]
        return tuple(increments_of(part, count, before, self.now) for part, before in parts)

    def _theta(self, module, dtype):
        """A layer's threshold, computed from its parameter once."""
        if module not in self.thetas:
            self.thetas[module] = module.threshold.to(dtype)
        return self.thetas[module]

    def _begin(self, node, sample):
        """(module, state) of a layer; creates membrane and counts, laid out in memory like its currents."""
        module, state = self.neurons[node], self.states[layer_name(node)]
        if state.sent is None:
            theta = self._theta(module, sample.dtype)
            state.membrane = torch.empty_like(sample).copy_(resting(theta, sample.shape, module.start))
            state.sent = torch.zeros_like(sample)
        return module, state

    def _wanted(self, node):
        """Whether a moving value is needed."""
        return node in self.feeding

    def _neuron(self, node, values, count):
        """theta s_t of a layer, [count batch, ...]."""
        current = values[node.all_input_nodes[0]]
        currents = current.unflatten(0, (count, -1)) if node.all_input_nodes[0] in self.moving else current[None]
        if elementwise.gaps(currents):
            currents = currents.contiguous()
        module, state = self._begin(node, currents[0])
        theta, spikes = self._theta(module, current.dtype), None
        if module.fires is None:
            spikes = elementwise.if_run(currents, count, theta, state.membrane, state.sent)
        if spikes is None:
            spikes = self._in_torch(module, state, currents, count, theta)
        return spikes.flatten(0, 1)

    @staticmethod
    def _in_torch(module, state, currents, count, theta):
        spikes = []
        for now in range(count):
            spike, state.membrane = if_step(state.membrane, currents[now if len(currents) > 1 else 0], theta)
            spike = spike if module.fires is None else spike * module.fires
            state.sent = state.sent + spike
            spikes.append(theta * spike)
        return torch.stack(spikes)

    def _read_out(self, values, count):
        """The answer after each step: the tail, on the running means of the values of `self.ends`."""
        values = dict(values)
        for node in self.nodes:
            if node in self.ends:
                total = self.sums.setdefault(node, {}).setdefault("answer", _zeros(values[node], count))
                values[node] = means(values[node], count, total, self.now)
            elif node in self.tail:
                values[node] = self._once(node, values, count)
        return tree_map_only(torch.Tensor, lambda rows: rows.unflatten(0, (count, -1)), values[self.answer])

    def _once(self, node, values, count):
        """A node of the tail on means: the operator itself, independent of `operators`."""
        if node in self.constant:
            return value_of(self.graph, node, values)
        if node not in self.moving:
            value = self.still[node]
            return self._folded(value, count) if isinstance(value, torch.Tensor) else value
        return value_of(self.graph, node, values)
