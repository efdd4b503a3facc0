"""Quantised multi-head attention and the feed-forward layer, as networks: forward, derivative, spiking form.

    Q = H-QCFS(x W_Q + b_Q), K and V likewise                                        Eq. 4-2
    A = H-QCFS(softmax(Q K^T / sqrt(d) + bias))                                      Eq. 4-3
    H = H-QCFS(A V), for each of the h heads                                         Eq. 4-4
    MultiHead = QCFS(Concat(H) W_O + b_O)                                            Eq. 4-5
    FFN = N-QCFS(N-QCFS(x W_1 + b_1) W_2 + b_2)                                      Eq. 4-7

Tokens are [batch, N, F], heads [batch, h, N, d] with F = h d. `weights` is {part: (weight [G, F], bias [G] or None)},
`thresholds` {part: theta}: (h, 1, 1) for heads, (G,) for neurons, () for a layer. They are lists of nodes, so
derivatives, conversion and simulation are those of any other network.
"""

import numpy as np

from .conversion import convert
from .network import answer, backward_to_image, build, forward
from .schedules import Schedule
from .simulation import Simulation, simulate


def _activation(name, source, threshold, levels, site, heads=None):
    """A QCFS with this threshold; without one, a relu that `quantise` replaces later."""
    node = {"name": name, "inputs": [source], "site": site, "heads": heads}
    if threshold is None:
        return node | {"op": "relu"}
    return node | {"op": "qcfs", "parameter": np.asarray(threshold), "levels": levels, "positivity": "raw"}


def _linear(name, source, part):
    weight, bias = part
    return {"name": name, "op": "linear", "inputs": [source], "weight": weight, "bias": bias}


def attention_nodes(weights, thresholds, levels, heads, bias=None, source="image", name="attention"):
    """The nodes of Eq. 4-2 to 4-5; with `thresholds` None, relus in place of QCFS.

    `bias` [h, N, N] is added to the scores (a relative position bias, a mask); None adds nothing.
    """
    theta = thresholds or dict.fromkeys(("q", "k", "v", "attention", "head", "projection"))
    nodes = []
    for part in ("q", "k", "v"):
        nodes += [
            _linear(f"{name}.{part}_linear", source, weights[part]),
            {"name": f"{name}.{part}_split", "op": "split_heads", "inputs": [f"{name}.{part}_linear"], "heads": heads},
            _activation(f"{name}.{part}", f"{name}.{part}_split", theta[part], levels, "head", heads),
        ]
    factor = (len(weights["q"][0]) // heads) ** -0.5
    nodes += [
        {"name": f"{name}.scores", "op": "product", "inputs": [f"{name}.q", f"{name}.k"], "transpose": True},
        {"name": f"{name}.scaled", "op": "scale", "inputs": [f"{name}.scores"], "factor": factor},
        {"name": f"{name}.biased", "op": "shift", "inputs": [f"{name}.scaled"], "bias": bias},
        {"name": f"{name}.softmax", "op": "softmax", "inputs": [f"{name}.biased"]},
        _activation(f"{name}.attention", f"{name}.softmax", theta["attention"], levels, "head", heads),
        {"name": f"{name}.mixed", "op": "product", "inputs": [f"{name}.attention", f"{name}.v"]},
        _activation(f"{name}.head", f"{name}.mixed", theta["head"], levels, "head", heads),
        {"name": f"{name}.concat", "op": "merge_heads", "inputs": [f"{name}.head"]},
        _linear(f"{name}.projection_linear", f"{name}.concat", weights["projection"]),
        _activation(f"{name}.projection", f"{name}.projection_linear", theta["projection"], levels, "layer"),
    ]
    return nodes


def feed_forward_nodes(weights, thresholds, levels, source="image", name="feed_forward"):
    """The nodes of Eq. 4-7; with `thresholds` None, relus in place of QCFS."""
    theta = thresholds or dict.fromkeys(("fc1", "fc2"))
    return [
        _linear(f"{name}.fc1_linear", source, weights["fc1"]),
        _activation(f"{name}.fc1", f"{name}.fc1_linear", theta["fc1"], levels, "neuron"),
        _linear(f"{name}.fc2_linear", f"{name}.fc1", weights["fc2"]),
        _activation(f"{name}.fc2", f"{name}.fc2_linear", theta["fc2"], levels, "neuron"),
    ]


def block_nodes(weights, thresholds, levels, heads, source="image", name="block"):
    """x + MultiHead(norm(x)), then x + FFN(norm(x)): one transformer block; its last node is called `name`.

    `weights` holds those of both halves, and "norm1" and "norm2": (gamma, beta).
    """
    norm = lambda part, source: {  # noqa: E731
        "name": f"{name}.{part}", "op": "layer_norm", "inputs": [source],
        "gamma": weights[part][0], "beta": weights[part][1],
    }  # fmt: skip
    return [
        norm("norm1", source),
        *attention_nodes(weights, thresholds, levels, heads, None, f"{name}.norm1", f"{name}.attention"),
        {"name": f"{name}.middle", "op": "add", "inputs": [source, f"{name}.attention.projection"]},
        norm("norm2", f"{name}.middle"),
        *feed_forward_nodes(weights, thresholds, levels, f"{name}.norm2", f"{name}.feed_forward"),
        {"name": name, "op": "add", "inputs": [f"{name}.middle", f"{name}.feed_forward.fc2"]},
    ]


def attention(
    x: np.ndarray,
    weights: dict[str, tuple],
    thresholds: dict[str, np.ndarray],
    levels: int,
    heads: int,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """MultiHead(x) of Eq. 4-5: tokens x [batch, N, F] -> [batch, N, F].

    InputError if F is not divisible by the number of heads.
    """
    return answer(build(attention_nodes(weights, thresholds, levels, heads, bias)), x)


def attention_grad(
    x: np.ndarray,
    weights: dict[str, tuple],
    thresholds: dict[str, np.ndarray],
    levels: int,
    heads: int,
    upstream: np.ndarray,
    bias: np.ndarray | None = None,
) -> tuple[np.ndarray, dict, dict]:
    """(dx, {part: (dW, db)}, {part: dtheta}) with floor' = 1; keys and shapes are those of the arguments."""
    return _grad(attention_nodes(weights, thresholds, levels, heads, bias), x, weights, thresholds, upstream)


def attention_spiking(
    x: np.ndarray,
    weights: dict[str, tuple],
    thresholds: dict[str, np.ndarray],
    levels: int,
    heads: int,
    steps: int,
    schedule: str | Schedule,
    operators: str = "accumulated",
    bias: np.ndarray | None = None,
) -> Simulation:
    """The `Simulation` of MultiHead on tokens x, presented in every step; see `convert` and `simulate`.

    Its logits [steps, batch, N, F] are what the layer has sent. Accumulated, they equal `attention`: at T = L under
    integrate-then-fire, and once settled under signed (T2, T3). Per step, as published, they do not (N1).
    """
    nodes = attention_nodes(weights, thresholds, levels, heads, bias)
    return simulate(convert(nodes, schedule, operators), x, steps)


def feed_forward(
    x: np.ndarray, weights: dict[str, tuple], thresholds: dict[str, np.ndarray], levels: int
) -> np.ndarray:
    """FFN(x) of Eq. 4-7 for tokens x [batch, N, F] -> [batch, N, F]."""
    return answer(build(feed_forward_nodes(weights, thresholds, levels)), x)


def feed_forward_grad(
    x: np.ndarray, weights: dict[str, tuple], thresholds: dict[str, np.ndarray], levels: int, upstream: np.ndarray
) -> tuple[np.ndarray, dict, dict]:
    """(dx, {part: (dW, db)}, {part: dtheta}) with floor' = 1."""
    return _grad(feed_forward_nodes(weights, thresholds, levels), x, weights, thresholds, upstream)


def feed_forward_spiking(
    x: np.ndarray,
    weights: dict[str, tuple],
    thresholds: dict[str, np.ndarray],
    levels: int,
    steps: int,
    schedule: str | Schedule,
) -> Simulation:
    """The `Simulation` of FFN on tokens x; its operators are linear, so there is nothing to accumulate."""
    return simulate(convert(feed_forward_nodes(weights, thresholds, levels), schedule), x, steps)


def _grad(nodes, x, weights, thresholds, upstream):
    network, name = build(nodes), nodes[0]["name"].split(".")[0]
    by_x, gradients = backward_to_image(network, forward(network, x), upstream)
    by_weight = {
        part: tuple(gradients.get((f"{name}.{part}_linear", kind)) for kind in ("weight", "bias")) for part in weights
    }
    return by_x, by_weight, {p: gradients[f"{name}.{p}", "parameter"] for p in thresholds}
