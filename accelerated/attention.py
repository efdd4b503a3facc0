"""Quantised multi-head attention and the feed-forward layer as functions: `reference.attention` on torch modules."""

import torch
from torch import nn

from .activation import QCFS
from .checks import InputError, finite, tensor
from .conversion import convert
from .graph.modules import Attention, FeedForward
from .network import answer
from .schedules import Schedule
from .simulation import Simulation, simulate

ATTENTION = {part: part for part in ("q", "k", "v", "attention", "head", "projection")}
FEED_FORWARD = {"fc1": "relu1", "fc2": "relu2"}


class _Constant(nn.Module):
    """A bias of the scores that does not depend on the images."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self):
        return self.value


def _linear(*parts):
    """One linear layer for several (weight, bias or None), their outputs concatenated."""
    weight = torch.cat([tensor(weight) for weight, _ in parts])
    layer = nn.Linear(weight.shape[1], len(weight), all(bias is not None for _, bias in parts))
    layer.weight = nn.Parameter(finite(weight, "weights"))
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.cat([tensor(bias, like=weight) for _, bias in parts]))
    return layer


def _with_thresholds(module, thresholds, levels, sites):
    for part, name in sites.items():
        theta = tensor(thresholds[part], like=next(module.parameters()))
        setattr(module, name, QCFS(theta.shape, levels, "raw", theta))
    return module.eval()


def attention_module(weights, thresholds, levels, heads, bias=None):
    """An `Attention` with these weights {part: (W, b)} and QCFS of these thresholds {part: theta}."""
    width = len(weights["q"][0])
    if width % heads:
        raise InputError(f"a width of {width} is not divisible by {heads} heads")
    added = None if bias is None else _Constant(tensor(bias, like=tensor(weights["q"][0])))
    qkv = _linear(*(weights[part] for part in ("q", "k", "v")))
    module = Attention(qkv, _linear(weights["projection"]), heads, bias=added)
    return _with_thresholds(module, thresholds, levels, ATTENTION)


def feed_forward_module(weights, thresholds, levels):
    """A `FeedForward` with these weights {part: (W, b)} and QCFS of these thresholds {part: theta}."""
    module = FeedForward(_linear(weights["fc1"]), _linear(weights["fc2"]))
    return _with_thresholds(module, thresholds, levels, FEED_FORWARD)


def attention(
    x: torch.Tensor,
    weights: dict[str, tuple],
    thresholds: dict[str, torch.Tensor],
    levels: int,
    heads: int,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """MultiHead(x) of Eq. 4-5: tokens x [batch, N, F] -> [batch, N, F].

    InputError if F is not divisible by the number of heads.
    """
    return answer(attention_module(weights, thresholds, levels, heads, bias), x)


def attention_grad(
    x: torch.Tensor,
    weights: dict[str, tuple],
    thresholds: dict[str, torch.Tensor],
    levels: int,
    heads: int,
    upstream: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict, dict]:
    """(dx, {part: (dW, db)}, {part: dtheta}) with floor' = 1; keys and shapes are those of the arguments."""
    module = attention_module(weights, thresholds, levels, heads, bias)
    by_x = _backward(module, x, upstream)
    pieces = {
        part: tuple(None if p is None else p.grad.chunk(3)[i] for p in (module.qkv.weight, module.qkv.bias))
        for i, part in enumerate("qkv")
    }
    by_weight = {part: pieces[part] if part in pieces else _grads(module.proj) for part in weights}
    return by_x, by_weight, {part: getattr(module, ATTENTION[part]).parameter.grad for part in thresholds}


def attention_spiking(
    x: torch.Tensor,
    weights: dict[str, tuple],
    thresholds: dict[str, torch.Tensor],
    levels: int,
    heads: int,
    steps: int,
    schedule: str | Schedule,
    operators: str = "accumulated",
    bias: torch.Tensor | None = None,
) -> Simulation:
    """The `Simulation` of MultiHead on tokens x, presented in every step; see `convert` and `simulate`.

    Its logits [steps, batch, N, F] are what the layer has sent. Accumulated, they equal `attention`: at T = L under
    integrate-then-fire, and once settled under signed (T2, T3). Per step, as published, they do not (N1).
    """
    module = attention_module(weights, thresholds, levels, heads, bias)
    return simulate(convert(module, schedule, operators), x, steps)


def feed_forward(
    x: torch.Tensor, weights: dict[str, tuple], thresholds: dict[str, torch.Tensor], levels: int
) -> torch.Tensor:
    """FFN(x) of Eq. 4-7 for tokens x [batch, N, F] -> [batch, N, F]."""
    return answer(feed_forward_module(weights, thresholds, levels), x)


def feed_forward_grad(
    x: torch.Tensor, weights: dict[str, tuple], thresholds: dict[str, torch.Tensor], levels: int, upstream: torch.Tensor
) -> tuple[torch.Tensor, dict, dict]:
    """(dx, {part: (dW, db)}, {part: dtheta}) with floor' = 1."""
    module = feed_forward_module(weights, thresholds, levels)
    by_x = _backward(module, x, upstream)
    by_weight = {part: _grads(getattr(module, part)) for part in weights}
    return by_x, by_weight, {part: getattr(module, FEED_FORWARD[part]).parameter.grad for part in thresholds}


def feed_forward_spiking(
    x: torch.Tensor,
    weights: dict[str, tuple],
    thresholds: dict[str, torch.Tensor],
    levels: int,
    steps: int,
    schedule: str | Schedule,
) -> Simulation:
    """The `Simulation` of FFN on tokens x; its operators are linear, so there is nothing to accumulate."""
    return simulate(convert(feed_forward_module(weights, thresholds, levels), schedule), x, steps)


def _grads(layer):
    return layer.weight.grad, None if layer.bias is None else layer.bias.grad


def _backward(module, x, upstream):
    x = tensor(x, like=next(module.parameters())).clone().requires_grad_()
    module(x).backward(tensor(upstream, like=x))
    return x.grad
