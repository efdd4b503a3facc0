"""Receipts: what a network in whole numbers answers on a data set, by digest, so that a stranger can check it.

Every exact schedule sends the quantised network's levels; so their digests are those of all schedules.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import torch

import isospike

from ..checks import InputError
from ..conversion import convert
from ..exports.folder import read_config, read_network, write_network
from ..exports.program import Program
from ..exports.weights import whole_file
from ..network import answer
from ..pixels import Pixels
from ..schedules import SCHEDULES
from ..simulation import simulate
from ..sums import held
from . import saved
from .folders import environment, write_json

EXACT = tuple(name for name, schedule in SCHEDULES.items() if not schedule.streams)
CHECKED = ("data_sha256", "answers_sha256", "levels_sha256", "unit", "right", "images")
BATCH = 128


def digest_of(*parts):
    """SHA-256 of tensors' numbers, in hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.contiguous().numpy().tobytes())
    return found.hexdigest()


def pixels_of(network, images):
    """The whole pixels of images."""
    pixels = next(module for module in network.modules() if isinstance(module, Pixels))
    return (pixels(images) + pixels.zero()).to(torch.int32)


def receipt(network, data, schedule):
    """What a schedule finds on all test images of a data set in memory: digests, answers that are right, and costs.

    `steps` is the last one in which anything fires, in the slowest image.
    """
    spiking = convert(network, schedule)
    unit = Program(spiking, data.test_x[:1]).unit
    levels = {name: hashlib.sha256() for name in spiking.layers}
    answers, right, spikes, nonzero, steps = hashlib.sha256(), 0, 0.0, dict.fromkeys(levels, 0.0), 0
    for x, y in zip(data.test_x.split(BATCH), data.test_y.split(BATCH), strict=True):
        result = simulate(spiking, x, spiking.steps)
        for name, count in result.counts.items():
            levels[name].update(count.int().contiguous().numpy().tobytes())
            nonzero[name] += result.nonzero_share[name] * len(x)
        whole = (result.logits[-1].double() * torch.from_numpy(unit)).round().long()
        answers.update(whole.contiguous().numpy().tobytes())
        right += int((result.logits[-1].argmax(1) == y).sum())
        spikes += result.spikes_per_neuron * len(x)
        steps = max(steps, result.latency if result.settled_at is None else int(result.settled_at.max()))
    images = len(data.test_y)
    return {
        "data_sha256": digest_of(pixels_of(network, data.test_x), data.test_y),
        "answers_sha256": answers.hexdigest(), "unit": unit.tolist(),
        "levels_sha256": {name: found.hexdigest() for name, found in levels.items()},
        "images": images, "right": right, "steps": steps,
        "spikes_per_neuron": round(spikes / images, 4), "nonzero": round(min(nonzero.values()) / images, 4),
    }  # fmt: skip


CARD = """---
library_name: isospike
license: mit
tags: [spiking-neural-network, image-classification]
---

# A spiking network in whole numbers: {model}, {data}

Made by isospike {version}, commit {commit}. Levels are 0 to {levels}. Every exact schedule gives the quantised
network's answer in every bit: {right} of {images} test images right. `receipt.json` holds digests of all levels
and answers.

| schedule | steps, slowest image | spikes per neuron and image |
|---|---|---|
{rows}

In the least active layer {nonzero:.0f} % of the levels are other than 0.

```python
import accelerated as acc

network = acc.load("{name}")
result = acc.simulate(acc.convert(network, "halving"), network.images)
```

`python -m accelerated.run verify {name}` computes the digests again.
"""


def write_folder(network, data, folder, about):
    """A network in whole numbers with its receipt as a folder; `about` is {"name", "size", "model", "trained"}."""
    folder = Path(folder)
    if not data.in_memory:
        raise InputError("receipts are of data sets in memory: digits, mnist5k, mnist or fashion-mnist")
    found = {schedule: receipt(network, data, schedule) for schedule in EXACT}
    same = [{key: part[key] for key in CHECKED} for part in found.values()]
    if any(part != same[0] for part in same):
        raise InputError("the exact schedules do not agree, which should be impossible: please report this network")
    held(network, torch.float32)  # in which it is read
    program = Program(convert(network, "signed"), data.test_x[:1])
    with tempfile.TemporaryDirectory() as trial:
        of_data = {key: about[key] for key in ("name", "size")} | {"classes": data.classes}
        write_network(program, trial, of_data)
        same_again(network, read_network(trial), data.test_x[:BATCH])
    folder.mkdir(parents=True, exist_ok=True)
    write_network(program, folder, of_data)
    costs = {name: {key: part[key] for key in ("steps", "spikes_per_neuron")} for name, part in found.items()}
    first, machine = found[EXACT[0]], environment("cpu")
    trained = {key: about["trained"].get(key) for key in machine}
    write_json(folder / "receipt.json", {**same[0], "schedules": costs, "nonzero": first["nonzero"],
                                         "trained": trained, "receipt": machine})  # fmt: skip
    rows = "\n".join(f"| {name} | {cost['steps']} | {cost['spikes_per_neuron']:.3f} |" for name, cost in costs.items())
    levels = max(node["levels"] for node in program.nodes if node["op"] == "neuron")
    words = {"model": about["model"], "data": about["name"], "version": isospike.__version__, "levels": levels,
             "commit": machine["commit"], "rows": rows, "name": folder.name, "nonzero": 100 * first["nonzero"],
             "right": first["right"], "images": first["images"]}  # fmt: skip
    with whole_file(folder / "README.md") as part:
        part.write_text(CARD.format(**words))


def same_again(network, again, images):
    """InputError unless a network that was read back gives the same bits."""
    if not torch.equal(answer(network, images).float(), answer(again, images)):
        raise InputError("the folder does not give the network's answers back: please report this network")


def verified(folder):
    """{schedule: what of the receipt it does not give again, in words}; all empty where the claim holds."""
    folder = Path(folder)
    read_config(folder)
    try:
        claimed = json.loads((folder / "receipt.json").read_text())
        claimed = {key: claimed[key] for key in CHECKED} | {"levels_sha256": dict(claimed["levels_sha256"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} has no readable receipt.json ({type(error).__name__})") from error
    network = read_network(folder)
    data = saved.data_of(folder)
    return {name: _differences(receipt(network, data, name), claimed) for name in EXACT}


def _differences(found, claimed):
    """The parts in which a receipt differs from what was claimed."""
    ours, theirs = found["levels_sha256"], claimed["levels_sha256"]
    layers = [f"levels of {name}" for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return [*(key for key in CHECKED if key != "levels_sha256" and found[key] != claimed[key]), *layers]
