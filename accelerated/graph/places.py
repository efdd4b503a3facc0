"""Which values of a network are quantised.

    a ReLU                        is replaced by levels 0..L
    any other activation          stays, and what it returns gets levels lowest..L
    factors of a matrix product   queries, keys, softmax and values get levels lowest..L
    residual branches             in a network with such products, what a sum adds to the tokens gets levels lowest..L

A value that already consists of levels is left as it is, and so is an activation that only gates: a sigmoid whose
values multiply others. A network with a `Site` says itself where it is quantised: there, only ReLUs are replaced.
"""

from typing import NamedTuple

from torch.fx import Node

from ..activation import QCFS, Site
from .operations import (
    FIXED,
    MATRIX_PRODUCTS,
    SHARES,
    WEIGHTED,
    Kind,
    answers,
    is_relu,
    kinds_of,
    label_of,
    module_of,
    operands,
    operation_of,
    relu_bound,
)

GATES = ("sigmoid", "hardsigmoid", "tanh", "softsign")
ACTIVATIONS = (
    *GATES, "softplus", "gelu", "silu", "mish", "elu", "celu", "selu", "leaky_relu", "prelu", "rrelu", "hardswish",
)  # fmt: skip
MOVES = (*SHARES, "clone", "mul", "multiply", "div", "divide")  # leave levels what they are, up to a constant factor
KEEPS_AXES = (  # operations whose output has the axes of their first input
    "add", "sub", "mul", "div", "batch_norm", "layer_norm", "softmax", "relu", "relu6", "hardtanh", "clamp", "dropout",
    "identity", "contiguous", "clone", "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
    *ACTIVATIONS,
)  # fmt: skip
FACTOR, BRANCH = "on factors of products", "on residual branches"


class Place(NamedTuple):
    """A value to quantise: that of `node` as `readers` see it; a ReLU is replaced (`readers` is None)."""

    node: Node
    readers: list | None
    was: str  # the ReLU that it was, or where it is: after GELU, on residual branches
    site: str | None = None  # as of a `Site`
    heads: int | None = None
    bound: float | None = None  # of a ReLU

    @property
    def replaces(self) -> bool:
        """Whether levels take the place of a ReLU."""
        return self.readers is None

    @property
    def source(self) -> Node:
        """The node whose value becomes levels."""
        return self.node.all_input_nodes[0] if self.replaces else self.node


def places(graph, values, leading):
    """The `Place`s of a traced network, in its order; `values` {node: value} may be empty.

    `leading` are the nodes whose first axis is the batch: other values keep real numbers.
    """
    kinds = kinds_of(graph)
    moving = [node for node, kind in kinds.items() if kind not in FIXED]
    products = [node for node in moving if kinds[node] is Kind.PRODUCT and operation_of(graph, node) in MATRIX_PRODUCTS]
    reads: dict = {}  # node -> (who reads its levels, what it is)
    done = {node for node in moving if kinds[node] is Kind.NEURON or is_relu(graph, node)}
    decided = any(isinstance(module_of(graph, node), Site) for node in moving)
    for node in moving if not decided else ():
        adds = kinds[node] is Kind.LINEAR and operation_of(graph, node) == "add"
        if _is_activation(graph, node, kinds):
            reads[node] = list(node.users), f"after {label_of(graph, node)}"
            done.add(node)
        elif node in products or (products and adds):
            for term in (term for term in operands(node) if isinstance(term, Node)):
                before = _before(graph, term, kinds)
                branch = operation_of(graph, before) in WEIGHTED and len(term.users) == 1
                if before not in done and (branch or node in products):
                    reads.setdefault(term, ([], FACTOR if node in products else BRANCH))[0].append(node)
    found = []
    for node in moving:
        if is_relu(graph, node):
            module = module_of(graph, node)
            site, heads = (module.site, module.heads) if isinstance(module, Site) else (None, None)
            found.append(Place(node, None, label_of(graph, node), site, heads, relu_bound(graph, node)))
        elif node in reads and (not values or node in leading):
            found.append(Place(node, *reads[node], *_site(graph, node, reads[node][1], values, products)))
    return found


def _is_activation(graph, node, kinds):
    name = operation_of(graph, node)
    gated = _is_gated(graph, node, kinds)
    if not gated and name not in ACTIVATIONS:
        return False
    users = list(node.users)
    if not users or any(isinstance(module_of(graph, user), QCFS) for user in users):
        return False
    only_gates = name in GATES and all(kinds[user] is Kind.PRODUCT for user in _readers(graph, node, kinds))
    return not only_gates and not all(user.op == "output" or user.target is answers for user in users)


def _readers(graph, node, kinds):
    """The nodes that read a value, wherever it was moved to."""
    found = []
    for user in (user for user in node.users if kinds[user] not in FIXED):
        moved = kinds[user] is Kind.LINEAR and operation_of(graph, user) in MOVES
        found += _readers(graph, user, kinds) if moved else [user]
    return found


def _is_gated(graph, node, kinds):
    """Whether a node is a value times a gate of itself: x sigmoid(x), written out."""
    if kinds[node] is not Kind.PRODUCT or operation_of(graph, node) not in ("mul", "multiply"):
        return False
    a, b = (term for term in operands(node) if isinstance(term, Node))
    return any(operation_of(graph, x) in GATES and x.all_input_nodes == [y] for x, y in ((a, b), (b, a)))


def _before(graph, node, kinds):
    """The node from which a value was moved and scaled."""
    while kinds[node] is Kind.LINEAR and operation_of(graph, node) in MOVES:
        node = next(source for source in node.all_input_nodes if kinds[source] not in FIXED)
    return node


def _site(graph, node, was, values, products):
    """(site, heads) of a place in a transformer (4.2.3); (None, None) elsewhere."""
    if was == FACTOR:
        heads = values[node].shape[-3] if values and values[node].ndim >= 4 else None
        return ("head", heads) if heads else ("layer", None)
    if was == BRANCH:
        return "layer", None
    return ("neuron" if products and features_last(graph, node) else None), None


def features_last(graph, node):
    """Whether the features of a value are its last axis: those of the linear layer before it."""
    while node.op not in ("placeholder", "get_attr"):
        name = operation_of(graph, node)
        if name in WEIGHTED:
            return name == "linear"
        if name not in KEEPS_AXES and not isinstance(module_of(graph, node), QCFS):
            return False
        node = node.all_input_nodes[0]
    return False
