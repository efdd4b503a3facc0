"""The event-driven engine for exact schedules: networks in whole numbers (T7), spike by spike.

No spike acts on an earlier layer, so that a layer takes many steps at once: it needs only the spikes of the layers
before. What lies between layers and is no convolution of spikes is computed in PyTorch, on totals: of whole numbers all
sums are exact, and the answer has the bits of every other form.
"""

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from ..checks import InputError
from ..graph.operations import Kind, module_of, named, operation_of
from ..graph.trace import layer_name, value_of
from ..graph.values import read_last
from ..kernels import serves
from ..kernels.lists import LARGEST, Factors, Lists, Neurons, Rows, WholeLayer, planes_of
from ..layers import SumPool2d
from ..sums import is_whole, largest_sums
from .layerwise import FLATTEN, Layerwise
from .structure import images_lead

CHUNK, AFTER = 16, 5  # steps at once; where the last layer's worths come to 1 late, as many after that
HELD = 2**29  # membranes of 32 bits hold sums up to this one, and twice that of what neurons compare
FEW = 32  # values up to this one, which are no layer's levels, are sent as so many spikes; larger ones are not


def _pair(value):
    return value if isinstance(value, tuple) else (value, value)


class Term:
    """A term of a layer's current: `node`'s value, or (with `source`) `weights` applied to a layer's spikes."""

    def __init__(self, node, found=None, weights=None, bias=None):
        self.source, self.window = found or (None, None)
        self.node, self.weights, self.bias = node, weights, bias


class WholeRun(Layerwise):
    """A run of an exact schedule; `steps(count)` takes the next steps and returns their logits [count, batch, classes].

    It owns `states`, `emitted` {layer: spikes so far} and `settled_at` [batch]. Integrate-then-fire runs at T = L, all
    of its last phase at once. InputError for a network that is not of whole numbers, or whose sums 32 bits do not hold;
    what is planned for a network is kept until a parameter or buffer changes.
    """

    def __init__(self, network, x):
        super().__init__(network, x)
        if not is_whole(network.graph):
            raise InputError(f"engine 'event' runs {network.schedule.name!r} in whole numbers alone: make them of the "
                             "quantised network with integers(network, sample), and convert that")  # fmt: skip
        self.waits, self.deepest, self.silent = network.schedule.waits, network.latency_depth, None
        self.settled_at = torch.zeros(len(x), dtype=torch.long)
        self.emitted, self.packed, self.before, self.ends = {}, {}, {}, {self.answer}
        self.terms: dict = {}
        if serves(self.x, *network.parameters()) and all(self._image(node) for node in self.neurons):
            self.terms, self.layers, self.needed, self.done = self._planned()

    @property
    def foldable(self):
        """Whether the engine serves: kernels are compiled, images lead everywhere, and nobody watches the neurons."""
        nodes, other = images_lead(self.network, self.x)
        leads = nodes is not None and other is None and not self.mixed
        return leads and not self.hooked and bool(self.terms)

    @property
    def at_once(self):
        """How many steps are taken at once: under integrate-then-fire, a whole phase."""
        levels = next(iter(self.neurons.values())).levels
        return levels if self.waits else max(CHUNK, min(2 * CHUNK, self.network.coarse + AFTER))

    @property
    def finished(self):
        """Whether the answer is there for good: nothing can fire any more, or the last phase is over."""
        return self.silent is not None or (self.waits and self.now > 0)

    def _planned(self):
        """(terms of layers, layers, nodes that need dense values, the nodes that are not read after each node)."""
        key, network, prepared = ("whole", self.x.shape[1:]), self.network, self.network.prepared
        state = [(part.data_ptr(), part._version) for part in (*network.parameters(), *network.buffers())]
        if prepared.get(key, (None,))[0] != state:
            self.largest = largest_sums(network)
            for name, most in self.largest.items():
                if most > HELD:
                    raise InputError(f"{name}: sums reach {most:.0f}, and engine 'event' holds them up to {HELD}")
            if network.steps > LARGEST:
                raise InputError(f"engine 'event' counts up to {LARGEST} spikes, and this network may take "
                                 f"{network.steps} steps: choose fewer levels")  # fmt: skip
            terms = {node: self._terms(node.all_input_nodes[0]) for node in self.neurons}
            needed, stack = set(), [self.answer, *(read for each in terms.values() for read in self._read(each))]
            while stack:
                node = stack.pop()
                if node not in needed:
                    needed.add(node)
                    stack.extend(() if node in self.neurons else node.all_input_nodes)

            def reads(node):
                return self._read(terms[node]) if node in terms else node.all_input_nodes if node in needed else []

            layers = {node: self._layer(node, terms[node]) for node in terms}
            prepared[key] = state, (terms, layers, needed, read_last(self.nodes, reads))
        return prepared[key][1]

    def _read(self, terms):
        """The nodes whose dense values some terms need."""
        return [term.source or term.node for term in terms if term.source not in self.neurons]

    def _wanted(self, node):
        return node in self.needed

    def _source(self, node):
        """(layer or node, window) whose sums over windows a node's value is; None for what does not move."""
        node = self._through(node)
        module, before = module_of(self.graph, node), node.all_input_nodes[0] if node.all_input_nodes else None
        if before in self.neurons and self._as_number(node):
            return before, (1, 1)
        if type(module) is SumPool2d and before in self.moving and len(self.shapes[node]) == 3:
            window, stride, padding = map(_pair, (module.kernel_size, module.stride, module.padding))
            even = all(side % part == 0 for side, part in zip(self.shapes[before][1:], window, strict=True))
            found = self._source(before)
            if found and window == stride and padding == (0, 0) and even:
                return found[0], (found[1][0] * window[0], found[1][1] * window[1])
        return (node, (1, 1)) if node in self.moving and self.largest.get(named(node), FEW + 1) <= FEW else None

    def _as_number(self, node):
        """Whether a node is a neuron's value over D, its level as a number."""
        if operation_of(self.graph, node) != "div" or node.args[1] not in self.constant:
            return False
        module = self.neurons[node.args[0]]
        return bool((module.levels * value_of(self.graph, node.args[1], {}) == module.threshold).all())

    def _terms(self, node):
        """The terms whose sum is a node's value."""
        node = self._through(node)
        plain = len(node.all_input_nodes) == len(node.args) == 2 and not node.kwargs  # neither x + x nor a factor
        if operation_of(self.graph, node) == "add" and self.kinds[node] is Kind.LINEAR and plain:
            return [term for source in node.all_input_nodes for term in self._terms(source)]
        found = self._convolved(node) if node in self.moving else None
        return [found or Term(node)]

    def _convolved(self, node):
        """The `Term` of a node that is a convolution, a linear layer or a multiple of spikes; None if it is none."""
        module, (source, *others) = module_of(self.graph, node), node.all_input_nodes
        image = self._image(node)
        if isinstance(module, nn.Conv2d) and len(self.shapes[node]) == 3:
            plain = module.groups == 1 and _pair(module.dilation) == (1, 1) and module.padding_mode == "zeros"
            if not plain or isinstance(module.padding, str):
                return None
            return self._term(node, source, module.weight, module.stride, module.padding, module.bias)
        if isinstance(module, nn.Linear) and len(self.shapes[node]) < 3:
            return self._linear(node, self._through(source), module)
        if operation_of(self.graph, node) == "mul" and len(others) == 1 and others[0] in self.constant:
            factor = value_of(self.graph, others[0], {})
            if image and (factor.numel() == 1 or factor.numel() == len(factor) == image[0] == self.shapes[node][0]):
                return self._term(node, source, factor.flatten().expand(image[0]))
            return None
        if image and (found := self._source(node)) and found[0] in self.neurons:
            return self._term(node, node, torch.ones(image[0]))
        return None

    def _linear(self, node, before, module):
        """The term of a linear layer: on an image that was flattened, a convolution as large as the image."""
        if len(self.shapes[node]) == 1 and operation_of(self.graph, before) in FLATTEN:
            (inner, *_), flat = before.all_input_nodes, self.shapes[before]
            found = self._source(inner)
            if found is not None and len(self.shapes[inner]) == 3 and len(flat) == 1:
                weight = module.weight.unflatten(1, self.shapes[inner])
                return self._term(node, inner, weight, bias=module.bias)
        return self._term(node, before, module.weight[:, :, None, None], bias=module.bias)

    def _term(self, node, source, weight, stride=1, padding=0, bias=None):
        """The term of weights [out, in, down, across], or of a factor for each channel."""
        found, weight = self._source(source), weight.detach()
        if found is None or self._image(found[0]) is None or weight.abs().max() > LARGEST:
            return None
        if weight.ndim == 1 and found[1] == (1, 1):
            return Term(node, found, Factors(weight))
        weight = weight.diag()[:, :, None, None] if weight.ndim == 1 else weight
        return Term(node, found, Rows(weight, _pair(stride), _pair(padding)), bias)

    def steps(self, count):
        if self.silent is not None:
            rows = tree_map_only(torch.Tensor, lambda last: last.expand(count, *last.shape[1:]), self.silent)
        else:
            self.bits, self.lists, self.fired = {}, {}, torch.zeros(count, len(self.x), dtype=torch.bool)
            ends = self._advance(count)
            rows = tree_map_only(torch.Tensor, lambda end: self._of_steps(end, count), ends[self.answer])
            self._observe(count, rows)
        self.now += count
        return rows

    def _of_steps(self, totals, count):
        return totals.unflatten(0, (-1, len(self.x))).expand(count, -1, *totals.shape[1:])

    def _observe(self, count, rows):
        """When each image fired last, and whether nothing can fire any more."""
        times = torch.arange(self.now + 1, self.now + count + 1)[:, None]
        self.settled_at.copy_(torch.maximum(self.settled_at, (times * self.fired).amax(0)))
        if not self.waits and self.now + count > self.network.coarse and not self.fired[-1].any():
            self.silent = tree_map_only(torch.Tensor, lambda values: values[-1:], rows)

    def _rows(self, node, count):
        """The number of steps that a node's value is held for: one if it has arrived before they begin."""
        last = not self.waits or self.network.depth[node.name] == self.deepest
        return count if node in self.moving and last else 1

    def _operator(self, node, values, count):
        """A node's totals after each step, [steps batch, ...]."""
        rows, seen = self._rows(node, count), dict(values)
        for source in node.all_input_nodes:
            if source not in self.constant and self._rows(source, count) < rows and source in self.shapes:
                seen[source] = self._folded(values[source], rows)
        return value_of(self.graph, node, seen)

    def _changes(self, node, values, key):
        """What is new in a node's totals in each step, as whole images [steps, batch, channels, height, width]."""
        totals = self._as_image(node, values[node].unflatten(0, (-1, len(self.x))))
        before = self.before.get(key, torch.zeros_like(totals[:1]))
        self.before[key] = totals[-1:].clone()
        return totals - torch.cat([before, totals[:-1]])

    def _worths(self, node, count):
        module = self.neurons[node]
        never = module.levels - module.lowest + 1  # no spike of that worth fits
        worths = [1] * count if self.waits else [min(module.worth(self.now + t), never) for t in range(count)]
        return torch.tensor(worths, dtype=torch.int32)

    def _listed(self, source, window, values, count):
        """The spikes of a layer, or changes of a node as spikes; both as `Lists`, kept while the steps last."""
        key, channels = (source, window), self._image(source)[0]
        if key in self.lists:
            return self.lists[key]
        if source in self.neurons:
            self.lists[key] = [Lists.of(self.bits[source], channels, self._worths(source, count), window)]
            return self.lists[key]
        changes = self._changes(source, values, key).permute(0, 1, 3, 4, 2).int().contiguous()
        worths = [int(np.gcd.reduce(step, axis=None)) or 1 for step in changes.numpy()]
        worth = torch.tensor(worths, dtype=torch.int32)
        units = changes // worth.view(-1, 1, 1, 1, 1)
        planes = [planes_of(units, bound) for bound in range(1, int(units.abs().max()) + 1)]
        self.lists[key] = [Lists.of(bits, channels, worth, window) for bits in planes]
        return self.lists[key]

    def _layer(self, node, terms):
        """A layer, into which biases arrive at first."""
        module = self.neurons[node]
        step = (module.threshold / module.levels).detach().expand(self.shapes[node])
        step = self._as_image(node, step[None])[0]
        same = step.stride()[1:] == (0, 0)  # for all pixels
        step = (step[:, :1, :1] if same else step).permute(1, 2, 0).flatten(0, 1)
        biases = [term.bias.detach() for term in terms if term.source is not None and term.bias is not None]
        return Neurons(self._image(node), step, module.lowest, module.levels, sum(biases) if biases else None)

    def _begun(self, node):
        """A layer with its state, which others see from now on."""
        layer = self.packed[node] = WholeLayer(self.layers[node], len(self.x))
        state, name = self.states[layer_name(node)], layer_name(node)
        state.sent = self._as_sample(node, layer.of_channels(layer.sent))
        self.emitted[name] = self._as_sample(node, layer.of_channels(layer.emitted))
        return layer

    def _neuron(self, node, values, count):
        """Fire a layer's spikes of `count` steps; its totals if they are needed."""
        layer = self.packed.get(node) or self._begun(node)
        dense, spikes = [], []
        for i, term in enumerate(self.terms[node]):
            if term.source is not None:
                for lists in self._listed(term.source, term.window, values, count):
                    spikes += term.weights.of(lists)
            elif term.node in self.moving:
                dense.append(self._changes(term.node, values, (node, i)))
            elif layer.fresh:
                dense.append(self._as_image(term.node, values[term.node].expand(1, len(self.x), *self.shapes[node])))
        worth, lag = self._worths(node, count), count if self.waits else 0
        self.bits[node] = layer.fire(spikes, worth, lag, _summed(dense), self.fired)
        return self._totals(node, layer, worth, count) if node in self.needed else None

    def _totals(self, node, layer, worth, count):
        """theta N / L after each step."""
        step = self.neurons[node].threshold.to(self.x.dtype) / self.neurons[node].levels
        if self._rows(node, count) == 1:
            return step * self.states[layer_name(node)].sent
        return step * self._as_sample(node, layer.levels_after(self.bits[node], worth, self.x.dtype).flatten(0, 1))


def _summed(values):
    """The sum of values [steps, ...], some of which are there in the first step alone; None if there are none."""
    if len(values) < 2:
        return values[0] if values else None
    longest, *others = sorted(values, key=len, reverse=True)
    total = longest.clone()
    for each in others:
        total[: len(each)] += each
    return total
