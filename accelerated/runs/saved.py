"""A run on disk -> its quantised network again."""

import json
from dataclasses import fields, replace

import torch

from .. import data as datasets
from . import training
from ..exports.weights import load_weights
from ..checks import InputError
from .config import Config
from .experiment import form_of, network_for


def config_of(folder):
    """The Config of a run on disk; InputError if the folder holds none."""
    try:
        settings: dict = json.loads((folder / "config.json").read_text())
        known = {field.name for field in fields(Config)}
        values: dict = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k in known}
        return Config(**values | {"device": "cpu"})
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{folder} holds no run: there is no readable config.json") from error


def network_of(folder, config, data):
    """The trained network of a run, unfolded, with the weights that lie in its folder."""
    with torch.random.fork_rng(devices=[]):
        network = network_for(replace(config, pretrained=False), data)
    sample = datasets.first(data, "train", 2, "cpu")
    for stage in training.STAGES:
        settings = config.activation, config.stage1, config.levels, 1.0, sample, form_of(config)
        network = training.enter(stage, network, *settings)
    return load_weights(network, folder / "weights.safetensors")
