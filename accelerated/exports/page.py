"""A network in whole numbers as one page that computes it: opened as a file, it draws and steps, and needs no server.

templates/network.js computes, templates/draw.js shows; the page holds both, the network, and an image of each class.
"""

import json
import re
from html import escape

import numpy as np

from ..checks import InputError
from .c import template
from .folder import ARRAYS, plain


def page(program, images, labels, title, about):
    """The text of the page; `images` [n, ...] are whole pixels, examples with their labels, `about` says whose."""
    image = program.nodes[0]["shape"]
    if len(image) != 3 or image[0] not in (1, 3):
        raise InputError(f"a page draws images of one channel or three, got {'x'.join(map(str, image))}")
    texts = {"TITLE": escape(title), "ABOUT": escape(about), "STYLE": template("network.css"),
             "NETWORK": template("network.js"), "PROGRAM": script(program, images, labels),
             "DRAW": template("draw.js")}  # fmt: skip
    return "".join(
        texts.get(str(part), str(part)) for part in re.split(f"({'|'.join(texts)})", template("network.html"))
    )


def script(program, images, labels):
    """`const PROGRAM = {nodes, answer, examples};`."""
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
    return "const PROGRAM = " + found.replace("<", r"\u003c") + ";\n"  # nothing in it is a tag
