"""A run on disk -> its quantised network again."""

import json
from dataclasses import fields, replace
from pathlib import Path

import torch

from .. import data as datasets
from ..checks import InputError
from ..exports.weights import load_weights
from . import learning
from .config import Config
from .evaluation import converted, shown
from .stages import form_of, network_for


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

    `.config` is the run's `Config`, `.images` the first of its test images ([--test-batch, C, H, W]) and `.labels`
    their labels. Example: `q = accelerated.load("runs/NAME")`, then `convert(q, "signed")`. InputError if the folder
    holds no finished run, or its data set is missing.
    """
    folder = Path(folder)
    config = config_of(folder)
    data = data_of(folder, config)
    network = converted(config, data, network_of(folder, config, data))
    network.config = config
    network.images, network.labels = next(shown(config, data, "test"))
    return network


def data_of(folder, config):
    """The data set of a finished run; InputError if it is not finished, or the data set is missing."""
    try:
        results = json.loads((Path(folder) / "results.json").read_text())
        data_root = results["environment"].get("data_root", "data")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} holds no finished run: there is no readable results.json") from error
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
