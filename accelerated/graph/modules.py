"""Modules of transformers in which every activation can be quantised (Eq. 4-2 to 4-7).

A `Site` (a ReLU) marks the place of a QCFS; leading axes may be batch, or batch and windows.
"""

import contextlib

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from ..activation import Site
from ..checks import InputError, finite

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def finite_state(network):
    """InputError names the first weight or running statistic that is not finite; masks and bounds may be infinite."""
    weights = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    for name, value in network.state_dict().items():
        if is_lazy(value) or not isinstance(value, torch.Tensor):  # without values yet, or a state of another kind
            continue
        if name in weights or name.rpartition(".")[2].startswith("running_"):
            finite(value, name)
        elif value.isnan().any():
            raise InputError(f"{name} holds numbers that are not a number (NaN)")


def is_altered(module):
    """Whether something attached to a module may change what its type does: hooks, a forward, computed weights."""
    own = {"forward", "_call_impl"} & set(vars(module))
    return is_parametrized(module) or bool(own) or any(getattr(module, hooks) for hooks in HOOKS)


class SpikeMask(nn.Module):
    """MST's random spike masking: each activation or spike is dropped with probability `ratio`, in inference too."""

    def __init__(self, ratio):
        super().__init__()
        self.ratio = ratio

    def forward(self, x):
        return x * (torch.rand_like(x) >= self.ratio)


def random_draws(network):
    """A context manager in which every forward pass draws the same random masks."""
    if not any(isinstance(module, SpikeMask) for module in network.modules()):
        return contextlib.nullcontext

    @contextlib.contextmanager
    def same():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            yield

    return same


class Whole(nn.Module):
    """real / unit, rounded to whole multiples of `grid` up to `most` times; its derivative is that of no rounding.

    A parametrisation of weights and biases: they stay real, and are rounded whenever they are read.
    """

    most: torch.Tensor

    def __init__(self, unit, most, grid=None):
        super().__init__()
        self.register_buffer("most", torch.as_tensor(float(most)).to(unit))
        self.register_buffer("unit", unit)  # of what is rounded
        self.register_buffer("grid", torch.ones_like(unit[:1]) if grid is None else grid)

    def forward(self, real):
        most = self.most.clamp(max=torch.finfo(real.dtype).max)
        exact = (real / self.unit).clamp(-most, most)
        return (exact.detach().round() + (exact - exact.detach())) * self.grid  # the second term is 0


def add_to_bias(layer, shift):
    """Add to a layer's bias; returns what was added, which is whole if the bias is."""
    if is_parametrized(layer, "bias"):
        shift, rounded = shift.round(), layer.parametrizations.bias
        rounded.original.add_(shift * rounded[0].unit)
        return shift
    layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias + shift)
    return shift


class FeatureBatchNorm(nn.Module):
    """Batch norm over the last axis of tokens [..., F]: in place of layer norm in MST."""

    def __init__(self, features):
        super().__init__()
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x):
        return self.norm(x.reshape(-1, x.shape[-1])).reshape(x.shape)


class Attention(nn.Module):
    """Multi-head attention on tokens [..., N, F] with sites on Q, K, V, the softmax, the heads and the projection.

    style "mst": on the scores instead of the softmax, as in the Masked Spiking Transformer. `bias` (a module
    without arguments, or None) is added to the scores.
    """

    def __init__(self, qkv, proj, heads, style="hn", mask=0.0, bias=None, q_norm=None, k_norm=None):
        super().__init__()
        if qkv.out_features % (3 * heads):
            raise InputError(f"a width of {qkv.out_features // 3} is not divisible by {heads} heads")
        self.qkv, self.proj, self.heads, self.style, self.bias = qkv, proj, heads, style, bias
        self.scale = (qkv.out_features // (3 * heads)) ** -0.5
        self.q_norm, self.k_norm = q_norm or nn.Identity(), k_norm or nn.Identity()
        self.mask = SpikeMask(mask) if mask else nn.Identity()
        self.q, self.k, self.v = (Site("head", heads) for _ in "qkv")
        self.attention, self.head, self.projection = Site("head", heads), Site("head", heads), Site("layer")

    def forward(self, x, attn_mask=None, is_causal=False):
        if attn_mask is not None or is_causal:
            raise InputError("attention with a mask given from outside is not supported")
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in (q, k, v))  # [..., h, N, d]
        q, k, v = self.q(self.q_norm(q)), self.k(self.k_norm(k)), self.v(v)
        scores = (self.mask(q) @ self.mask(k).transpose(-2, -1)) * self.scale
        if self.style == "mst":
            scores = self.mask(self.attention(scores))
        if self.bias is not None:
            scores = scores + self.bias()
        attention = scores.softmax(dim=-1)
        if self.style == "hn":
            attention = self.mask(self.attention(attention))
        heads = self.head(attention @ v).transpose(-3, -2).flatten(-2)  # [..., N, F]
        return self.projection(self.proj(heads))


class FeedForward(nn.Module):
    """Two linear layers on tokens [..., F] with a site after each (Eq. 4-7)."""

    def __init__(self, fc1, fc2, dropout=0.0, norm=None):
        super().__init__()
        self.fc1, self.relu1, self.norm = fc1, Site("neuron"), norm or nn.Identity()
        self.fc2, self.relu2, self.drop = fc2, Site("neuron"), nn.Dropout(dropout)

    def forward(self, x):
        return self.drop(self.relu2(self.fc2(self.norm(self.drop(self.relu1(self.fc1(x)))))))


class RelativeBias(nn.Module):
    """Swin's relative position bias of a window, and the mask of a shifted one: [windows or 1, heads, N, N]."""

    def __init__(self, table, index, mask):
        super().__init__()
        self.table = table  # [(2 w - 1)^2, heads]
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("mask", None if mask is None else mask[:, None], persistent=False)

    def forward(self):
        bias = self.table[self.index].permute(2, 0, 1).unsqueeze(0)
        return bias if self.mask is None else bias + self.mask


class WindowBlock(nn.Module):
    """Swin's block on [batch, H, W, F]: attention within (shifted) windows, then the feed-forward layer.

    Windows have their own axis, [batch, windows, N, F], so the first axis stays the batch. With a `site`, as in the
    Masked Spiking Transformer, the second residual begins behind its norm: x <- norm2(x), x <- x + mlp(site(x)).
    """

    def __init__(self, norm1, attention, drop1, norm2, feed_forward, drop2, size, window, shift, site=None):
        super().__init__()
        self.site = site
        self.norm1, self.attn, self.drop_path1 = norm1, attention, drop1
        self.norm2, self.mlp, self.drop_path2 = norm2, feed_forward, drop2
        self.size, self.window, self.shift = size, window, shift

    def forward(self, x):
        (height, width), (wh, ww), (sh, sw) = self.size, self.window, self.shift
        y = self.norm1(x)
        if sh or sw:
            y = torch.roll(y, (-sh, -sw), (1, 2))
        if -width % ww or -height % wh:
            y = nn.functional.pad(y, (0, 0, 0, -width % ww, 0, -height % wh))
        rows, columns = -(-height // wh), -(-width // ww)
        y = y.unflatten(2, (columns, ww)).unflatten(1, (rows, wh)).transpose(2, 3)  # [batch, rows, columns, wh, ww, F]
        y = self.attn(y.flatten(3, 4).flatten(1, 2))
        y = y.unflatten(2, (wh, ww)).unflatten(1, (rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        y = y[:, :height, :width]
        if sh or sw:
            y = torch.roll(y, (sh, sw), (1, 2))
        x = x + self.drop_path1(y)
        normed = self.norm2(x)
        if self.site is None:
            return x + self.drop_path2(self.mlp(normed))
        return normed + self.drop_path2(self.mlp(self.site(normed)))
