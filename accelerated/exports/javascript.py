"""A network in whole numbers as a script that a page opened as a file can read: docs/_static/network.js runs it."""

import json

import numpy as np

from ..checks import InputError
from .folder import ARRAYS, plain


def javascript(program, name, images, labels):
    """`const NAME = {nodes, answer, examples}`; `images` [n, ...] are whole pixels, examples with their labels."""
    nodes, shapes = [], {node["name"]: node["shape"] for node in program.nodes}
    for node in program.nodes:
        axes = {"linear": 1, "conv2d": 3, "max_pool2d": 3, "sum_pool2d": 3}.get(node["op"])
        if axes and any(len(shapes[source]) != axes for source in node["inputs"]):
            raise InputError(f"{node['name']} acts on other than {axes} axes, which has no form in JavaScript")
        kept = {
            key: plain(value) for key, value in node.items() if key not in (*ARRAYS, "worths", "depth", "mean", "std")
        }
        arrays = {part: np.asarray(node[part]).reshape(-1).tolist() for part in ARRAYS if part in node}
        window = {"window": list(node["weight"].shape[2:])} if node["op"] == "conv2d" else {}
        nodes.append(kept | window | arrays)
    examples = [{"label": int(y), "pixels": x.reshape(-1).tolist()} for x, y in zip(images, labels, strict=True)]
    found = json.dumps({"answer": program.answer, "nodes": nodes, "examples": examples}, separators=(",", ":"))
    return f"// Made by: python -m accelerated.run export js\nconst {name} = {found};\n"
