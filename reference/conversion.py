"""From a quantised network to a spiking one: fold batch norm, replace each activation by a neuron.

Formulas: docs/derivations.md (10.1), and (4.2) for the depth.
"""

from typing import NamedTuple

import numpy as np

from .checks import InputError, finite, not_above_zero, one_of, positive
from .network import build
from .schedules import Schedule, schedule_of
from .sums import held
from .thresholds import threshold_of
from .tokens import FORMS

LINEAR = (  # operators that commute with sums over time, apart from the bias
    "linear", "conv2d", "avg_pool2d", "sum_pool2d", "add", "flatten", "tokens", "mean_tokens", "split_heads",
    "merge_heads", "shift", "scale", "divide",
)  # fmt: skip


class SpikingNetwork(NamedTuple):
    """A network whose activations are neurons: `nodes` as in network.py, op "spiking" with `threshold`, `levels`,
    `lowest` and `worths`, the levels that a spike is worth, step by step.

    `schedule` is a `Schedule` (schedules.py), `operators` what the input of nonlinear operators is (see `convert`).
    `depth[name]` counts the spiking layers on the longest path from the image up to and including that node. The rest
    comes from a calibration (calibration.py): {layer: (first membrane, which neurons may fire)}, its number of steps,
    its spikes {layer: [batch, ...]}, and its images.
    """

    nodes: list
    schedule: Schedule
    depth: dict
    operators: str = "accumulated"
    starts: dict = {}  # noqa: RUF012 (never written to)
    pre_steps: int = 0
    pre_spikes: dict = {}  # noqa: RUF012
    images: np.ndarray | None = None

    @property
    def layers(self) -> list[dict]:
        """The spiking nodes, in network order."""
        return [node for node in self.nodes if node["op"] == "spiking"]

    @property
    def latency_depth(self) -> int:
        """D: the number of spiking layers on the longest path (the linear read-out does not count)."""
        return max(self.depth[node["name"]] for node in self.layers)

    @property
    def phases(self) -> int:
        """The number of phases of T steps until the answer: D + 1 under integrate-then-fire, else 1."""
        return self.schedule.phases(self.latency_depth)

    @property
    def steps(self) -> int:
        """T, or the number of steps, at which every answer is the quantised network's; L while streaming."""
        levels, lowest = (pick(node[key] for node in self.layers) for pick, key in ((max, "levels"), (min, "lowest")))
        return self.schedule.exact_at(self.latency_depth, levels, lowest) or levels

    @property
    def coarse(self) -> int:
        """K: the steps at first in which some layer's spikes may be worth more than one level."""
        return self.schedule.coarse(self.latency_depth, max(node["levels"] for node in self.layers))


def fold_batch_norm(
    weight: np.ndarray,
    bias: np.ndarray | None,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    eps: float = 1e-5,
) -> tuple[np.ndarray, np.ndarray]:
    """(W', b') with W' = gamma W / sigma, b' = gamma (b - mean) / sigma + beta, sigma = sqrt(var + eps) (Eq. 2-27).

    The first axis of `weight` is the output channel; `bias` may be None. Equals layer and batch norm up to rounding.
    """
    scale = gamma / np.sqrt(positive(var + eps, "var + eps"))
    bias = np.zeros_like(mean) if bias is None else bias
    return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), (bias - mean) * scale + beta


def fold_batch_norms(network: list[dict]) -> list[dict]:
    """A copy of the network, each batch norm folded into the convolution or linear layer of its own before it.

    Any other batch norm stays, and is computed like any operator.
    """
    users = [name for node in network for name in node["inputs"]]
    folded, renamed = {}, {}
    for node in build(network):
        first = next(iter(node["inputs"]))
        node["inputs"] = [renamed.get(name, name) for name in node["inputs"]]
        source = folded.get(node["inputs"][0], {"op": "image"})
        own = source["op"] in ("linear", "conv2d") and users.count(first) == 1
        if node["op"] != "batch_norm" or not own:
            folded[node["name"]] = node
            continue
        statistics = [node[part] for part in ("gamma", "beta", "mean", "var", "eps")]
        with np.errstate(over="ignore"):  # `convert` reports a weight that became infinite
            source["weight"], source["bias"] = fold_batch_norm(source["weight"], source["bias"], *statistics)
        renamed[node["name"]] = source["name"]
    if network[-1]["name"] in renamed:  # the answer stays last, also after nodes that nothing reads
        answer = renamed[network[-1]["name"]]
        folded[answer] = folded.pop(answer)
    return list(folded.values())


def depths(nodes, counted):
    """{name: number of `counted` operators on the longest path from the image up to and including the node}."""
    depth = {"image": 0}
    for node in nodes:
        depth[node["name"]] = max(depth[name] for name in node["inputs"]) + (node["op"] == counted)
    return depth


def exact_levels(levels, format, name, what="levels"):
    """InputError unless every count up to L (or T) is exact in the format: at most 2^p for p significand bits."""
    limit = None if format.hasobject else 2 ** (np.finfo(format).nmant + 1)
    if limit is not None and levels > limit:
        raise InputError(f"{name}: {what} must be at most {limit} in {format}, got {levels}")


def bounded_levels(lowest, levels, name):
    """InputError unless -L <= lowest <= 0: a phase of L steps has room for L spikes."""
    if not_above_zero(lowest) < -levels:
        raise InputError(f"{name}: lowest must be at least {-levels}, the levels negated, got {lowest}")


def one_phase(schedule, levels):
    """InputError where a schedule waits and layers have different L: its phases have T = L steps. {name: L} -> None."""
    (first, steps), *others = levels.items()
    other = next((f"{name!r} L = {own}" for name, own in others if own != steps), "") if schedule.waits else ""
    if other:
        both = f"{first!r} has L = {steps}, {other}"
        raise InputError(f"{schedule.name!r} needs one L, for phases of L steps, but {both}: choose signed or halving")


def convert(network: list[dict], schedule: str | Schedule, operators: str = "accumulated") -> SpikingNetwork:
    """The spiking network of a quantised one under a schedule, by its name in `SCHEDULES` (Algorithm 1).

    Nonlinear operators (layer norm, softmax, products) act on the "accumulated" input so far or, as published and under
    streaming only, on each step's spikes alone ("per-step": Eq. 2-28 to 2-30).

    Folds batch norm, then checks: finite weights, positive thresholds V_th = theta (Softplus(lambda), or lambda where
    the network is raw), levels that the format represents exactly, one L if layers wait, no relu left.
    """
    schedule = schedule_of(schedule)
    one_of(operators, FORMS, "operators")
    if operators == "per-step" and not schedule.streams:
        raise InputError(f"operators 'per-step' need a schedule that streams; {schedule.name!r} carries totals")
    nodes = []
    for node in fold_batch_norms(network):
        if node["op"] == "relu":
            raise InputError(f"{node['name']} is still a relu: quantise the network before it is converted")
        if node["op"] == "qcfs":
            threshold = threshold_of(node["parameter"], node["positivity"])
            positive(threshold, f"the threshold of {node['name']!r}")
            exact_levels(node["levels"], threshold.dtype, node["name"])
            bounded_levels(node["lowest"], node["levels"], node["name"])
            kept = {key: node[key] for key in ("name", "inputs", "levels", "lowest")}
            node = kept | {"op": "spiking", "threshold": threshold}
        for part, value in node.items():
            if isinstance(value, np.ndarray):
                finite(value, f"{node['name']}.{part}")
        nodes.append(node)
    held(nodes, next((node["threshold"].dtype for node in nodes if node["op"] == "spiking"), np.dtype(float)))
    if not any(node["op"] == "spiking" for node in nodes):
        raise InputError("the network has no qcfs activation to convert: quantise it first")
    spiking = SpikingNetwork(nodes, schedule, depths(nodes, "spiking"), operators)
    schedule.known([node["name"] for node in spiking.layers])
    one_phase(schedule, {node["name"]: node["levels"] for node in spiking.layers})
    for node in spiking.layers:
        depth, deepest = spiking.depth[node["name"]], spiking.latency_depth
        node["worths"] = schedule.worths_of(node["name"], node["levels"], depth, deepest)
    return spiking
