"""The values of a graph's nodes one after another, and whether their first axis is the batch."""

import torch
from torch.utils._pytree import tree_leaves

from ..neuron import SpikingNeuron
from .operations import FIXED, kinds_of, module_of
from .trace import value_of


def read_last(nodes, reads=lambda node: node.all_input_nodes):
    """{node: the nodes whose values are not read after it}; `reads(node)` are the nodes that it reads."""
    last = {source: node for node in nodes for source in reads(node)}
    done: dict = {}
    for source, node in last.items():
        done.setdefault(node, []).append(source)
    return done


def values_of(graph, x):
    """(node, value) of the values that move, one after another; neurons send their levels, unread values are freed."""
    values, kinds = {}, kinds_of(graph)
    nodes = [node for node in graph.graph.nodes if node.op != "output"]
    done = read_last(nodes)
    for node in nodes:
        module = module_of(graph, node)
        if isinstance(module, SpikingNeuron):
            values[node] = module.quantised(values[node.all_input_nodes[0]])
        else:
            values[node] = x if node.op == "placeholder" else value_of(graph, node, values)
        if kinds[node] not in FIXED:
            yield node, values[node]
        for source in done.get(node, ()):
            values.pop(source, None)


@torch.no_grad()
def leading(graph, x):
    """(the nodes whose first axis is the batch, image after image; the first other node, or None).

    A node may hold several rows for each image, as windows do. Found by trying: another first image must leave the rows
    of the second as they are. `graph` is in evaluation mode.
    """
    nodes, other = set(), None
    ours = torch.cat([x[:1], x[-1:]])
    theirs = torch.cat([-2 * x[:1].flip(-1) + 0.5, x[-1:]])
    passes = zip(values_of(graph, ours), values_of(graph, theirs), strict=True)
    for (node, a), (_, b) in passes:
        pairs = zip(tree_leaves(a), tree_leaves(b), strict=True)
        if all(_kept(ours, theirs) for ours, theirs in pairs if isinstance(ours, torch.Tensor)):
            nodes.add(node)
        else:
            other = other or node
    return nodes, other


def _kept(a, b):
    """Whether the second half of the rows is the same in both."""
    half = len(a) // 2 if a.ndim else 0
    return a.ndim > 0 and len(a) == 2 * half and torch.equal(a[half:], b[half:])
