"""Changes of a graph: names for what is new, batch norms that can be folded, averages in place of maxima."""

from torch import nn

from ..checks import InputError
from .operations import BATCH_NORMS, MAX_POOLS, POOL_ARGUMENTS, is_max_pool, label_of, module_of, named, operation_of


def unused(graph, name, suffix="_"):
    """The name, with suffixes until no module, parameter or buffer of the graph has it."""
    kinds = graph.named_modules(), graph.named_parameters(), graph.named_buffers()
    taken = {own for found in kinds for own, _ in found}
    while name in taken or (hasattr(graph, name) and "." not in name):
        name += suffix
    return name


def foldable(graph, node):
    """Whether a node is a batch norm that can be folded into a convolution or linear layer of its own before it."""
    norm = module_of(graph, node)
    if not isinstance(norm, BATCH_NORMS) or norm.running_mean is None or not norm.affine:
        return False
    before = node.all_input_nodes[0]
    layer = module_of(graph, before)
    own = type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) and len(before.users) == 1
    if isinstance(layer, nn.Linear) and (before.meta.get("ndim", 2) != 2 or norm.num_features != layer.out_features):
        return False  # on tokens, batch norm acts on axis 1
    return own and before.target not in read_directly(graph)


def read_directly(graph):
    """The names of modules whose parameters or buffers the network also reads by itself."""
    return {str(node.target).rpartition(".")[0] for node in graph.graph.nodes if node.op == "get_attr"}


def average_pools(graph):
    """Replace max pooling by average pooling over the same windows, which changes answers. {name: what became what}."""
    became = {}
    for node in list(graph.graph.nodes):
        if not is_max_pool(graph, node):
            continue
        module, name = module_of(graph, node), named(node)
        if module is None:  # a function: its arguments are those of the module
            settings = dict(zip(POOL_ARGUMENTS, node.args[1:], strict=False), **node.kwargs)
            settings.pop("input", None)
        else:
            settings = {key: getattr(module, key) for key in POOL_ARGUMENTS}
        if settings.pop("dilation", 1) not in (1, (1,), (1, 1), (1, 1, 1)) or settings.pop("return_indices", False):
            raise InputError(
                f"{name} ({label_of(graph, node)}) cannot become an average: it is dilated or returns indices"
            )
        label = label_of(graph, node)
        pool = MAX_POOLS[operation_of(graph, node)](**settings)
        name = name if node.op == "call_module" else unused(graph, name, "_average")
        became[name] = f"{label} -> {type(pool).__name__}"
        graph.add_submodule(name, pool)
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.call_module(name, (node.all_input_nodes[0],)))
        graph.graph.erase_node(node)
    graph.recompile()
    return became
