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

    A node may hold several rows for each image, as windows do. Found by trying, on images drawn from the numbers of x:
    the number of rows grows with that of images, and another image changes no rows but its own. A node with several
    rows for each image must show that they change. `graph` is in evaluation mode.
    """
    nodes, other, count = set(), None, 3
    ours, theirs = _drawn(x, count), _drawn(x, count, seed=1)
    batches = [ours, *(torch.cat([ours[:i], theirs[i : i + 1], ours[i + 1 :]]) for i in range(count)), ours[:2]]
    for passes in zip(*(values_of(graph, batch) for batch in batches), strict=True):
        node = passes[0][0]
        tensors = zip(*(filter(torch.is_tensor, tree_leaves(value)) for _, value in passes), strict=True)
        if all(_leads(before, after, fewer) for before, *after, fewer in tensors):
            nodes.add(node)
        else:
            other = other or node
    return nodes, other


def _drawn(x, count, seed=0):
    """`count` images of numbers drawn from those of x; from x and noise if x is of one number."""
    generator = torch.Generator().manual_seed(seed)
    shape = count, *x.shape[1:]
    numbers = x.flatten()[torch.randint(x.numel(), shape, generator=generator).to(x.device)]
    blank = bool((x == x.flatten()[0]).all())
    return numbers + torch.rand(shape, generator=generator).to(x) if blank else numbers


def _leads(before, after, fewer):
    """Whether a value's rows belong to the images: `after` are those with another image each, `fewer` those of two."""
    count = len(after)
    if not before.ndim or len(before) % count or len(fewer) * count != 2 * len(before):
        return False
    rows = [value.unflatten(0, (count, -1)) for value in (before, *after)]
    own = [not torch.equal(rows[i + 1][i], rows[0][i]) for i in range(count)]
    others = [torch.equal(rows[i + 1][j], rows[0][j]) for i in range(count) for j in range(count) if j != i]
    return all(others) and (len(before) == count or all(own))
