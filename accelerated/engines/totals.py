"""Exact schedules on totals: each neuron sees its operator applied to all that was sent (T5)."""

from ..graph.trace import evaluate, layer_name, module_of, output_of
from ..neuron import SpikingNeuron


class Values:
    """The values of a graph's operators, computed when asked for and kept only where they will be asked for again.

    Kept are the inputs of neurons, until a spike before them changes; what lies between is let go of once its last
    reader has been passed, and computed again if it is needed after all: the same numbers give the same bits.
    """

    def __init__(self, network, x, nodes):
        self.graph, self.values, self.passing = network.graph, {}, []
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
                value = module.value()
            elif node.op == "placeholder":
                value = self.x
            else:
                for source in node.all_input_nodes:
                    self(source)
                value = evaluate(self.graph, node, self.values)
            self.put(node, value)
        return self.values[node]

    def put(self, node, value):
        """Keep a node's value, for now or until it changes."""
        self.values[node] = value
        if node not in self.kept:
            self.passing.append(node)

    def drop(self, nodes):
        """Forget these."""
        for node in nodes:
            self.values.pop(node, None)

    def passed(self, node):
        """Let go of what no node after this one reads."""
        here = self.place[node]
        self.drop(value for value in self.passing if self.last[value] <= here)
        self.passing = [value for value in self.passing if value in self.values]


def totals(network, x, steps, fired):
    """Each neuron sees its operator applied to all that was sent; yields the logits of each step of the last phase."""
    nodes = [node for node in network.graph.graph.nodes if node.op != "output"]
    neurons = [(node, module_of(network.graph, node)) for node in nodes]
    neurons = [(node, module) for node, module in neurons if isinstance(module, SpikingNeuron)]
    value, answer, silent = Values(network, x, nodes), output_of(network.graph), False
    for now in range(network.phases * steps):
        if silent:
            yield value(answer)  # nothing fired in the last step, so that nothing ever will again
            continue
        quiet = True
        for node, module in neurons:
            if not module.firing:
                module.now += 1
                value.drop(node.all_input_nodes)
                continue
            sent = module(value(node.all_input_nodes[0]))
            fired(layer_name(node), module.spike, now)
            if (module.spike != 0).any():
                quiet = False
                value.drop(value.after[node])
            module.spike = None
            value.put(node, sent)
            value.passed(node)
        silent = quiet and network.schedule == "signed"
        yield value(answer) if now // steps == network.phases - 1 else None
