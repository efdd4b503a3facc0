"""Training by explicit updates, and the two-stage algorithm (Algorithm 1, corrected)."""

import numpy as np

from .checks import positive, whole
from .network import backward, forward
from .operators import TRAINED
from .quantisation import expand, quantise


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """(mean of -log softmax(logits)[label], its gradient (softmax - onehot) / batch); logits [batch, classes]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    gradient = np.exp(log_p)
    gradient[rows, labels] -= 1
    return -log_p[rows, labels].mean(), gradient / len(labels)


def with_statistics(network, values, momentum=0.1):
    """The network with running batch-norm statistics updated by this batch (unbiased variance, as in torch)."""
    updated = []
    for node in network:
        if node["op"] == "batch_norm":
            x = values[node["inputs"][0]]
            axes, count = (0, *range(2, x.ndim)), x.size // x.shape[1]
            mean, var = x.mean(axis=axes), x.var(axis=axes) * count / max(count - 1, 1)
            moved = {"mean": mean, "var": var}
            node = node | {key: (1 - momentum) * node[key] + momentum * moved[key] for key in moved}
        updated.append(node)
    return updated


def sgd(
    network: list[dict], gradients: dict, velocity: dict, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4
) -> tuple[list[dict], dict]:
    """v <- momentum v + g + decay w; w <- w - lr v. Returns (network, velocity).

    Weight decay acts on weights only, not on thresholds, biases and batch norm (docs/conventions.md).
    """
    updated, moved = [], {}
    for node in network:
        node = dict(node)
        for part in TRAINED:
            key = (node["name"], part)
            if key in gradients:
                g = gradients[key] + (weight_decay * node[part] if part == "weight" else 0)
                moved[key] = momentum * velocity.get(key, 0) + g
                node[part] = (node[part] - lr * moved[key]).astype(node[part].dtype)
        updated.append(node)
    return updated, moved


def train(
    network: list[dict], x: np.ndarray, labels: np.ndarray, epochs: int, lr: float, batch: int = 32, seed: int = 0
) -> tuple[list[dict], list[float]]:
    """Mini-batch SGD with a cosine schedule; returns (network, mean loss of each epoch)."""
    random, velocity, losses = np.random.default_rng(seed), {}, []
    batch, lr = min(whole(batch, "batch"), len(x)), positive(lr, "lr")
    for epoch in range(epochs):
        order, total = random.permutation(len(x)), 0.0
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            values = forward(network, x[rows], training=True)
            loss, upstream = cross_entropy(values[network[-1]["name"]], labels[rows])
            rate = 0.5 * lr * (1 + np.cos(np.pi * (epoch + start / len(x)) / epochs))
            gradients = backward(network, values, upstream)
            network, velocity = sgd(with_statistics(network, values), gradients, velocity, rate)
            total += loss * batch / len(x)
        losses.append(total)
    return network, losses


def two_stage(
    network: list[dict],
    x: np.ndarray,
    labels: np.ndarray,
    epochs: tuple[int, int],
    lr: float,
    levels: int = 8,
    initial_threshold: float | str = 4.0,
    stage1: str = "s-qcfs",
    stage2: str = "cs-qcfs",
) -> tuple[list[dict], list[float]]:
    """Algorithm 1: quantise with layer thresholds and train; expand and fine-tune at a tenth of the learning rate.

    `epochs` is (stage 1, stage 2). Returns (network, losses of both stages).
    """
    network = quantise(network, stage1, levels, initial_threshold, sample=x[:256])
    network, first = train(network, x, labels, epochs[0], lr)
    network = expand(network, stage2, sample=x[:1])
    network, second = train(network, x, labels, epochs[1], lr / 10)
    return network, first + second
