"""What a streaming run knows of a network before it sees an image: which values move, what the answer is made of."""

from ..graph.operations import is_constant, is_linear, is_shape
from ..graph.trace import module_of, output_of
from ..neuron import SpikingNeuron


def read_last(nodes, reads=lambda node: node.all_input_nodes):
    """{node: the nodes whose values nobody reads after it}; `reads(node)` are those that it reads."""
    last = {source: node for node in nodes for source in reads(node)}
    done: dict = {}
    for source, node in last.items():
        done.setdefault(node, []).append(source)
    return done


def sources_of(network, targets):
    """`targets` and the nodes that they are computed from, back to the spiking layers, these included."""
    wanted, stack = set(), list(targets)
    while stack:
        node = stack.pop()
        if node not in wanted:
            wanted.add(node)
            if not isinstance(module_of(network.graph, node), SpikingNeuron):
                stack.extend(node.all_input_nodes)
    return wanted


def _of_a_shape(node):
    """Whether a number depends on how many images there are: on a shape, and not on weights alone."""
    stack = [node]
    while stack:
        node = stack.pop()
        if is_shape(node):
            return True
        stack.extend(node.all_input_nodes)
    return False


class Structure:
    """Of a graph with spiking neurons:

    nodes     all but the output; `answer` is what that returns
    neurons   {node: module} of the spiking layers
    constant  numbers that come from weights alone
    moving    nodes whose values differ from step to step, and the shapes of such
    linear    nodes that are linear in what moves
    heard     nodes that some neuron's current depends on, step by step
    ends      what the answer is read from: the last nodes that fire, or sum up what fired
    tail      the nodes from there to the answer
    done      {node: the nodes whose values nobody reads after it}
    mixed     whether a number of images is mixed with values that move
    """

    def __init__(self, graph):
        self.nodes, self.answer = [node for node in graph.graph.nodes if node.op != "output"], output_of(graph)
        modules = {node: module_of(graph, node) for node in self.nodes}
        self.neurons = {node: module for node, module in modules.items() if isinstance(module, SpikingNeuron)}
        self.constant = {node for node in self.nodes if is_constant(node) and not _of_a_shape(node)}
        self.linear = {node for node in self.nodes if is_linear(graph, node)}
        self.moving, self.heard, self.done = self._moving(), self._heard(), read_last(self.nodes)
        self.ends, self.tail = self._ending()
        self.mixed = any(
            source not in self.moving and source not in self.constant and is_constant(source)
            for node in self.moving for source in node.all_input_nodes
        )  # fmt: skip

    def _moving(self):
        moving = set(self.neurons)
        for node in self.nodes:
            if any(source in moving for source in node.all_input_nodes):
                moving.add(node)
        return moving

    def _heard(self):
        heard, stack = set(), [node.all_input_nodes[0] for node in self.neurons]
        while stack:
            node = stack.pop()
            if node not in heard:
                heard.add(node)
                stack.extend(node.all_input_nodes)
        return heard

    def _ending(self):
        ends, tail, stack, sums = set(), set(), [self.answer], self._sums()
        while stack:
            node = stack.pop()
            if node in self.neurons or (node in self.heard and node in self.moving and node in sums):
                ends.add(node)
            elif node not in tail:
                tail.add(node)
                stack.extend(node.all_input_nodes)
        return ends, tail

    def _sums(self):
        """The nodes of which the mean of the values is the value for the means of what fired."""
        sums: set = set()
        for node in self.nodes:
            linear = node in self.linear and sums.issuperset(node.all_input_nodes)
            if linear or node in self.neurons or node not in self.moving:
                sums.add(node)
        return sums
