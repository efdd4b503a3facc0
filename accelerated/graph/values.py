"""The values of a graph's nodes one after another, and whether their first axis is the batch."""

import torch
from torch.utils._pytree import tree_leaves

from ..neuron import SpikingNeuron
from .operations import FIXED, Kind, is_relu, kinds_of, module_of
from .trace import value_of


def read_last(nodes, reads=lambda node: node.all_input_nodes):
    """{node: the nodes whose values are not read after it}; `reads(node)` are the nodes that it reads."""
    last = {source: node for node in nodes for source in reads(node)}
    done: dict = {}
    for source, node in last.items():
        done.setdefault(node, []).append(source)
    return done


def values_of(graph, x, live=False):
    """(node, value) of the values that move, one after another; neurons send their levels, unread values are freed.

    If `live`, activations pass on z / (1 + |z|) instead: nothing is silenced, and no change is too small to be seen.
    """
    values, kinds = {}, kinds_of(graph)
    nodes = [node for node in graph.graph.nodes if node.op != "output"]
    done = read_last(nodes)
    for node in nodes:
        module = module_of(graph, node)
        if live and (kinds[node] is Kind.NEURON or (is_relu(graph, node) and kinds[node] not in FIXED)):
            most = torch.finfo(values[node.all_input_nodes[0]].dtype).max
            z = values[node.all_input_nodes[0]].clamp(-most, most)  # a mask's infinities
            values[node] = z / (1 + z.abs())
        elif isinstance(module, SpikingNeuron):
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

    A node may hold several rows for each image, as windows do. Found by trying, on images drawn from the numbers of x
    and on x itself: the number of rows grows with that of images, and another image changes no rows but its own. A node
    with several rows for each drawn image must show that they change. `graph` is in evaluation mode.
    """
    nodes, other, count = set(), None, 3
    drawn, given = (_drawn(x, count), _drawn(x, count, seed=1)), _given(x, count)
    both = (_passes(graph, *images) for images in (drawn, given))
    for (node, of_drawn), (_, of_given) in zip(*both, strict=True):
        if _all_lead(of_drawn, True) and _all_lead(of_given, False):
            nodes.add(node)
        else:
            other = other or node
    return nodes, other


def _passes(graph, ours, theirs):
    """(node, its values for our images, for each of them replaced by one of theirs, and for two of ours)."""
    count = len(ours)
    batches = [ours, *(torch.cat([ours[:i], theirs[i : i + 1], ours[i + 1 :]]) for i in range(count)), ours[:2]]
    for passes in zip(*(values_of(graph, batch, live=True) for batch in batches), strict=True):
        yield passes[0][0], [value for _, value in passes]


def _all_lead(values, shown):
    """Whether the batch is the first axis of every tensor of a node's values."""
    tensors = zip(*(filter(torch.is_tensor, tree_leaves(value)) for value in values), strict=True)
    return all(_leads(before, after, fewer, shown) for before, *after, fewer in tensors)


def _given(x, count):
    """`count` of the images x, and as many others; turned and shifted, where there are not enough."""
    rows = torch.cat([x, x.flip(-1), x.roll(1, -1), x.roll(2, -1)] * -(-2 * count // (4 * len(x))))
    return rows[:count], rows[count : 2 * count]


def _drawn(x, count, seed=0):
    """`count` images of numbers drawn from those of x; from x and noise if x is of one number."""
    generator = torch.Generator().manual_seed(seed)
    shape = count, *x.shape[1:]
    numbers = x.flatten()[torch.randint(x.numel(), shape, generator=generator).to(x.device)]
    blank = bool((x == x.flatten()[0]).all())
    return numbers + torch.rand(shape, generator=generator).to(x) if blank else numbers


def _leads(before, after, fewer, shown):
    """Whether a value's rows belong to the images: `after` are those with another image each, `fewer` those of two.

    If `shown`, several rows for each image must change with it.
    """
    count = len(after)
    if not before.ndim or len(before) % count or len(fewer) * count != 2 * len(before):
        return False
    rows = [value.unflatten(0, (count, -1)) for value in (before, *after)]
    own = [not torch.equal(rows[i + 1][i], rows[0][i]) for i in range(count)]
    others = [torch.equal(rows[i + 1][j], rows[0][j]) for i in range(count) for j in range(count) if j != i]
    return all(others) and (len(before) == count or not shown or all(own))
