"""What a streaming run knows of a network before it reads an image: which values move, how the answer is computed."""

from ..checks import InputError
from ..graph.modules import SpikeMask
from ..graph.operations import KIND, Kind, kinds_of, label_of, module_of, named, operation_of, place_of
from ..graph.trace import evaluating, layer_name, output_of, value_of
from ..graph.values import leading, read_last
from ..neuron import SpikingNeuron


def propagate(network, x, neuron, nodes=None):
    """The answer, where `neuron(name, module, total)` returns what a spiking node has sent.

    `nodes` are those that it needs (default: all); a value is freed after its last use.
    """
    values, nodes = {}, list(network.graph.graph.nodes if nodes is None else nodes)
    done = read_last(nodes)
    for node in nodes:
        module = module_of(network.graph, node)
        if isinstance(module, SpikingNeuron):
            total = values.get(node.all_input_nodes[0])
            values[node] = neuron(layer_name(node), module, total)
        elif node.op == "placeholder":
            values[node] = x
        elif node.op == "output":
            return values[node.all_input_nodes[0]]
        else:
            values[node] = value_of(network.graph, node, values)
        for source in done.get(node, ()):
            values.pop(source, None)
    return values[nodes[-1]]


def sources_of(network, targets):
    """`targets` and the nodes that they depend on, back to and including spiking layers."""
    wanted, stack = set(), list(targets)
    while stack:
        node = stack.pop()
        if node not in wanted:
            wanted.add(node)
            if not isinstance(module_of(network.graph, node), SpikingNeuron):
                stack.extend(node.all_input_nodes)
    return wanted


def images_lead(network, x):
    """What `leading` finds of a spiking network, once for a shape of images; (None, None) if random masks hide it."""
    key = "images lead", x.shape[1:]
    if key not in network.prepared:
        random = any(isinstance(module, SpikeMask) for module in network.graph.modules())  # drawn anew for each row
        with evaluating(network):
            network.prepared[key] = (None, None) if random else leading(network.graph, x)
    return network.prepared[key]


def batch_leads(network, x):
    """Whether the first axis of every value is the batch, image after image, so that time can be folded into it.

    InputError for a network whose answer to one image depends on the others: while streaming, it would depend on the
    batch.
    """
    nodes, other = images_lead(network, x)
    if nodes is not None and output_of(network.graph) not in nodes:
        what = f"{named(other)} ({label_of(network.graph, other)}){place_of(other)}"
        raise InputError(f"{what} does not keep the images of a batch apart, one after another in its first axis: "
                         f"{network.schedule.name!r} cannot simulate it, an exact schedule can")  # fmt: skip
    return nodes is not None and other is None


def reads_shapes(graph, node):
    """Whether sizes among a node's arguments are shapes, as of `reshape`, and no numbers that enter its value."""
    return KIND.get(operation_of(graph, node) or "") == "linear"


class Structure:
    """The structure of a graph with spiking neurons:

    nodes     all but the output; `answer` is the node that it returns
    kinds     {node: `Kind`}
    neurons   {node: module} of the spiking layers
    constant  nodes that depend on weights alone
    moving    nodes whose values differ from step to step, and their shapes
    linear    nodes that are linear in the values that move
    feeding   nodes on which some neuron's current depends in every step
    ends      where the read-out starts: the last nodes that fire, or sum what fired
    tail      the nodes from there to the answer
    done      {node: the nodes whose values are not read after it}
    mixed     whether a moving value is combined with the batch size
    """

    def __init__(self, graph):
        self.nodes, self.answer = [node for node in graph.graph.nodes if node.op != "output"], output_of(graph)
        modules = {node: module_of(graph, node) for node in self.nodes}
        self.neurons = {node: module for node, module in modules.items() if isinstance(module, SpikingNeuron)}
        self.kinds = kinds_of(graph)
        self.constant = {node for node in self.nodes if self.kinds[node] is Kind.CONSTANT}
        self.linear = {node for node in self.nodes if self.kinds[node] is Kind.LINEAR}
        self.moving, self.feeding, self.done = self._moving(), self._feeding(), read_last(self.nodes)
        self.ends, self.tail = self._ending()
        self.mixed = any(
            self.kinds[source] is Kind.SHAPE and (source not in self.moving or not reads_shapes(graph, node))
            for node in self.moving if self.kinds[node] is not Kind.SHAPE for source in node.all_input_nodes
        )  # fmt: skip

    def _moving(self):
        moving = set(self.neurons)
        for node in self.nodes:
            if any(source in moving for source in node.all_input_nodes):
                moving.add(node)
        return moving

    def _feeding(self):
        feeding, stack = set(), [node.all_input_nodes[0] for node in self.neurons]
        while stack:
            node = stack.pop()
            if node not in feeding:
                feeding.add(node)
                stack.extend(node.all_input_nodes)
        return feeding

    def _ending(self):
        ends, tail, stack, sums = set(), set(), [self.answer], self._sums()
        while stack:
            node = stack.pop()
            if node in self.neurons or (node in self.feeding and node in self.moving and node in sums):
                ends.add(node)
            elif node not in tail:
                tail.add(node)
                stack.extend(node.all_input_nodes)
        return ends, tail

    def _sums(self):
        """The nodes whose mean value is their value on the mean of the spikes."""
        sums: set = set()
        for node in self.nodes:
            linear = node in self.linear and sums.issuperset(node.all_input_nodes)
            if linear or node in self.neurons or node not in self.moving:
                sums.add(node)
        return sums
