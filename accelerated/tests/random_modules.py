"""Random networks from the whole table of operations; a test fails for an operation that is not in the grammar.

A network is a list of steps; a step is the name of an operation, a function of earlier values, and their numbers.
Shapes are those of one image: (C, H, W), tokens (N, F) or features (F,).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

NOT_DRAWN = {  # operations of the table that no random network has, and why
    "size dim numel ndim shape dtype device len is_floating_point floordiv mod": "asked by every network that flattens",
    "rand randn randint rand_like randn_like bernoulli multinomial normal randperm poisson": "refused",
    "eq ne lt le gt ge logical_not logical_and logical_or sign sgn floor ceil round trunc remainder floor_divide "
    "hardshrink": "jump: a rounding error becomes a whole step",
    "topk sort gather take_along_dim sin cos tan sinh cosh": "no network was seen that needs them in front of a neuron",
    "long int bool": "change the format to whole numbers: no increments of spikes",
    "rrelu alpha_dropout feature_alpha_dropout": "the same as leaky_relu and dropout in evaluation",
    "to type type_as float double half bfloat16 cpu cuda": "change the format",
    "conv3d conv_transpose3d avg_pool3d max_pool3d adaptive_avg_pool3d adaptive_max_pool3d": "as in two dimensions",
    "pixels": "begins a network in whole numbers",
    "reciprocal log log2 log10 rsqrt": "not finite near 0",
}


class Step(NamedTuple):
    name: str
    function: object
    inputs: tuple
    shape: tuple


def _conv(random, shape, dims, transposed=False):
    c, *space = shape
    out, kernel = 2 * int(random.integers(1, 4)), int(random.integers(1, 4))
    groups = 2 if c % 2 == 0 and random.random() < 0.3 else 1
    kinds = {1: (nn.Conv1d, nn.ConvTranspose1d), 2: (nn.Conv2d, nn.ConvTranspose2d)}
    if transposed and min(space) > 6:
        return None
    layer = kinds[dims][transposed](
        c, out, kernel, int(random.integers(1, 3)), int(random.integers(0, kernel)), groups=groups
    )
    if random.random() < 0.3:
        layer.bias = None
    return layer


def _pool(random, kind, **more):
    kernel = int(random.integers(2, 4))
    return kind(
        kernel, int(random.integers(1, 3)), int(random.integers(0, 2)), ceil_mode=bool(random.random() < 0.5), **more
    )


def _norm(random, module):
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    if getattr(module, "running_mean", None) is not None:
        nn.init.normal_(module.running_mean, std=0.3)
        nn.init.uniform_(module.running_var, 0.5, 2)
    return module


def _axis(random, shape):
    return int(random.integers(1, len(shape) + 1))


def _constant(shape):
    return nn.Parameter(torch.randn(shape[-1:]))


class Constant(nn.Module):
    """An operation of a value and a trained constant."""

    def __init__(self, function, *shape):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return self.function(x, self.weight)


class Functional(nn.Module):
    """A layer as a function of its own weights."""

    def __init__(self, function, layer):
        super().__init__()
        self.function, self.layer = function, layer

    def forward(self, x):
        return self.function(x, self.layer.weight, self.layer.bias)


class Heads(nn.Module):
    """torch's multi-head attention of tokens to themselves."""

    def __init__(self, features):
        super().__init__()
        self.attention = nn.MultiheadAttention(features, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Recurrent(nn.Module):
    """A recurrent layer over tokens: its outputs."""

    def __init__(self, kind, features, **more):
        super().__init__()
        self.layer = kind(features, 4, batch_first=True, **more)

    def forward(self, x):
        return self.layer(x)[0]


IMAGE = {  # operation -> (random, shape) -> a function of one image-shaped value, or None if it does not fit
    "conv2d": lambda r, s: _conv(r, s, 2),
    "conv_transpose2d": lambda r, s: _conv(r, s, 2, transposed=True),
    "avg_pool2d": lambda r, s: _pool(r, nn.AvgPool2d, count_include_pad=bool(r.random() < 0.5)),
    "max_pool2d": lambda r, s: _pool(r, nn.MaxPool2d),
    "lp_pool2d": lambda r, s: nn.LPPool2d(2, 2),
    "adaptive_avg_pool2d": lambda r, s: nn.AdaptiveAvgPool2d(int(r.integers(1, 5))),
    "adaptive_max_pool2d": lambda r, s: lambda x: F.adaptive_max_pool2d(x, 2),
    "batch_norm": lambda r, s: _norm(r, nn.BatchNorm2d(s[0], affine=bool(r.random() < 0.7))),
    "group_norm": lambda r, s: _norm(r, nn.GroupNorm(2 if s[0] % 2 == 0 else 1, s[0])),
    "instance_norm": lambda r, s: nn.InstanceNorm2d(s[0]) if min(s[1:]) > 1 else None,
    "local_response_norm": lambda r, s: nn.LocalResponseNorm(2, alpha=3.0),
    "pixel_shuffle": lambda r, s: nn.PixelShuffle(2) if s[0] % 4 == 0 else None,
    "pixel_unshuffle": lambda r, s: nn.PixelUnshuffle(2) if s[1] % 2 == 0 and s[2] % 2 == 0 else None,
    "channel_shuffle": lambda r, s: nn.ChannelShuffle(2) if s[0] % 2 == 0 else None,
    "interpolate": lambda r, s: nn.Upsample(scale_factor=2, mode=str(r.choice(["nearest", "bilinear"]))),
    "upsample": lambda r, s: lambda x: F.interpolate(x, size=(3, 5), mode="nearest"),
    "upsample_nearest": lambda r, s: nn.UpsamplingNearest2d(scale_factor=2) if s[1] * s[2] < 37 else None,
    "upsample_bilinear": lambda r, s: nn.UpsamplingBilinear2d(scale_factor=2) if s[1] * s[2] < 37 else None,
    "pad": lambda r, s: nn.ConstantPad2d(1, float(r.integers(0, 2))) if r.random() < 0.7 else nn.ReplicationPad2d(1),
    "dropout2d": lambda r, s: nn.Dropout2d(0.5),
    "unfold": lambda r, s: nn.Unfold(2) if s[1] * s[2] < 40 and min(s[1:]) > 1 else None,
    "rot90": lambda r, s: lambda x: torch.rot90(x, 1, (2, 3)),
    "tril": lambda r, s: torch.tril,
    "triu": lambda r, s: torch.triu,
    "diagonal": lambda r, s: lambda x: x.diagonal(dim1=2, dim2=3),
    "fliplr": lambda r, s: torch.fliplr,
    "mT": lambda r, s: lambda x: x.mT,
    "adjoint": lambda r, s: lambda x: x.adjoint(),
    "cumsum": lambda r, s: lambda x: x.cumsum(2) / 4,
    "glu": lambda r, s: nn.GLU(1) if s[0] % 2 == 0 else None,
    "softmin": lambda r, s: nn.Softmin(1),
    "prelu": lambda r, s: nn.PReLU(s[0]),
}  # fmt: skip
TOKENS = {
    "conv1d": lambda r, s: _conv(r, s, 1),
    "conv_transpose1d": lambda r, s: _conv(r, s, 1, transposed=True),
    "avg_pool1d": lambda r, s: nn.AvgPool1d(2) if s[1] > 1 else None,
    "max_pool1d": lambda r, s: nn.MaxPool1d(2) if s[1] > 1 else None,
    "lp_pool1d": lambda r, s: nn.LPPool1d(2, 2) if s[1] > 1 else None,
    "adaptive_avg_pool1d": lambda r, s: nn.AdaptiveAvgPool1d(3),
    "adaptive_max_pool1d": lambda r, s: nn.AdaptiveMaxPool1d(2),
    "linear": lambda r, s: nn.Linear(s[1], 2 * int(r.integers(1, 4))),
    "layer_norm": lambda r, s: _norm(r, nn.LayerNorm(s[1])),
    "rms_norm": lambda r, s: _norm(r, nn.RMSNorm(s[1])),
    "attention": lambda r, s: lambda x: F.scaled_dot_product_attention(x, x, x),
    "heads": lambda r, s: Heads(s[1]) if s[1] % 2 == 0 else None,
    "lstm": lambda r, s: Recurrent(nn.LSTM, s[1]), "gru": lambda r, s: Recurrent(nn.GRU, s[1]),
    "rnn_tanh": lambda r, s: Recurrent(nn.RNN, s[1]),
    "rnn_relu": lambda r, s: Recurrent(nn.RNN, s[1], nonlinearity="relu"),
    "softmax": lambda r, s: nn.Softmax(-1),
    "log_softmax": lambda r, s: nn.LogSoftmax(-1),
    "logsumexp": lambda r, s: lambda x: torch.logsumexp(x, 2),
    "normalize": lambda r, s: lambda x: F.normalize(x + 1, dim=-1),
    "bmm": lambda r, s: lambda x: torch.bmm(x, x.transpose(1, 2)) / s[1],
    "matmul": lambda r, s: Constant(torch.matmul, s[1], 4),
    "einsum": lambda r, s: Constant(lambda x, w: torch.einsum("bnf,fg->bng", x, w), s[1], 4),
    "tensordot": lambda r, s: Constant(lambda x, w: torch.tensordot(x, w, dims=1), s[1], 3),
    "inner": lambda r, s: Constant(torch.inner, 3, s[1]),
    "baddbmm": lambda r, s: lambda x: torch.baddbmm(x, x @ x.mT / 9, x),
    "movedim": lambda r, s: lambda x: x.movedim(1, 2),
    "swapaxes": lambda r, s: lambda x: x.swapaxes(1, 2),
    "unflatten": lambda r, s: nn.Unflatten(1, (s[0], 1)),
    "var": lambda r, s: (lambda x: x.var(2)) if s[1] > 1 else None,
    "std": lambda r, s: (lambda x: (8 * x + torch.arange(s[1])).std(2)) if s[1] > 1 else None,
    "norm": lambda r, s: lambda x: (x + 1).norm(dim=2),
    "cosine_similarity": lambda r, s: lambda x: F.cosine_similarity(x + 1, x.flip(2) + 2, dim=2),
    "where": lambda r, s: lambda x: torch.where(torch.arange(s[1]) % 2 == 0, x, -x),
    "masked_fill": lambda r, s: lambda x: x.masked_fill(torch.arange(s[1]) == 0, 0.5),
    "index_select": lambda r, s: lambda x: x.index_select(2, torch.tensor([0, s[1] - 1])),
    "diff": lambda r, s: (lambda x: x.diff(dim=2)) if s[1] > 1 else None,
    "dropout1d": lambda r, s: nn.Dropout1d(0.5),
}  # fmt: skip
FEATURES = {
    "mm": lambda r, s: Constant(torch.mm, s[0], 5),
    "addmm": lambda r, s: Constant(lambda x, w: torch.addmm(torch.ones(5, dtype=x.dtype), x, w), s[0], 5),
    "mv": lambda r, s: Constant(lambda x, w: torch.mv(x, w)[:, None], s[0]),
    "bilinear": lambda r, s: nn_bilinear(s[0]),
    "outer": lambda r, s: lambda x: torch.einsum("bi,bj->bij", x, x)[:, :6, :6],
    "t": lambda r, s: lambda x: x.t().t(),
    "T": lambda r, s: lambda x: x.T.T,
    "H": lambda r, s: lambda x: x.H.H,
    "hstack": lambda r, s: lambda x: torch.hstack([x, x * 2]),
    "ravel": lambda r, s: lambda x: x.ravel().reshape(x.shape),
    "fold": lambda r, s: (lambda x: F.fold(x[:, :4, None], 2, 2)) if s[0] >= 4 else None,
}  # fmt: skip
ANY = {
    "relu": lambda r, s: nn.ReLU(), "relu6": lambda r, s: nn.ReLU6(), "hardtanh": lambda r, s: nn.Hardtanh(-0.2, 0.1),
    "clamp": lambda r, s: lambda x: x.clamp(-0.1, 0.3), "clip": lambda r, s: lambda x: torch.clip(x, -0.3, 0.1),
    "clamp_min": lambda r, s: lambda x: x.clamp_min(-0.1), "clamp_max": lambda r, s: lambda x: x.clamp_max(0.2),
    "threshold": lambda r, s: nn.Threshold(0.1, 0.1), "sigmoid": lambda r, s: torch.sigmoid,
    "logsigmoid": lambda r, s: nn.LogSigmoid(), "tanh": lambda r, s: nn.Tanh(), "softplus": lambda r, s: nn.Softplus(),
    "softsign": lambda r, s: nn.Softsign(), "gelu": lambda r, s: nn.GELU(), "silu": lambda r, s: nn.SiLU(),
    "mish": lambda r, s: nn.Mish(), "elu": lambda r, s: nn.ELU(), "celu": lambda r, s: nn.CELU(),
    "selu": lambda r, s: nn.SELU(), "leaky_relu": lambda r, s: nn.LeakyReLU(0.2),
    "hardswish": lambda r, s: nn.Hardswish(), "hardsigmoid": lambda r, s: nn.Hardsigmoid(),
    "softshrink": lambda r, s: nn.Softshrink(0.1), "tanhshrink": lambda r, s: nn.Tanhshrink(),
    "exp": lambda r, s: lambda x: torch.exp(-x.abs()), "expm1": lambda r, s: lambda x: torch.expm1(-x.abs()),
    "exp2": lambda r, s: lambda x: torch.exp2(-x.abs()), "log1p": lambda r, s: lambda x: torch.log1p(x.abs()),
    "sqrt": lambda r, s: lambda x: (x.square() + 0.1).sqrt(), "square": lambda r, s: lambda x: torch.square(x) / 4,
    "pow": lambda r, s: lambda x: x**2 / 4, "abs": lambda r, s: torch.abs, "absolute": lambda r, s: torch.absolute,
    "erf": lambda r, s: torch.erf, "erfc": lambda r, s: torch.erfc, "atan": lambda r, s: torch.atan,
    "neg": lambda r, s: lambda x: -x, "negative": lambda r, s: torch.negative, "positive": lambda r, s: lambda x: +x,
    "clone": lambda r, s: lambda x: x.clone(), "detach": lambda r, s: lambda x: x.detach(),
    "data": lambda r, s: lambda x: x.data, "contiguous": lambda r, s: lambda x: x.contiguous(),
    "identity": lambda r, s: nn.Identity(), "dropout": lambda r, s: lambda x: F.dropout(x, 0.5, False),
    "dropout3d": lambda r, s: nn.Identity(), "flatten": lambda r, s: nn.Flatten(),
    "view": lambda r, s: lambda x: x.view(x.size(0), -1), "view_as": lambda r, s: lambda x: x.view_as(x),
    "reshape": lambda r, s: lambda x: x.reshape(len(x), -1), "reshape_as": lambda r, s: lambda x: x.reshape_as(x),
    "squeeze": lambda r, s: lambda x: x[:, None].squeeze(1), "unsqueeze": lambda r, s: lambda x: x.unsqueeze(1)[:, 0],
    "mean": lambda r, s: (lambda a: lambda x: x.mean(a, keepdim=True))(_axis(r, s)),
    "sum": lambda r, s: (lambda a: lambda x: x.sum(a, keepdim=True) / 3)(_axis(r, s)),
    "amax": lambda r, s: (lambda a: lambda x: x.amax(a, keepdim=True))(_axis(r, s)),
    "amin": lambda r, s: (lambda a: lambda x: x.amin(a, keepdim=True))(_axis(r, s)),
    "max": lambda r, s: (lambda a: lambda x: x.max(a, keepdim=True).values)(_axis(r, s)),
    "min": lambda r, s: (lambda a: lambda x: x.min(a, keepdim=True)[0])(_axis(r, s)),
    "flip": lambda r, s: (lambda a: lambda x: x.flip(a))(_axis(r, s)),
    "flipud": lambda r, s: lambda x: torch.flipud(x.transpose(0, 1)).transpose(0, 1),
    "roll": lambda r, s: (lambda a: lambda x: torch.roll(x, 1, a))(_axis(r, s)),
    "chunk": lambda r, s: (lambda a: lambda x: x.chunk(2, a)[0])(_axis(r, s)),
    "split": lambda r, s: (lambda a: lambda x: x.split(1, a)[-1])(_axis(r, s)),
    "split_with_sizes": lambda r, s: lambda x: x.split_with_sizes([1, x.shape[1] - 1], 1)[0],
    "tensor_split": lambda r, s: lambda x: x.tensor_split(2, 1)[0],
    "unbind": lambda r, s: (lambda x: torch.stack(x.unbind(1)[::-1], 1)),
    "narrow": lambda r, s: lambda x: x.narrow(1, 0, 1), "select": lambda r, s: lambda x: x.select(1, 0)[:, None],
    "getitem": lambda r, s: lambda x: x[:, ::2], "expand": lambda r, s: lambda x: x[:, :1].expand(*x.shape),
    "expand_as": lambda r, s: lambda x: x[:, :1].expand_as(x),
    "broadcast_to": lambda r, s: lambda x: torch.broadcast_to(x[:, :1], x.shape),
    "repeat": lambda r, s: lambda x: x.repeat(1, 2, *[1] * (x.ndim - 2)),
    "tile": lambda r, s: lambda x: torch.tile(x, (2,)) if x.shape[-1] < 9 else x,
    "repeat_interleave": lambda r, s: lambda x: x.repeat_interleave(2, 1),
    "permute": lambda r, s: lambda x: x.permute(0, *range(x.ndim - 1, 0, -1)),
    "transpose": lambda r, s: lambda x: x.transpose(1, -1), "swapdims": lambda r, s: lambda x: x.swapdims(1, -1),
    "moveaxis": lambda r, s: lambda x: x.moveaxis(1, -1),
    "vstack": lambda r, s: lambda x: torch.vstack([x])[:], "dstack": lambda r, s: lambda x: x * 1.0,
    "zeros_like": lambda r, s: lambda x: torch.cat([x, torch.zeros_like(x)], 1),
    "ones_like": lambda r, s: lambda x: x - torch.ones_like(x),
    "full_like": lambda r, s: lambda x: x + torch.full_like(x, 2),
    "new_zeros": lambda r, s: lambda x: x + x.new_zeros(x.shape), "new_ones": lambda r, s: lambda x: x - x.new_ones(1),
    "new_full": lambda r, s: lambda x: x * x.new_full(x.shape[1:], 0.5),
    "written": lambda r, s: _writes,
    "addcmul": lambda r, s: lambda x: torch.addcmul(x, x.sigmoid(), x, value=0.1),
    "addcdiv": lambda r, s: lambda x: torch.addcdiv(x, x, x.square() + 1),
    "lerp": lambda r, s: lambda x: torch.lerp(-x, x, 0.25),
}  # fmt: skip
TWO = {  # of two values of one shape
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "subtract": torch.subtract, "rsub": torch.rsub,
    "mul": lambda x, y: x * y, "multiply": torch.multiply, "div": lambda x, y: x / (y.abs() + 1),
    "divide": lambda x, y: torch.divide(x, 3 + y.square()), "true_divide": lambda x, y: torch.true_divide(x, 2) + y,
    "cat": lambda x, y: torch.cat([x, y], 1), "concat": lambda x, y: torch.concat([x, y], 1),
    "concatenate": lambda x, y: torch.concatenate((x, y), dim=1),
    "stack": lambda x, y: torch.stack([x, y], 1).flatten(1, 2), "maximum": torch.maximum, "minimum": torch.minimum,
}  # fmt: skip


def nn_bilinear(features):
    """x W x as a function of both."""
    return Constant(lambda x, w: F.bilinear(x, x, w) / features, 3, features, features)


def _writes(x):
    y = x.clone()
    y[:, :1] = x[:, -1:]
    y[:, -1:] += 0.25
    return y


class Network(nn.Module):
    """The steps, one after another; the last value is flattened and read out."""

    def __init__(self, steps, classes=4):
        super().__init__()
        self.steps = steps
        self.modules_of_steps = nn.ModuleList([s.function for s in steps if isinstance(s.function, nn.Module)])
        last = steps[-1].shape
        self.out = nn.Linear(int(torch.tensor(last).prod()), classes)

    def forward(self, x):
        values = [x]
        for step in self.steps:
            values.append(step.function(*(values[i] for i in step.inputs)))
        return self.out(values[-1].flatten(1))

    def __repr__(self):
        return " -> ".join(f"{step.name}{list(step.inputs)}" for step in self.steps)


def table(shape):
    """{operation: its maker} for a value of this shape."""
    return ANY | {3: IMAGE, 2: TOKENS, 1: FEATURES}.get(len(shape), {})


def drawn_names():
    """The names of all operations that random networks may have."""
    tables = (IMAGE, TOKENS, FEATURES, ANY, TWO)
    return {name for names in tables for name in names}


def draw(random, length=8, name=None):
    """A random network on images (4, 6, 6), tokens (4, 6) or features (12,), with the operation `name` if given."""
    shape = next((s for s, names in (((4, 6), TOKENS), ((12,), FEATURES)) if name in names), (4, 6, 6))
    shapes, steps = [shape], []
    first = {3: nn.Conv2d(4, 4, 3, padding=1), 2: nn.Conv1d(4, 4, 3, padding=1), 1: nn.Linear(12, 12)}[len(shape)]
    _add(steps, shapes, "first", first, (0,))
    _add(steps, shapes, "relu", nn.ReLU(), (1,))
    if name is not None:  # it reads values of both signs, and neurons read it
        second = {3: nn.Conv2d(4, 4, 1), 2: nn.Conv1d(4, 4, 1), 1: nn.Linear(12, 12)}[len(shape)]
        _add(steps, shapes, "second", second, (2,))
        _add(steps, shapes, name, *((TWO[name], (3, 2)) if name in TWO else (table(shape)[name](random, shape), (3,))))
        _add(steps, shapes, "both signs", lambda x: torch.cat([x, -x], 1), (len(steps),))
        _add(steps, shapes, "relu", nn.ReLU(), (len(steps),))
    while len(steps) < length:
        _step(random, steps, shapes)
        if not answers(Network(steps).double().eval(), shape):
            steps.pop()
            shapes.pop()
    return Network(steps).double().eval(), shape


def answers(network, shape):
    """Whether a network runs: strides that `_add` did not see may forbid a view."""
    try:
        with torch.no_grad():
            return all(network(torch.rand(n, *shape, dtype=torch.float64)).isfinite().all() for n in (1, 2, 3))
    except RuntimeError:
        return False


def _step(random, steps, shapes):
    last = len(shapes) - 1
    if len(steps) % 3 == 0:
        return _add(steps, shapes, "relu", nn.ReLU(), (last,))
    same = [i for i, shape in enumerate(shapes[1:-1], 1) if shape == shapes[-1]]
    if same and random.random() < 0.3:
        name = str(random.choice(list(TWO)))
        return _add(steps, shapes, name, TWO[name], (last, int(random.choice(same))))
    choices = table(shapes[-1])
    name = str(random.choice(list(choices)))
    made = choices[name](random, shapes[-1])
    return _add(steps, shapes, name, made, (last,)) if made is not None else None


def _add(steps, shapes, name, function, inputs):
    """Append a step if it fits: its output is finite, not empty and not large."""
    module = function.double().eval() if isinstance(function, nn.Module) else function
    try:
        with torch.no_grad():
            out = module(*(torch.rand(2, *shapes[i], dtype=torch.float64) for i in inputs))
    except (RuntimeError, IndexError, ValueError):
        return
    if len(out) == 2 and 0 < out[0].numel() <= 600 and out.ndim > 1 and out.isfinite().all():
        steps.append(Step(name, module, inputs, tuple(out.shape[1:])))
        shapes.append(tuple(out.shape[1:]))


def shorter(network):
    """Networks with one step less: without the last, or with one left out where the shapes allow it."""
    steps = network.steps
    for i in reversed(range(2, len(steps))):
        step, rest = steps[i], steps[i + 1 :]
        before = ([None] + [s.shape for s in steps])[step.inputs[0]]
        if not rest:
            yield Network(steps[:-1]).double().eval()
        elif before == step.shape:
            moved = [s._replace(inputs=tuple(_moved(j, i + 1, step.inputs[0]) for j in s.inputs)) for s in rest]
            yield Network([*steps[:i], *moved]).double().eval()


def _moved(index, gone, instead):
    return instead if index == gone else index - (index > gone)
