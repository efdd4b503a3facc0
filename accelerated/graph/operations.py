"""What each operation of a network is: one table, from which follows how it is simulated, folded over time and counted.

    linear    f(x + y) = f(x) + f(y), bias apart, if only its first argument changes with the image
    sum       adds, subtracts or joins values: linear if all change with the image, affine if one does not
    product   of two values: linear if only one changes with the image
    affine    linear but for a constant that no argument names (a batch norm with running statistics)
    monotone  a maximum or a bound
    function  any other function of one sample
    shape     reads a shape

The type of a module or the identity of a function decides, never a name that a user chose. An operation that the table
does not know is refused.
"""

import operator
from enum import Enum

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from ..activation import QCFS, Site
from ..checks import InputError
from ..neuron import SpikingNeuron
from ..pixels import Pixels
from .modules import FeatureBatchNorm, SpikeMask
from .timm import is_drop_path

NAMES = {  # kind -> names of operations in torch, torch.nn.functional, torch.Tensor and operator
    "linear": """
        linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
        avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        mean sum cumsum diff flatten view view_as reshape reshape_as unflatten ravel squeeze unsqueeze permute transpose
        swapaxes swapdims movedim moveaxis t T mT H adjoint contiguous clone detach data positive neg negative
        chunk split split_with_sizes tensor_split unbind getitem narrow select index_select take_along_dim diagonal
        expand expand_as broadcast_to repeat tile repeat_interleave roll flip fliplr flipud rot90 tril triu
        pixel_shuffle pixel_unshuffle channel_shuffle interpolate upsample upsample_nearest upsample_bilinear
        fold unfold dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout identity
        to type type_as float double half bfloat16 cpu cuda
    """,
    "sum": "add sub subtract rsub cat concat concatenate stack hstack vstack dstack",
    "product": "mul multiply matmul bmm mm mv einsum tensordot inner outer div divide true_divide",
    "affine": "batch_norm",
    "monotone": """
        relu relu6 hardtanh clamp clip clamp_min clamp_max threshold amax amin max min maximum minimum
        max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    """,
    "function": """
        sigmoid logsigmoid tanh softmax log_softmax softmin softplus softsign gelu silu mish elu celu selu leaky_relu
        prelu rrelu hardswish hardsigmoid hardshrink softshrink tanhshrink glu logsumexp normalize
        layer_norm group_norm instance_norm rms_norm local_response_norm lp_pool1d lp_pool2d
        baddbmm addmm addcmul addcdiv bilinear where masked_fill floor_divide written
        exp expm1 exp2 log log1p log2 log10 sqrt rsqrt square pow reciprocal abs absolute sign sgn sin cos tan
        long int bool erf erfc atan sinh cosh floor ceil round trunc remainder
        lstm gru rnn_tanh rnn_relu pixels
        var std norm logical_not logical_and logical_or eq ne lt le gt ge cosine_similarity lerp sort topk gather
    """,
    "shape": """
        size dim numel ndim shape dtype device len floordiv mod is_floating_point
        zeros_like ones_like full_like new_zeros new_ones new_full
    """,
    "random": "rand randn randint rand_like randn_like bernoulli multinomial normal randperm poisson",
}  # fmt: skip


def written(x, index, value):
    """A copy of x with x[index] = value."""
    x = x.clone()
    x[index] = value
    return x


def answers(tree):
    """The outputs of a network that has several: a tuple, list or dictionary of them, nested as it returns them."""
    return tree


def of_shape(x, shape, asked):
    """The images; InputError if they have another shape than those that the network was recorded with."""
    if tuple(x.shape[1:]) != shape:
        raise InputError(f"images must have the sample's shape {shape}, got {tuple(x.shape[1:])}: the network asks for "
                         f"their size ({asked})")  # fmt: skip
    return x


KIND = {name: kind for kind, names in NAMES.items() for name in names.split()}
SAME = {"truediv": "div", "conv": "conv2d"}  # other words for the same
HOMES = (operator, torch, F, torch.Tensor)
FUNCTIONS: dict = {}  # function -> its name in the table
for home in HOMES:
    for word in [*KIND, *SAME]:
        if callable(function := getattr(home, word, None)):
            FUNCTIONS[function] = SAME.get(word, word)
FUNCTIONS |= {len: "len", written: "written", of_shape: "identity"}

MODULES = {  # type of a module -> the name of its operation
    nn.Linear: "linear", nn.Conv1d: "conv1d", nn.Conv2d: "conv2d", nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d", nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
    nn.AvgPool1d: "avg_pool1d", nn.AvgPool2d: "avg_pool2d", nn.AvgPool3d: "avg_pool3d",
    nn.AdaptiveAvgPool1d: "adaptive_avg_pool1d", nn.AdaptiveAvgPool2d: "adaptive_avg_pool2d",
    nn.AdaptiveAvgPool3d: "adaptive_avg_pool3d",
    nn.MaxPool1d: "max_pool1d", nn.MaxPool2d: "max_pool2d", nn.MaxPool3d: "max_pool3d",
    nn.AdaptiveMaxPool1d: "adaptive_max_pool1d", nn.AdaptiveMaxPool2d: "adaptive_max_pool2d",
    nn.AdaptiveMaxPool3d: "adaptive_max_pool3d", nn.LPPool1d: "lp_pool1d", nn.LPPool2d: "lp_pool2d",
    nn.BatchNorm1d: "batch_norm", nn.BatchNorm2d: "batch_norm", nn.BatchNorm3d: "batch_norm",
    nn.SyncBatchNorm: "batch_norm", FeatureBatchNorm: "batch_norm",
    nn.LayerNorm: "layer_norm", nn.GroupNorm: "group_norm", nn.RMSNorm: "rms_norm",
    nn.InstanceNorm1d: "instance_norm", nn.InstanceNorm2d: "instance_norm", nn.InstanceNorm3d: "instance_norm",
    nn.LocalResponseNorm: "local_response_norm", nn.CrossMapLRN2d: "local_response_norm",
    nn.Flatten: "flatten", nn.Unflatten: "unflatten", nn.Identity: "identity", SpikeMask: "dropout",
    nn.Dropout: "dropout", nn.Dropout1d: "dropout1d", nn.Dropout2d: "dropout2d", nn.Dropout3d: "dropout3d",
    nn.AlphaDropout: "alpha_dropout", nn.FeatureAlphaDropout: "feature_alpha_dropout",
    nn.PixelShuffle: "pixel_shuffle", nn.PixelUnshuffle: "pixel_unshuffle", nn.ChannelShuffle: "channel_shuffle",
    nn.Upsample: "interpolate", nn.UpsamplingNearest2d: "interpolate", nn.UpsamplingBilinear2d: "interpolate",
    nn.Fold: "fold", nn.Unfold: "unfold", Pixels: "pixels",
    nn.ConstantPad1d: "pad", nn.ConstantPad2d: "pad", nn.ConstantPad3d: "pad", nn.ZeroPad1d: "pad", nn.ZeroPad2d: "pad",
    nn.ZeroPad3d: "pad", nn.ReflectionPad1d: "pad", nn.ReflectionPad2d: "pad", nn.ReflectionPad3d: "pad",
    nn.ReplicationPad1d: "pad", nn.ReplicationPad2d: "pad", nn.ReplicationPad3d: "pad", nn.CircularPad1d: "pad",
    nn.CircularPad2d: "pad", nn.CircularPad3d: "pad",
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Hardtanh: "hardtanh", Site: "relu", nn.Threshold: "threshold",
    nn.Sigmoid: "sigmoid", nn.LogSigmoid: "logsigmoid", nn.Tanh: "tanh", nn.Softmax: "softmax",
    nn.LogSoftmax: "log_softmax", nn.Softmin: "softmin", nn.Softmax2d: "softmax", nn.Softplus: "softplus",
    nn.Softsign: "softsign", nn.GELU: "gelu", nn.SiLU: "silu", nn.Mish: "mish", nn.ELU: "elu", nn.CELU: "celu",
    nn.SELU: "selu", nn.LeakyReLU: "leaky_relu", nn.PReLU: "prelu", nn.RReLU: "rrelu", nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid", nn.Hardshrink: "hardshrink", nn.Softshrink: "softshrink",
    nn.Tanhshrink: "tanhshrink", nn.GLU: "glu", nn.CosineSimilarity: "cosine_similarity",
}  # fmt: skip
SHAPE_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "is_cuda", "layout")  # other attributes are values
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # folded by conversion where that is possible
WEIGHTED = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
MAX_POOLS = {"max_pool1d": nn.AvgPool1d, "max_pool2d": nn.AvgPool2d, "max_pool3d": nn.AvgPool3d}  # -> its average
POOL_ARGUMENTS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
MATRIX_PRODUCTS = ("matmul", "bmm", "mm", "mv", "einsum", "tensordot", "inner", "outer")
QUOTIENTS = ("div", "divide", "true_divide")
SHARES = (  # operations whose result may lie in the memory of what they read: a part, another shape
    "flatten", "view", "view_as", "reshape", "reshape_as", "unflatten", "ravel", "squeeze", "unsqueeze", "permute",
    "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT", "H", "adjoint", "contiguous",
    "detach", "data", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "getitem", "narrow", "select",
    "expand", "expand_as", "dropout", "identity", "to",
)  # fmt: skip
OF_A_SHAPE = ("view_as", "reshape_as", "expand_as")


class Kind(Enum):
    """What a node is, given what its arguments are."""

    IMAGE = "image"
    CONSTANT = "constant"  # computed from weights and numbers alone
    SHAPE = "shape"  # computed from shapes, and thus from the size of the batch
    NEURON = "neuron"  # an activation: quantised or spiking
    LINEAR = "linear"
    AFFINE = "affine"
    PRODUCT = "product"
    MONOTONE = "monotone"
    FUNCTION = "function"
    UNKNOWN = "unknown"
    OUTPUT = "output"


FIXED = (Kind.CONSTANT, Kind.SHAPE)  # the same in every step


def module_of(graph, node):
    """The module that a node calls, or None."""
    return graph.get_submodule(node.target) if node.op == "call_module" else None


def known_as(module):
    """The name of a module's operation in the table, also of a subclass that only inherits; None if it is not there."""
    kind = type(module)
    base = next((base for base in kind.__mro__ if base in MODULES), None)
    parts = ("forward", "_conv_forward", "__call__", "_call_impl")
    if base is None or any(getattr(kind, part, None) is not getattr(base, part, None) for part in parts):
        return None
    return MODULES[base]


def operation_of(graph, node):
    """The name of a node's operation in the table; None if the table does not know it."""
    if node.op == "call_module":
        module = module_of(graph, node)
        return "dropout" if is_drop_path(module) else known_as(module)
    if node.op == "call_method":
        return SAME.get(node.target, node.target) if node.target in KIND or node.target == "pad" else None
    if node.op != "call_function":
        return None
    if node.target is getattr:
        return "shape" if node.args[1] in SHAPE_ATTRIBUTES else node.args[1]
    return "pad" if node.target is F.pad else FUNCTIONS.get(node.target)


def kinds_of(graph) -> dict[Node, Kind]:
    """{node: its kind}, from the table and the kinds of the nodes before it."""
    kinds: dict[Node, Kind] = {}
    for node in graph.graph.nodes:
        kinds[node] = _kind(graph, node, kinds)
    return kinds


def _kind(graph, node, kinds):
    if node.op in ("placeholder", "output", "get_attr"):
        return {"placeholder": Kind.IMAGE, "output": Kind.OUTPUT, "get_attr": Kind.CONSTANT}[node.op]
    if node.target is answers:
        return Kind.OUTPUT
    module, name = module_of(graph, node), operation_of(graph, node)
    if isinstance(module, (QCFS, SpikingNeuron)):
        return Kind.NEURON
    sources = node.all_input_nodes
    moving = [source for source in sources if kinds[source] not in FIXED]
    kind = KIND.get(name, "linear" if name == "pad" else "unknown")
    if kind == "shape" and sources:
        return Kind.SHAPE
    if not moving:
        constant = Kind.SHAPE if any(kinds[source] is Kind.SHAPE for source in sources) else Kind.CONSTANT
        return Kind.UNKNOWN if kind == "random" else constant
    if kind == "sum":
        return _kind_of_sum(node, moving)
    if kind == "product":
        return _kind_of_product(node, name, moving)
    if kind == "linear":
        return _kind_of_linear(graph, node, name, moving)
    if kind == "affine" and not _has_statistics(module, node, moving):
        return Kind.FUNCTION
    return Kind(kind) if kind not in ("random", "shape") else Kind.UNKNOWN


def operands(node):
    """The arguments that a sum or join combines, numbers included."""
    found = []
    for argument in (
        *node.args,
        *(value for key, value in node.kwargs.items() if key in ("other", "tensors", "input")),
    ):
        found += argument if isinstance(argument, (list, tuple)) else [argument]
    return found


def _kind_of_sum(node, moving):
    if set(node.kwargs) - {"dim", "axis", "other", "tensors", "input"}:  # alpha
        return Kind.FUNCTION
    joins = any(isinstance(argument, (list, tuple)) for argument in (*node.args, *node.kwargs.values()))
    terms = [a for a in operands(node) if isinstance(a, Node) or not joins]
    return Kind.LINEAR if all(term in moving for term in terms) else Kind.AFFINE


def _kind_of_product(node, name, moving):
    terms = [term for term in operands(node) if isinstance(term, Node)]
    count = sum(term in moving for term in terms)
    if name in QUOTIENTS:
        numerator = node.args[0] if node.args else node.kwargs.get("input")
        plain = numerator in moving and count == 1 and not node.kwargs.get("rounding_mode")
        return Kind.LINEAR if plain else Kind.FUNCTION
    return Kind.LINEAR if count == 1 else Kind.PRODUCT if count == 2 else Kind.FUNCTION


def _kind_of_linear(graph, node, name, moving):
    first = node.args[0] if node.args else next(iter(node.kwargs.values()))
    reads = moving[:1] if name in OF_A_SHAPE else moving  # of its second argument, only the shape
    given = [a for a in formats(node) if isinstance(a, Node)]
    if reads != [first] or (given and name in ("to", "type", "type_as", "diff")):  # their format; what it begins with
        return Kind.FUNCTION
    if any(isinstance(a, torch.dtype) and not a.is_floating_point for a in formats(node)):
        return Kind.FUNCTION
    if name == "type" and any(isinstance(argument, str) for argument in formats(node)):
        return Kind.UNKNOWN
    if name == "pad" and not _pads_with_zeros(module_of(graph, node), node):
        return Kind.AFFINE
    return Kind.LINEAR


def formats(node):
    """The arguments of a node after the value that it reads; those of a change of format say which."""
    return (*node.args[1:], *node.kwargs.values())


def unbiased_arguments(node):
    """(args, kwargs) of a weighted function without its bias."""
    args = (*node.args[:2], None, *node.args[3:]) if len(node.args) > 2 else node.args
    return args, {key: value for key, value in node.kwargs.items() if key != "bias"}


def _pads_with_zeros(module, node):
    """Whether padding is linear: by zeros, or by values of the sample."""
    if module is not None:
        return not getattr(module, "value", 0)
    settings = dict(zip(("mode", "value"), node.args[2:], strict=False), **node.kwargs)
    return settings.get("mode", "constant") != "constant" or not settings.get("value")


def _has_statistics(module, node, moving):
    """Whether a batch norm uses running statistics; otherwise it is a function of the whole batch."""
    if isinstance(module, FeatureBatchNorm):
        module = module.norm
    if module is not None:
        return module.running_mean is not None
    training = node.kwargs.get("training", node.args[5] if len(node.args) > 5 else False)
    return len(moving) == 1 and not training


def is_relu(graph, node):
    """Whether a node is a ReLU with or without an upper bound: max(x, 0), min(max(x, 0), c)."""
    return relu_bound(graph, node) is not None


def relu_bound(graph, node):
    """The upper bound of a ReLU (infinity if it has none); None for what is no ReLU."""
    module, name = module_of(graph, node), operation_of(graph, node)
    if name == "relu" or (name == "relu6" and module is None):
        return 6.0 if name == "relu6" else float("inf")
    if name not in ("relu6", "hardtanh", "clamp", "clip", "clamp_min"):
        return None
    lowest, highest = ("min_val", "max_val") if name in ("relu6", "hardtanh") else ("min", "max")
    if module is not None:
        found = {lowest: module.min_val, highest: module.max_val}
    else:
        found = dict(zip((lowest, highest), node.args[1:], strict=False), **node.kwargs)
        found.setdefault(highest, 1.0 if name == "hardtanh" else None)
    low, high = found.get(lowest, -1.0), found.get(highest)
    numbers = all(isinstance(bound, (int, float)) for bound in (low, float("inf") if high is None else high))
    if not numbers or low != 0 or (high is not None and high <= 0):
        return None
    return float("inf") if high is None else float(high)


def is_activation(module):
    """Whether a QCFS may take a module's place."""
    return type(module) in (nn.ReLU, nn.ReLU6, nn.Hardtanh, Site)


def is_max_pool(graph, node):
    """Whether a node takes maxima over windows: as a module or a function."""
    return operation_of(graph, node) in MAX_POOLS


def label_of(graph, node):
    """The usual name of what a node calls: ReLU, relu, MaxPool2d, ..."""
    module = module_of(graph, node)
    if isinstance(module, Site):
        return f"activation of a {module.site}"
    if module is not None:
        return type(module).__name__
    return operation_of(graph, node) or getattr(node.target, "__name__", str(node.target))


def place_of(node):
    """Where the network calls a node, as " (FILE:LINE)", if that is known."""
    return f" ({node.meta['where']})" if node.meta.get("where") else ""


def named(node):
    """The path of a node's module, or its own name."""
    return str(node.target) if node.op == "call_module" else node.name


def refuse_unknown(graph):
    """InputError names the first operation that the table does not know."""
    given = sum(node.op == "placeholder" for node in graph.graph.nodes)
    if given != 1:
        raise InputError(f"a network must take one batch of images; this one takes {given} inputs")
    for node, kind in kinds_of(graph).items():
        if kind is Kind.UNKNOWN:
            raise InputError(f"{named(node)} ({label_of(graph, node)}) cannot be converted{place_of(node)}: "
                             f"{_advice(graph, node)}")  # fmt: skip


def _advice(graph, node):
    """What to do instead of an operation that cannot be converted."""
    if KIND.get(operation_of(graph, node)) == "random":
        return "it is random in evaluation, too; draw only in training"
    module = module_of(graph, node)
    if module is None:
        return "its kind is not known; write it with operations of torch that act on each sample by itself"
    return "its kind is not known; write its forward with operations of torch, in a module of your own"
