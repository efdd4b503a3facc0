"""A run on disk -> its quantised network again."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from .. import data as datasets
from ..checks import InputError
from ..exports.folder import read_config, read_network
from ..exports.weights import load_weights
from . import learning
from .config import Config
from .evaluation import converted, shown
from .stages import form_of, network_for

WITH_US, SHIPPED, FIRST = Path(__file__).parents[1] / "networks", ("digits",), 256


def config_of(folder):
    """The Config of a run on disk; InputError if the folder holds none."""
    try:
        settings: dict = json.loads((folder / "config.json").read_text())
        known = {field.name for field in fields(Config)}
        values: dict = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k in known}
        return Config(**values | {"device": "cpu"})
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{folder} holds no run: there is no readable config.json") from error


def load(folder):
    """The trained quantised network of a run's folder as the run converted it, in evaluation mode.

    "digits" is a network in whole numbers that comes with the package, and the folder may be one that `export folder`
    made. `.images` are the first of the test images ([--test-batch, C, H, W]) and `.labels` their labels; `.config` is
    the run's `Config`, None without a run. Example: `q = accelerated.load("runs/NAME")`, then `convert(q, "signed")`.
    InputError if the folder holds no finished run, or its data set is missing.
    """
    folder = place(folder)
    if (folder / "receipt.json").exists():
        return _published(folder)
    config = config_of(folder)
    data = data_of(folder)
    network = converted(config, data, network_of(folder, config, data))
    network.config = config
    network.images, network.labels = next(shown(config, data, "test"))
    return network


def place(folder):
    """The folder of a network: one that comes with the package by its name, a text, else the folder itself."""
    if isinstance(folder, Path):
        return folder
    if folder in SHIPPED and Path(folder).is_dir():
        raise InputError(f"{folder} is a network of the package and a folder here: say ./{folder} for the folder")
    return WITH_US / folder if folder in SHIPPED else Path(folder)


def _published(folder):
    """The network of a folder that `export folder` made, with its first test images."""
    network: Any = read_network(folder)
    network.config = None
    found = data_of(folder)
    network.images, network.labels = found.test_x[:FIRST], found.test_y[:FIRST]
    return network


def results_of(folder):
    """results.json of a finished run; InputError if there is none."""
    try:
        results = json.loads((Path(folder) / "results.json").read_text())
        results["environment"]["commit"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no finished run: there is no readable results.json") from error
    return results


def data_of(folder):
    """The data set of a finished run or folder; InputError if it is not finished, or the data set is missing."""
    folder = place(folder)
    if (folder / "receipt.json").exists():
        try:
            data = read_config(folder)["data"]
            name, size = data["name"], data["size"]
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder} does not say of which data its network is") from error
        return datasets.load(name, "data", size)
    config = config_of(folder)
    data_root = results_of(folder)["environment"].get("data_root", "data")
    return datasets.load(config.data, data_root, config.size)


def network_of(folder, config, data):
    """The trained network of a run, unfolded, with the weights in its folder."""
    with torch.random.fork_rng(devices=[]):
        network = network_for(replace(config, pretrained=False), data)
    sample = datasets.first(data, "train", 2, "cpu")
    for stage in learning.STAGES:
        settings = config.activation, config.stage1, config.levels, 1.0, sample, form_of(config)
        network = learning.enter(stage, network, *settings)
    return load_weights(network, folder / "weights.safetensors")
