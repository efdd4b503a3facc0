"""Layers on tokens and their forms over time: `reference.tokens` in torch."""

from itertools import pairwise

import torch
import torch.nn.functional as F

from .checks import InputError, one_of, tensor

FORMS = ("accumulated", "per-step")


def layer_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """y = gamma (x - mean) / sqrt(var + eps) + beta over the last axis: x [..., F], gamma, beta [F] -> [..., F].

    layer_norm(0) = beta, not 0: a nonlinear operator.
    """
    return F.layer_norm(x, x.shape[-1:], gamma, beta, eps)


def softmax(x: torch.Tensor) -> torch.Tensor:
    """e^x / sum e^x over the last axis. softmax(0) = 1/n, not 0."""
    return F.softmax(x, dim=-1)


def accumulated(function, *trains):
    """y_1 = f(X_1), y_t = f(X_t) - f(X_(t-1)), X_t the sum of the first t steps: the sum of all y is f of the sum."""
    values = [function(*totals) for totals in zip(*(train.cumsum(0) for train in trains), strict=True)]
    return torch.stack([values[0], *(after - before for before, after in pairwise(values))])


def per_step(function, *trains):
    """y_t = f(x_t): each step's spikes alone, as published (Eq. 2-28 to 2-30). The mean is not f of the mean (N1)."""
    return torch.stack([function(*step) for step in zip(*trains, strict=True)])


def over_time(function, operators, *trains):
    """`accumulated` or `per_step` by name."""
    form = {"accumulated": accumulated, "per-step": per_step}[one_of(operators, FORMS, "operators")]
    return form(function, *map(tensor, trains))


def product_step(product, a, b, a_before, b_before):
    """The increment of a product of totals: a_t B_<=t + A_<t b_t (7.3)."""
    return product(a, b_before + b) + product(a_before, b)


def product_run(a: torch.Tensor, b: torch.Tensor, operators: str = "accumulated") -> torch.Tensor:
    """The product of two spike trains, a [T, ..., N, d] and b [T, ..., d, M] -> [T, ..., N, M].

    accumulated: the increments a_t B_<=t + A_<t b_t, whose sum is the product of the sums. per-step: a_t b_t.
    """
    one_of(operators, FORMS, "operators")
    if len(a) != len(b) or not len(a):
        raise InputError(f"product_run: trains of {len(a)} and {len(b)} steps")
    if a.shape[-1] != b.shape[-2] or a.shape[:-2] != b.shape[:-2]:
        raise InputError(f"product: shapes {tuple(a.shape[1:])} and {tuple(b.shape[1:])} do not fit")
    if operators == "per-step":
        return per_step(torch.matmul, a, b)
    befores = [train.cumsum(0) - train for train in (a, b)]
    return torch.stack([product_step(torch.matmul, *parts) for parts in zip(a, b, *befores, strict=True)])


def softmax_run(x: torch.Tensor, operators: str = "accumulated") -> torch.Tensor:
    """The softmax of a train x [T, ..., F] over time; since softmax(0) = 1/n is not 0, y_1 is all of f(X_1)."""
    return over_time(softmax, operators, x)


def layer_norm_run(
    x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, eps: float = 1e-5, operators: str = "accumulated"
) -> torch.Tensor:
    """The layer norm of a train x [T, ..., F] over time."""
    return over_time(lambda total: layer_norm(total, gamma, beta, eps), operators, x)
