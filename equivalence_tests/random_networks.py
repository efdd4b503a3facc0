"""Random networks as node lists, with thresholds from the maximum, so that no layer is dead."""

import numpy as np

import reference
from reference.attention import block_nodes


def _affine(random, shape, scale):
    return {"weight": random.normal(size=shape) * scale, "bias": random.normal(size=shape[0]) * 0.1}


def mlp(random, depth, width=16, inputs=8, classes=5, residual=False):
    """`depth` hidden layers of relu, optionally a residual sum into every other one, and a linear read-out."""
    nodes, before, size = [], "image", inputs
    for i in range(depth):
        parts = _affine(random, (width, size), np.sqrt(2 / size))
        nodes.append({"name": f"fc{i}", "op": "linear", "inputs": [before], **parts})
        last = f"fc{i}"
        if residual and i % 2 and i > 1:
            nodes.append({"name": f"sum{i}", "op": "add", "inputs": [last, f"act{i - 2}"]})
            last = f"sum{i}"
        nodes.append({"name": f"act{i}", "op": "relu", "inputs": [last]})
        before, size = f"act{i}", width
    parts = _affine(random, (classes, size), np.sqrt(1 / size))
    return [*nodes, {"name": "logits", "op": "linear", "inputs": [before], **parts}]


def _batch_norm(random, channels):
    return {
        "gamma": random.uniform(0.5, 1.5, channels),
        "beta": random.normal(size=channels) * 0.2,
        "mean": random.normal(size=channels) * 0.2,
        "var": random.uniform(0.5, 2, channels),
        "eps": float(random.choice([1e-5, 1e-2])),
    }


def cnn(random, depth, channels=4, image=6, classes=5, stride=1):
    """conv + batch norm + relu, a skip over every second block, one average pooling, a linear read-out.

    `stride` is that of the first convolution.
    """
    nodes, before, size = [], "image", 1
    pooled = depth // 2
    for i in range(depth):
        parts = _affine(random, (channels, size, 3, 3), np.sqrt(2 / (9 * size)))
        nodes.append({"name": f"conv{i}", "op": "conv2d", "inputs": [before], "padding": 1, **parts})
        nodes[-1] |= {"stride": stride} if i == 0 and stride > 1 else {}
        nodes.append({"name": f"bn{i}", "op": "batch_norm", "inputs": [f"conv{i}"], **_batch_norm(random, channels)})
        last = f"bn{i}"
        if i % 2 and i - 2 > pooled:
            nodes.append({"name": f"sum{i}", "op": "add", "inputs": [last, f"act{i - 2}"]})
            last = f"sum{i}"
        nodes.append({"name": f"act{i}", "op": "relu", "inputs": [last]})
        before, size = f"act{i}", channels
        if i == pooled:
            nodes.append({"name": "pool", "op": "avg_pool2d", "inputs": [before], "size": 2})
            before = "pool"
    nodes.append({"name": "flat", "op": "flatten", "inputs": [before]})
    side = ((image - 1) // stride + 1) // 2
    parts = _affine(random, (classes, channels * side * side), 0.2)
    return [*nodes, {"name": "logits", "op": "linear", "inputs": ["flat"], **parts}]


def attention_weights(random, width, biases=True):
    """{part: (weight, bias)} for `attention`: small queries and keys, so that softmax is neither flat nor a maximum."""
    square, each = (width, width), ("q", "k", "v", "projection")
    return {p: (random.normal(size=square) / np.sqrt(width), random.normal(size=width) * 0.2 * biases) for p in each}


def feed_forward_weights(random, width, hidden):
    """{part: (weight, bias)} for `feed_forward`."""
    first = random.normal(size=(hidden, width)) * np.sqrt(2 / width), random.normal(size=hidden) * 0.2
    return {
        "fc1": first,
        "fc2": (random.normal(size=(width, hidden)) / np.sqrt(hidden), random.normal(size=width) * 0.2),
    }


def transformer(random, depth, width=8, heads=2, image=6, patch=2, classes=5):
    """Patches, a position embedding, `depth` blocks of relu, layer norm, the mean over tokens, a linear read-out."""
    side, norm = image // patch, lambda: (random.uniform(0.5, 1.5, width), random.normal(size=width) * 0.2)
    nodes = [
        {"name": "patches", "op": "conv2d", "inputs": ["image"], "stride": patch,
         "weight": random.normal(size=(width, 1, patch, patch)), "bias": random.normal(size=width) * 0.1},
        {"name": "tokens", "op": "tokens", "inputs": ["patches"]},
        {"name": "block0", "op": "shift", "inputs": ["tokens"], "bias": random.normal(size=(side * side, width))},
    ]  # fmt: skip
    for i in range(depth):
        weights = attention_weights(random, width) | feed_forward_weights(random, width, 2 * width)
        weights |= {"norm1": norm(), "norm2": norm()}
        nodes += block_nodes(weights, None, None, heads, f"block{i}", f"block{i + 1}")
    gamma, beta = norm()
    nodes += [
        {"name": "norm", "op": "layer_norm", "inputs": [f"block{depth}"], "gamma": gamma, "beta": beta},
        {"name": "mean", "op": "mean_tokens", "inputs": ["norm"]},
        {"name": "logits", "op": "linear", "inputs": ["mean"], **_affine(random, (classes, width), 1.0)},
    ]
    return nodes


def images(random, kind, batch, inputs=8, image=6):
    """A batch that fits `mlp`, `cnn` or `transformer`."""
    return random.uniform(0, 1, (batch, inputs) if kind == "mlp" else (batch, 1, image, image))


def quantised(nodes, x, activation, levels):
    """The node list with qcfs for relu, thresholds from the maximum over x, batch norm folded; float64."""
    return reference.fold_batch_norms(reference.quantise(nodes, activation, levels, "max", sample=x))


def integer_cnn(random, depth, levels, channels=3, image=4, classes=3):
    """Everything exact in float64: small integer weights, theta = L / 2^k, images in sixteenths, a skip, a pooling.

    Ties are common here (pooling and identity paths with commensurate thresholds), unlike behind Gaussian weights.
    """
    nodes, before, size = [], "image", 1
    for i in range(depth):
        parts = {"weight": random.integers(-1, 2, (channels, size, 3, 3)).astype(float),
                 "bias": random.integers(-2, 3, channels) / 4}  # fmt: skip
        nodes.append({"name": f"conv{i}", "op": "conv2d", "inputs": [before], "padding": 1, **parts})
        last = f"conv{i}"
        if i >= 2:
            nodes.append({"name": f"sum{i}", "op": "add", "inputs": [last, f"act{i - 2}"]})
            last = f"sum{i}"
        theta = np.full((channels, 1, 1), float(random.choice([2, 4])))
        nodes.append({"name": f"act{i}", "op": "qcfs", "inputs": [last], "parameter": theta, "levels": levels,
                      "positivity": "raw"})  # fmt: skip
        before, size = f"act{i}", channels
    side = image // 2
    nodes += [
        {"name": "pool", "op": "avg_pool2d", "inputs": [before], "size": 2},
        {"name": "flat", "op": "flatten", "inputs": ["pool"]},
        {"name": "logits", "op": "linear", "inputs": ["flat"],
         "weight": random.integers(-2, 3, (classes, channels * side * side)).astype(float),
         "bias": random.integers(-2, 3, classes) / 2},
    ]  # fmt: skip
    return nodes


def attaining_bound(depth, levels):
    """A chain that settles after exactly 1 + D (L - 1) steps: each layer jumps from 0 to L when the last one is full.

    X = 2 L (a - (1 - 1 / 2 L)) is -1 at a = (L - 1) / L and 1 at a = 1; theta = 1.
    """
    nodes, before = [], "image"
    for i in range(depth):
        weight, bias = (1.0, 0.0) if i == 0 else (2.0 * levels, 1.0 - 2 * levels)
        nodes.append({"name": f"fc{i}", "op": "linear", "inputs": [before], "weight": np.array([[weight]]),
                      "bias": np.array([bias])})  # fmt: skip
        nodes.append({"name": f"act{i}", "op": "qcfs", "inputs": [f"fc{i}"], "parameter": np.array(1.0),
                      "levels": levels, "positivity": "raw"})  # fmt: skip
        before = f"act{i}"
    return [*nodes, {"name": "logits", "op": "linear", "inputs": [before], "weight": np.array([[1.0], [-1.0]]),
                     "bias": np.array([0.0, 0.5])}]  # fmt: skip


def graph(random, exact, width=4, levels=None):
    """A random acyclic network: image skips, branches of unequal depth, unread layers, and mixed L if none is given.

    `exact`: dyadic weights and linear operators only; otherwise Gaussian weights, with layer norm and softmax between.
    Thresholds of 1/2, 1 or 2 keep the levels alive.
    """
    nodes, sources = [], ["image"]
    pick = lambda: sources[random.integers(len(sources))]  # noqa: E731

    def node(op, inputs, **parts):
        nodes.append({"name": f"{op}{len(nodes)}", "op": op, "inputs": inputs, **parts})
        return nodes[-1]["name"]

    def affine(rows):
        shape = (rows, width)
        weight = random.integers(-2, 3, shape) / 2 if exact else random.normal(size=shape) * 0.7
        bias = random.integers(-3, 4, rows) / 4 if random.random() < 0.7 else None
        return {"weight": weight.astype(float), "bias": bias}

    for _ in range(random.integers(2, 6)):
        last = pick()
        if random.random() < 0.4:
            last = node("add", [last, pick()])
        if not exact and random.random() < 0.5:
            norm = {"gamma": random.normal(size=width), "beta": random.normal(size=width), "eps": 1e-3}
            last = node("layer_norm", [last], **norm) if random.random() < 0.5 else node("softmax", [last])
        last = node("linear", [last], **affine(width))
        if random.random() < 0.3:
            last = node("add", [last, pick()])
        if random.random() < 0.3:
            sources.append(last)
        shape = () if random.random() < 0.5 else (width,)
        theta = np.asarray(random.choice([0.5, 1.0, 2.0], shape), dtype=float)
        steps = int(levels or random.choice([1, 2, 4, 8]))
        sources.append(node("qcfs", [last], parameter=theta, levels=steps, positivity="raw"))
    last = node("add", [pick(), pick()])
    node("linear", [last], **affine(3))
    return nodes


def settling_bound(nodes):
    """1 + the largest sum of (L - lowest - 1) over the layers of a path; from 0 to one L that is 1 + D (L - 1)."""
    longest = {"image": 0}
    for node in nodes:
        steps = node["levels"] - node.get("lowest", 0) - 1 if node["op"] == "qcfs" else 0
        longest[node["name"]] = max(longest[i] for i in node["inputs"]) + steps
    return 1 + max(longest.values())


MADE = {"mlp": lambda random, depth: mlp(random, depth, residual=True), "cnn": cnn, "transformer": transformer}
