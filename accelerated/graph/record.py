"""Records what a network does while it answers images: every call of torch becomes a node of a graph.

Python runs as it is, so shapes, `if`, `assert`, `len` and loops are no obstacle. What would make the record wrong is
refused with its line: numbers of an image that decide what happens, and values that are overwritten under another name.
"""

import contextlib
import inspect
import operator
import traceback
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode, resolve_name

from ..checks import InputError
from .attention import TAKEN_APART
from .changes import unused
from .operations import FUNCTIONS, KIND, written

ASKING = (  # methods that answer about a tensor without reading its numbers
    "size", "dim", "numel", "nelement", "ndimension", "stride", "is_contiguous", "element_size", "get_device",
    "is_floating_point", "is_complex", "is_signed", "storage_offset", "data_ptr", "is_pinned", "is_shared",
    "is_same_size", "is_inference", "is_conj", "is_neg", "type", "result_type", "broadcast_shapes", "__len__",
    "__get__", "__hash__", "__dir__",
)  # fmt: skip
METHODS = {  # special methods of a tensor -> functions, with swapped arguments where they stand on the right
    "__add__": operator.add, "add": operator.add, "__sub__": operator.sub, "sub": operator.sub,
    "__mul__": operator.mul, "mul": operator.mul, "__truediv__": operator.truediv, "div": operator.truediv,
    "__matmul__": operator.matmul, "matmul": operator.matmul, "__getitem__": operator.getitem,
    "__pow__": operator.pow, "pow": operator.pow, "__neg__": operator.neg, "__floordiv__": torch.floor_divide,
    "__mod__": torch.remainder,
}  # fmt: skip
OF_SIZES = ("numel", "nelement", "stride", "is_same_size", "broadcast_shapes")
FILLING = {"zero_": torch.zeros_like, "fill_": torch.full_like}
SWAPPED = {
    "__radd__": operator.add, "__rsub__": operator.sub, "__rmul__": operator.mul, "__rdiv__": operator.truediv,
    "__rtruediv__": operator.truediv, "__rmatmul__": operator.matmul, "__rpow__": operator.pow,
}  # fmt: skip


OURS = Path(__file__).parent
OTHERS = f"{Path(torch.__file__).parent}/", f"{OURS}/", *map(str, OURS.parent.glob("*.py")), contextlib.__file__


def place_of_error(error):
    """FILE:LINE of the network's own code that an error passed last."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    return _first_own(reversed(frames))


def _where():
    """FILE:LINE of the network's own code that is running."""
    return _first_own((frame.f_code.co_filename, line) for frame, line in traceback.walk_stack(None))


def _first_own(frames):
    for filename, line in frames:
        if not filename.startswith(OTHERS) and "<" not in filename:
            return f"{Path(filename).name}:{line}"
    return ""


class Recorder(TorchFunctionMode):
    """Records the calls of torch in one forward pass of `root` as nodes of `graph`."""

    def __init__(self, root, leaf, original=None):
        super().__init__()
        self.root, self.leaf, self.graph = root, leaf, fx.Graph()
        self.names = {id(module): name for name, module in root.named_modules()}
        networks = [root if original is None else original, root]  # what is attached to a module may reach the original
        self.originals = {id(part): name for name, part in networks[0].named_modules() if id(part) not in self.names}
        self.places = {id(value): name for network in networks
                       for name, value in (*network.named_parameters(), *network.named_buffers())}  # fmt: skip
        self.nodes: dict = {}  # id of a tensor -> (tensor, its node, its version)
        self.views: dict = {}  # id of a tensor that shares memory -> (the tensor of which it is a part, index)
        self.moving: set = set()  # nodes that depend on the images
        self.constants: dict = {}  # name -> tensor that the network made or kept outside its parameters
        self.lengths: dict = {}  # node -> length of the first axis, once the pass is over
        self.asked = ""  # where the network first asked for a size other than that of the batch
        self.apart = False  # whether attention was taken apart
        self.quiet = False

    def image(self, x):
        """Begin with images x."""
        self._keep(x, self.graph.placeholder("image"))

    def _keep(self, value, node):
        self.nodes[id(value)] = value, node, value._version

    def node_of(self, value):
        """The node whose value a tensor is; weights and constants get theirs when they are first read."""
        if id(value) in self.nodes:
            _, node, version = self.nodes[id(value)]
            if value._version != version and not self._is_state(value):
                raise InputError(f"{_where()} reads a value that was overwritten under another name: "
                                 "write it without an in-place operation")  # fmt: skip
            return node
        name = self.places.get(id(value))
        if name is None and torch._C._functorch.is_functorch_wrapped_tensor(value):
            raise InputError(f"{_where()} works within torch.func (vmap, grad): write it for the whole batch")
        if name is None:
            name = unused(self.root, f"_constant{len(self.constants)}")
            self.constants[name] = value.detach().clone()
        node = self.graph.get_attr(name)
        self._keep(value, node)
        return node

    def free(self):
        """Free the values, which are all of one pass; their lengths stay."""
        self.lengths = {node: len(value) for value, node, _ in self.nodes.values() if value.ndim}
        self.nodes.clear()
        self.views.clear()

    def _is_state(self, value):
        return id(value) in self.places

    def argument(self, value):
        """An argument as a graph has it: nodes for tensors, plain numbers for numbers."""
        if isinstance(value, torch.Tensor):
            return self.node_of(value)
        if isinstance(value, torch.Size):
            return tuple(value)
        if isinstance(value, (tuple, list, dict)):
            value = dict(value) if isinstance(value, dict) else value
            return map_aggregate(value, lambda v: v if v is value else self.argument(v))
        if hasattr(value, "item") and callable(value.item):  # a number of NumPy
            return value.item()
        if isinstance(value, slice):
            return slice(*map(self.argument, (value.start, value.stop, value.step)))
        plain = (int, float, complex, bool, str, type(None), torch.dtype, torch.device, torch.layout,
                 torch.memory_format, type(Ellipsis), range)  # fmt: skip
        if not isinstance(value, plain):
            raise InputError(f"{_where()}: an argument of type {type(value).__name__} cannot be kept in a graph")
        return value

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.quiet:
            return func(*args, **kwargs)
        if func in TAKEN_APART:
            self.apart = True
            with self:
                return TAKEN_APART[func](*args, **kwargs)  # type: ignore[operator]
        if KIND.get(FUNCTIONS.get(func, "")) == "random":
            raise InputError(f"{_where()}: {func.__name__} draws random numbers in evaluation: draw only in training")
        tensors = [value for value in leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        before = [value._version for value in tensors]
        nodes = [self.node_of(value) for value in tensors] if tensors else []
        moving = any(node in self.moving or node.op == "placeholder" for node in nodes)
        name = getattr(func, "__name__", str(func))
        out = func(*args, **kwargs)
        if not any(isinstance(value, torch.Tensor) for value in leaves(out)):
            changed = [value for value, was in zip(tensors, before, strict=True) if value._version != was]
            if changed and name == "__setitem__":  # a new value of x
                self._now_of(changed)
                self._note(self.graph.call_function(written, tuple(map(self.argument, args))), changed[0])
                self._pass_on(changed[0])
            elif moving and _asks_for_sizes(func, name, args, kwargs):
                self.asked = self.asked or _where() or name
            elif moving and name not in ASKING:
                raise InputError(f"{_where()}: what the network does depends on the numbers of an image ({name}): "
                                 "it is no fixed graph of operators")  # fmt: skip
            return out
        changed = [value for value, was in zip(tensors, before, strict=True) if value._version != was]
        self._record(self._call(func, name, args, kwargs, changed), out)
        if name == "__getitem__" and out.untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr():
            self.views[id(out)] = args
        for value in changed:
            self._pass_on(value)
        return out

    def _pass_on(self, value):
        """A part of a tensor was written: so was the tensor."""
        while id(value) in self.views:
            whole, index = self.views[id(value)]
            self._now_of([whole])
            self._note(self.graph.call_function(written, tuple(map(self.argument, (whole, index, value)))), whole)
            value = whole

    def _now_of(self, changed):
        """These tensors were written: they stand for what they held before until a node is noted for what they hold."""
        for value in changed:
            kept, node, _ = self.nodes[id(value)]
            self.nodes[id(value)] = kept, node, value._version

    def _note(self, node, *values):
        node.meta["where"] = _where()
        if len(values) == 1:
            node.meta["ndim"] = values[0].ndim
        if any(source in self.moving or source.op == "placeholder" for source in node.all_input_nodes):
            self.moving.add(node)
        for value in values:
            self._keep(value, node)

    @contextlib.contextmanager
    def asleep(self):
        """Within the context nothing is recorded, but what was attached to a module still calls the copy's modules."""
        with self._pausing(), calls_of(self):
            yield

    @contextlib.contextmanager
    def _pausing(self):
        self.quiet, before = True, self.quiet
        try:
            yield
        finally:
            self.quiet = before

    def _call(self, func, name, args, kwargs, changed):
        """(operation of the graph, target, args, kwargs) of a call, in a form that writes into nothing."""
        if "out" in kwargs and kwargs["out"] is not None:
            raise InputError(f"{_where()}: {name}(out=...) writes into a value: assign its result instead")
        if any(map(self._is_state, changed)):
            raise InputError(f"{_where()}: {name} writes into a parameter or buffer while the network answers")
        self._now_of(changed)
        if changed:
            func, name, args, kwargs = self._out_of_place(func, name, args, kwargs)
        args, kwargs = self.argument(tuple(args)), self.argument(dict(kwargs))
        if name in SWAPPED:
            return "call_function", SWAPPED[name], args[::-1], kwargs
        method = resolve_name(func) or ""
        if not method.startswith("torch.Tensor."):
            return "call_function", func, args, kwargs
        if name == "__get__":
            return "call_function", getattr, (args[0], method.split(".")[2]), {}
        if name in METHODS and not kwargs and len(args) == (1 if name == "__neg__" else 2):
            return "call_function", METHODS[name], args, kwargs
        return "call_method", name, args, kwargs

    def _out_of_place(self, func, name, args, kwargs):
        """The operation that returns what this one writes."""
        arguments = {}
        with contextlib.suppress(TypeError, ValueError):
            arguments = dict(inspect.signature(func).bind(*args, **kwargs).arguments)
        if arguments.get("inplace"):
            first = arguments.pop(next(iter(arguments)))
            return func, name, (first,), {**arguments, "inplace": False}
        if name in FILLING:
            return FILLING[name], FILLING[name].__name__, args, kwargs
        plain = {"__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div"}.get(name, name[:-1])
        for home in (torch.Tensor, torch, F):
            if getattr(home, name, None) is func and name.endswith("_") and callable(getattr(home, plain, None)):
                return getattr(home, plain), plain, args, kwargs
        raise InputError(f"{_where()}: {name} writes into a value: write it without an in-place operation")

    def _record(self, call, out):
        """A node for a call, and one more for each tensor of a tuple that it returned."""
        if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
            raise InputError(f"{_where()}: the network uses autocast; convert it to the format with .to() instead")
        node = self.graph.create_node(*call)
        if isinstance(out, torch.Tensor):
            self._note(node, out)
            return
        self._note(node)
        self._take_apart(node, out)

    def _take_apart(self, node, out):
        items = out.items() if isinstance(out, dict) else enumerate(out)
        for key, value in items:
            if isinstance(value, torch.Tensor):
                self._note(self.graph.call_function(operator.getitem, (node, key)), value)
            elif isinstance(value, (tuple, list, dict)):
                part = self.graph.call_function(operator.getitem, (node, key))
                self._note(part)
                self._take_apart(part, value)

    def module(self, original, module, args, kwargs):
        """A call of a module: one node if it is kept whole, else what happens inside it."""
        if id(module) in self.originals:
            module = self.root.get_submodule(self.originals[id(module)])
        if self.quiet or id(module) not in self.names or not self.leaf(module):
            return original(module, *args, **kwargs)
        with self._pausing():
            tensors = [value for value in leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
            before = [value._version for value in tensors]
            given = self.argument(tuple(args)), self.argument(dict(kwargs))
            out = original(module, *args, **kwargs)
            self._now_of([value for value, was in zip(tensors, before, strict=True) if value._version != was])
            self._record(("call_module", self.names[id(module)], *given), out)
        return out


def _asks_for_sizes(func, name, args, kwargs):
    """Whether a call asks for sizes other than the number of images: those that a graph keeps as numbers."""
    if name == "size":
        return (args[1] if len(args) > 1 else kwargs.get("dim")) != 0
    return name in OF_SIZES or (name == "__get__" and (resolve_name(func) or "").split(".")[-2] in ("shape", "nbytes"))


def leaves(value):
    """All values within tuples, lists, dictionaries and slices."""
    found: list = []
    map_aggregate(value, found.append)
    return found


@contextlib.contextmanager
def calls_of(recorder):
    """Within the context, calls of modules go through `recorder.module`."""
    original = nn.Module.__call__

    def call(module, *args, **kwargs):
        return recorder.module(original, module, args, kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]
