"""MNIST and Fashion-MNIST from idx files, plain or compressed (.gz), checked by the MD5 of what is in them."""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch

from ..checks import InputError, first_line

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FOLDERS = {"MNIST": ("MNIST/raw", "mnist"), "FashionMNIST": ("FashionMNIST/raw", "fashion-mnist")}
SIDE, HEADERS = 28, (16, 8)  # bytes in front of images and of labels
MD5 = {
    "MNIST": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
              "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    "FashionMNIST": ("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9",
                     "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
}  # fmt: skip


def folder_of(called, root):
    """The folder that holds the files: under `root`, or `root` itself; None if there is neither."""
    folders = [Path(root) / name for name in (*FOLDERS[called], ".")]
    return next((folder for folder in folders if any(folder.glob(f"{NAMES[0]}*"))), None)


def read(called, folder):
    """((training images, labels), (test images, labels)): uint8 [n, 1, 28, 28] and int64 [n]."""
    parts = []
    for i, (name, md5) in enumerate(zip(NAMES, MD5[called], strict=True)):
        values = np.frombuffer(_content(folder, name, md5), np.uint8, offset=HEADERS[i % 2])
        images = torch.from_numpy(values.reshape(-1, 1, SIDE, SIDE).copy()) if i % 2 == 0 else None
        parts.append(torch.from_numpy(values.astype(np.int64)) if images is None else images)
    return parts[:2], parts[2:]


def _content(folder, name, md5):
    """The bytes of a file, or of its compressed form; InputError for another file of that name."""
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), folder / name)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise InputError(f"{path} is damaged, or of another data set: the MD5 of what is in it is not {md5}")
    return content
