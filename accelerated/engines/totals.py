"""The values of a spiking network's operators while it runs on totals (T5)."""

import torch

from ..graph.operations import module_of
from ..graph.trace import layer_name, output_of, value_of
from ..neuron import SpikingNeuron


class Values:
    """The values of a graph's operators, computed when read, and kept only if they will be read again.

    Inputs of neurons are kept until a spike before them changes. Other values are freed after their last reader, and
    computed again if they are needed later: the same numbers give the same bits.
    """

    def __init__(self, network, x, nodes, states):
        self.graph, self.values, self.passing, self.states = network.graph, {}, [], states
        place = {node: i for i, node in enumerate(nodes)}
        self.last = {node: max((place.get(user, len(nodes)) for user in node.users), default=0) for node in nodes}
        neurons = [node for node in nodes if isinstance(module_of(self.graph, node), SpikingNeuron)]
        self.kept = {node.all_input_nodes[0] for node in neurons} | {output_of(network.graph)}
        self.place, self.x, self.after = place, x, {node: self._after(node, set(neurons)) for node in neurons}

    @staticmethod
    def _after(node, neurons):
        """The nodes that change with this neuron's output, up to the next neurons."""
        found, stack = set(), list(node.users)
        while stack:
            user = stack.pop()
            if user not in found and user not in neurons:
                found.add(user)
                stack.extend(user.users)
        return found

    def __call__(self, node):
        if node not in self.values:
            module = module_of(self.graph, node)
            if isinstance(module, SpikingNeuron):
                state = self.states[layer_name(node)]
                if state.sent is None:  # its phase has not begun
                    state.sent = torch.zeros_like(self(node.all_input_nodes[0]))
                value = module.value(state)
            elif node.op == "placeholder":
                value = self.x
            else:
                for source in node.all_input_nodes:
                    self(source)
                value = value_of(self.graph, node, self.values)
            self.put(node, value)
        return self.values[node]

    def show(self, x):
        """Use other images from now on: everything is computed again."""
        self.x, self.passing = x, []
        self.values.clear()

    def put(self, node, value):
        """Keep a node's value, for now or until it changes."""
        self.values[node] = value
        if node not in self.kept:
            self.passing.append(node)

    def drop(self, nodes):
        """Free the values of these nodes."""
        for node in nodes:
            self.values.pop(node, None)

    def passed(self, node):
        """Free what no node after this one reads."""
        here = self.place[node]
        self.drop(value for value in self.passing if self.last[value] <= here)
        self.passing = [value for value in self.passing if value in self.values]
