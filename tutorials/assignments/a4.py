"""A4, attention. What you may import is in README.md, under Rules.

Tokens x are [batch, N, F]; `weights` {"q", "k", "v", "projection": (W [F, F], b [F] or None)}, `thresholds` {"q", "k", "v",
"attention", "head": (heads, 1, 1) or (), "projection": ()}. A feed-forward layer has "fc1" and "fc2", thresholds (G,).
Compute in the format (dtype) of x.
"""

import numpy as np  # noqa: F401


def softmax(x):
    """Over the last axis; without overflow for arguments of any size."""


def layer_norm(x, gamma, beta, eps=1e-5):
    """Over the last axis, with the variance of all F features (not F - 1)."""


def product_run(a, b, operators="accumulated"):
    """Trains [T, ..., N, d] and [T, ..., d, M] -> [T, ..., N, M]: increments of A B, a_t B_<=t + A_<t b_t (7.3).

    "per-step": a_t b_t alone.
    """


def softmax_run(x, operators="accumulated"):
    """A train [T, ..., F]: the increments of the softmax of the sum so far (7.4), or the softmax of each step."""


def layer_norm_run(x, gamma, beta, eps=1e-5, operators="accumulated"):
    """The same for layer norm."""


def attention(x, weights, thresholds, levels, heads, bias=None):
    """Eq. 4-2 to 4-5. Q, K, V: linear, split into heads, QCFS; QCFS of softmax(Q K^T / sqrt(d) + bias); QCFS of that
    times V; heads joined, linear, QCFS. d is the width of a head; `bias` [heads, N, N] is a position bias.
    """


def attention_grad(x, weights, thresholds, levels, heads, upstream, bias=None):
    """(dx, {part: (dW, db)}, {part: dtheta}) by the straight-through estimator, in the shapes of the arguments."""


def attention_spiking(x, weights, thresholds, levels, heads, steps, schedule, operators="accumulated", bias=None):
    """The layer with neurons in place of QCFS; x enters as an image does. Returns an object with logits [steps, batch,
    N, F] (what has been sent up to each step), latency, spikes_per_neuron and nonzero_share, as in assignment 3.

    Streaming: a neuron sends theta per spike; operators that are not linear see each step alone ("per-step"), or send
    the increments of t f(sum so far / t).
    """


def feed_forward(x, weights, thresholds, levels):
    """Eq. 4-7: linear, QCFS, linear, QCFS."""


def feed_forward_grad(x, weights, thresholds, levels, upstream):
    """As `attention_grad`."""


def feed_forward_spiking(x, weights, thresholds, levels, steps, schedule):
    """As `attention_spiking`."""
