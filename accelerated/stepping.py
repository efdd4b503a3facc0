"""Runs that advance step by step, on totals or on increments: `reference.stepping` on a graph of torch modules.

They serve every schedule; engines compute the same faster for schedules that stream.
"""

from .checks import InputError
from .engines.structure import propagate, sources_of
from .engines.totals import Values
from .frames import Mean
from .graph.operations import module_of
from .graph.trace import layer_name, output_of
from .graph.values import read_last
from .increments import IncrementalOperators, Shown
from .neuron import SpikingNeuron
from .sums import is_whole


class OnTotals:
    """A run on totals: each neuron reads its operator applied to all that was sent."""

    def __init__(self, network, x, states):
        self.network, self.states, self.shown = network, states, Shown(x)
        nodes = [node for node in network.graph.graph.nodes if node.op != "output"]
        modules = [(node, module_of(network.graph, node)) for node in nodes]
        self.neurons = [(node, module) for node, module in modules if isinstance(module, SpikingNeuron)]
        self.value, self.answer, self.silent = Values(network, x, nodes, states), output_of(network.graph), False
        self.coarse = network.coarse

    def step(self, x, now, fired, wanted=True):
        """The logits of step `now`, None unless `wanted`; calls `fired(name, spikes, now)` for each layer."""
        value = self.value
        if self.shown.changed(x):
            self.shown = Shown(x)
            value.show(x)
            self.silent = False
        if self.silent:
            return value(self.answer)  # nothing fired in a step in which every spike was worth 1, so nothing will
        quiet = True
        for node, module in self.neurons:
            state = self.states[layer_name(node)]
            if not module.fires_in(state):
                state.now, state.spike = state.now + 1, None
                value.drop(node.all_input_nodes)
                continue
            sent = module(value(node.all_input_nodes[0]), state)
            fired(layer_name(node), state.spike, now)
            if (state.spike != 0).any():
                quiet = False
                value.drop(value.after[node])
            state.spike = None
            value.put(node, sent)
            value.passed(node)
        self.silent = quiet and self.network.schedule.settles and now >= self.coarse
        return value(self.answer) if wanted else None


class OnIncrements:
    """A run on increments: each neuron sums increments; logits are read out from all that was sent."""

    def __init__(self, network, x, states):
        self.network, self.states = network, states
        steps = next(iter(states.values())).steps
        self.operators, self.nodes = IncrementalOperators(network, steps), list(network.graph.graph.nodes)
        self.done = read_last(self.nodes)
        reads = sources_of(network, [output_of(network.graph)])
        self.ending = [node for node in self.nodes if node in reads]
        self.averages = network.schedule.streams and any(node.op == "placeholder" for node in self.ending)
        self.of_pixels = is_whole(network.graph)
        self.mean = Mean()

    def step(self, x, now, fired, wanted=True):
        """The logits of step `now`, None unless `wanted`; calls `fired(name, spikes, now)` for each layer."""
        values = {}
        for node in self.nodes:
            module = module_of(self.network.graph, node)
            if isinstance(module, SpikingNeuron):
                state = self.states[layer_name(node)]
                values[node] = module(values[node.all_input_nodes[0]], state)
                fired(layer_name(node), state.spike, now)
                state.spike = None
            elif node.op == "placeholder":
                values[node] = self.operators.image(x, now)
            elif node.op != "output":
                values[node] = self.operators(node, values, now)
            for source in self.done.get(node, ()):
                del values[source]
        return propagate(self.network, self._seen(x), self._sent, self.ending) if wanted else None

    def _seen(self, x):
        """The image that a read-out reads beside the neurons: while streaming, the mean of those so far."""
        if not self.averages:
            return x
        mean = self.mean.add(x)
        if self.of_pixels and self.mean.others.any():
            raise InputError("the read-out sees the image, and the mean of frames of whole pixels is none: show one")
        return mean

    def _sent(self, name, module, _):
        return module.value(self.states[name])
