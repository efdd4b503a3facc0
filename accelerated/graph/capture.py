"""A network as a graph of operators, from two records of its answers (`record.py`).

One is of three images, the other of five, and they are compared node by node: a number that grew with the batch becomes
a multiple of its size; anything else that differs is refused. Then the graph must answer batches of other sizes as the
network does: those in `CHECKED` and the whole sample. `trace.py` serves networks without a sample.
"""

import copy
import operator
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import map_aggregate

from ..checks import InputError, first_line
from .changes import unused
from .modules import random_draws
from .operations import FUNCTIONS, of_shape
from .record import Recorder, calls_of, leaves, place_of_error

SIZES = (3, 5)  # of the two batches that are recorded
CHECKED = (1, 2, 7)  # of those on which the graph must answer as the network does
CLOSE, APART, COARSEST = 16, 1000, 1e-2  # times the format's eps: the same operations; attention taken apart; at most
DROPOUTS = {
    F.dropout: nn.Dropout, torch.dropout: nn.Dropout, F.dropout1d: nn.Dropout1d, F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d, F.alpha_dropout: nn.AlphaDropout, F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}  # fmt: skip


def dice_of():
    """The states of the generators that a network may draw from."""
    _, numbers, place, *_ = np.random.get_state()  # noqa: NPY002 (read, not drawn from)
    return torch.get_rng_state().tolist(), random.getstate(), list(numbers), place


@torch.no_grad()
def _recorded(model, x, leaf, original):
    """The recorder of one pass of `model` on images x."""
    recorder = Recorder(model, leaf, original)
    x, dice = x.clone(), dice_of()
    recorder.image(x)
    try:
        with random_draws(model)(), calls_of(recorder), recorder:
            out = model(x)
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a network may raise anything
        place = place_of_error(error)
        line = first_line(error)
        raise InputError(f"{type(model).__name__} does not answer a batch of shape {tuple(x.shape)}: {line} "
                         f"({place})") from error  # fmt: skip
    if dice_of() != dice:
        raise InputError(f"{type(model).__name__} draws random numbers in evaluation: draw only in training")
    if not any(isinstance(value, torch.Tensor) for value in leaves(out)):
        raise InputError(f"{type(model).__name__} returns no tensor, but {type(out).__name__}")
    recorder.graph.output(recorder.argument(out))
    recorder.free()
    return recorder


@torch.no_grad()
def capture(model, sample, leaf, original=None):
    """`model` (in evaluation mode) as an fx.GraphModule with the same modules; `sample` [batch, ...] are some images.

    `leaf(module)` says which modules stay whole; where `model`, a copy, still calls a module of `original`, its own is
    called. InputError names the line of what is no fixed graph of operators, and a network whose graph answers
    differently.
    """
    few, more, pool = _batches(sample)
    twin = copy.deepcopy(model)  # its calls, too, are its first: a network may keep what it computed in one
    first, second = _recorded(model, few, leaf, original), _recorded(twin, more, leaf, original)
    _generalise(first, second, type(model).__name__)
    del twin, second  # of a large network, each copy counts
    batches = [few, *(pool[:size] for size in CHECKED), *[sample] * (len(sample) > max(CHECKED))]
    with first.asleep():
        answers = [(x, _answer(model, x)) for x in batches]
        _, expected = answers[0]
        if expected is not None:
            _compare(
                model, few, expected, type(model).__name__, 0, "answers the same images differently when asked again"
            )
    for name, value in first.constants.items():
        model.register_buffer(name, value, persistent=False)
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # the graph writes nowhere
    if first.asked:
        _fix_shape(first.graph, tuple(sample.shape[1:]), first.asked)
    graph = fx.GraphModule(model, first.graph, type(model).__name__)
    dropouts_as_modules(graph)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    graph.training = model.training
    for x, wanted in answers:
        if wanted is not None:
            _compare(graph, x, wanted, type(model).__name__, APART if first.apart else CLOSE)
    return graph


def _fix_shape(graph, shape, asked):
    """Let the graph take images of the sample's shape alone: the network asked for their size."""
    image = next(iter(graph.nodes))
    with graph.inserting_after(image):
        fixed = graph.call_function(of_shape, (image, shape, asked))
    image.replace_all_uses_with(fixed, lambda user: user is not fixed)


def _answer(model, x):
    """The network's answer; None if it does not take a batch of this size."""
    try:
        with random_draws(model)():
            return model(x.clone())
    except Exception:  # a network may raise anything
        return None


def _compare(network, x, expected, name, rounding, what=None):
    """InputError unless an answer is the expected one, up to `rounding` times the format's eps."""
    what = what or f"as recorded answers a batch of {len(x)} differently"
    try:
        with random_draws(network)():
            answer = network.forward(x.clone())
    except (RuntimeError, IndexError) as error:
        raise InputError(f"{name} {what}: {first_line(error)}") from error
    for got, wanted in zip(leaves(answer), leaves(expected), strict=True):
        off = _difference(got, wanted, rounding) if isinstance(wanted, torch.Tensor) else ""
        if off:
            raise InputError(f"{name} {what} ({off}): does it depend on the size of the batch, or on state that its "
                             "calls change?")  # fmt: skip


def _difference(got, wanted, rounding):
    """How two tensors differ by more than rounding, in words; empty if they do not."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"in shape {tuple(got.shape)}, {got.dtype}"
    if torch.equal(got, wanted) or not wanted.numel():
        return ""
    if not wanted.is_floating_point():
        return "in whole numbers or truth values"
    close = min(COARSEST, rounding * torch.finfo(wanted.dtype).eps)
    largest = wanted[wanted.isfinite()].abs().max().item() if wanted.isfinite().any() else 0.0
    if torch.allclose(got, wanted, close, close * largest, equal_nan=True):
        return ""
    return f"by {(got - wanted).abs().nan_to_num(torch.inf).max():.3g}"


def _batches(sample):
    """Two batches for recording, without a common image at the same place, and images for checking."""
    x = sample.detach()
    rows = torch.cat([x, x.flip(-1), x.roll(1, -1)] * -(-max(CHECKED) // len(x)))
    return rows[: SIZES[0]].clone(), rows[1 : SIZES[1] + 1].clone(), rows[: max(CHECKED)].clone()


def _generalise(first, second, name):
    """Replace numbers that grew with the batch in the first recording; InputError for other differences."""
    ours, theirs = list(first.graph.nodes), list(second.graph.nodes)
    twin = dict(zip(ours, theirs, strict=False))
    for node, other in zip(ours, theirs, strict=False):
        if (node.op, node.target) != (other.op, other.target):
            raise InputError(f"{name} does something else for other images or batches at {_at(node)}: "
                             "it is no fixed graph of operators")  # fmt: skip
        _refuse_cutting(first.lengths, second.lengths, node, other, name)
        mine, yours = leaves((node.args, node.kwargs)), leaves((other.args, other.kwargs))
        same = len(mine) == len(yours) and all(
            twin.get(a) is b if isinstance(a, fx.Node) else _alike(a, b) for a, b in zip(mine, yours, strict=True)
        )
        if not same:
            raise InputError(f"{_at(node)}: {node.name} has other arguments for other images")
        made = node.op == "get_attr" and node.target in first.constants
        if made and not _equal(first.constants[node.target], second.constants[node.target]):
            user = next(iter(node.users), node)
            raise InputError(f"{_at(user)}: a tensor that {name} made outside torch's operations depends on the images "
                             "or on their number")  # fmt: skip
        grown = [i for i, (a, b) in enumerate(zip(mine, yours, strict=True)) if not isinstance(a, fx.Node) and a != b]
        if grown:
            _by_size(first, second, node, other, mine, set(grown))
    if len(ours) != len(theirs):
        raise InputError(f"{name} takes {len(ours)} operations for {SIZES[0]} images and {len(theirs)} for {SIZES[1]}: "
                         "it treats them one by one, and is no fixed graph of operators")  # fmt: skip


def _refuse_cutting(lengths, longer, node, other, name):
    """InputError where the batch is cut into parts of a fixed size: a larger one would have more parts."""
    operation = node.target if node.op == "call_method" else FUNCTIONS.get(node.target)
    if operation not in ("split", "getitem") or not node.all_input_nodes:
        return
    few, more = (found.get(of.all_input_nodes[0], 0) for found, of in ((lengths, node), (longer, other)))
    if not few or few * SIZES[1] != more * SIZES[0]:
        return
    given = dict(zip(("split_size_or_sections", "dim"), node.args[1:], strict=False), **node.kwargs)
    size = given.get("split_size_or_sections") if operation == "split" and not given.get("dim") else None
    if operation == "getitem":
        index = node.args[1][0] if isinstance(node.args[1], tuple) and node.args[1] else node.args[1]
        size = index.stop if isinstance(index, slice) else None
    if isinstance(size, int) and size > few and node.args[1:] == other.args[1:]:
        raise InputError(f"{_at(node)}: {name} works on {size} images at a time, so it does something else for more: "
                         "let it take the whole batch")  # fmt: skip


def _at(node):
    """Where the network calls a node, or its name."""
    return node.meta.get("where") or node.name


def _equal(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _alike(a, b):
    """Whether two arguments are the same, or whole numbers in the ratio of the batches."""
    if type(a) is not type(b):
        return False
    if isinstance(a, int) and not isinstance(a, bool) and a != b:
        return a % SIZES[0] == 0 and a * SIZES[1] == b * SIZES[0]
    return a == b or a != a


def _by_size(recorder, second, node, other, mine, grown):
    """Write the arguments `grown` of a node as multiples of the batch, taken from a value that it reads if one grew."""
    lengths, longer = recorder.lengths, second.lengths
    source = next(iter(recorder.graph.nodes))
    for ours, theirs in zip(node.all_input_nodes, other.all_input_nodes, strict=True):
        few, more = lengths.get(ours, 1), longer.get(theirs, 1)
        if ours in recorder.moving and few % SIZES[0] == 0 and few * SIZES[1] == more * SIZES[0]:
            source = ours
            break
    per_image, made, count = lengths[source] // SIZES[0], {}, iter(range(len(mine)))

    def number(value):
        times = value // SIZES[0]
        if times not in made:
            with recorder.graph.inserting_before(node):
                size = recorder.graph.call_method("size", (source, 0))
                if times % per_image == 0:
                    size = size if times == per_image else recorder.graph.call_function(
                        operator.mul, (size, times // per_image))  # fmt: skip
                else:
                    size = recorder.graph.call_function(operator.mul, (size, times))
                    size = recorder.graph.call_function(operator.floordiv, (size, per_image))
            made[times] = size
        return made[times]

    args, kwargs = map_aggregate((node.args, node.kwargs), lambda v: number(v) if next(count) in grown else v)
    node.args, node.kwargs = args, kwargs


def dropouts_as_modules(graph):
    """F.dropout as a module, so that it drops in training; InputError for one that drops in evaluation, too."""
    for node in list(graph.graph.nodes):
        if node.target not in DROPOUTS:
            continue
        names = ("input", "p", "train" if node.target is torch.dropout else "training")
        default = {"p": 0.5, "training": node.target not in (F.alpha_dropout, F.feature_alpha_dropout)}
        given = default | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        if given.get("train", given["training"]) and given["p"]:
            raise InputError(f"{_at(node)}: dropout that is on in evaluation, too, is random: "
                             "give it training=self.training")  # fmt: skip
        name = unused(graph, node.name)
        graph.add_submodule(name, DROPOUTS[node.target](given["p"]).eval())
        with graph.graph.inserting_before(node):
            replacement = graph.graph.call_module(name, (given["input"],))
        replacement.meta["where"] = node.meta.get("where")
        node.replace_all_uses_with(replacement)
        graph.graph.erase_node(node)
