"""CIFAR-10 and -100 from the official binary version: records of labels and 3 x 32 x 32 bytes, checked by MD5.

Nothing is unpickled. MD5s are those of the files of https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from ..checks import InputError

PIXELS = 3 * 32 * 32
FORMATS = {  # name: (folder, labels in front of each image, {training file: MD5}, {test file: MD5})
    "CIFAR10": ("cifar-10-batches-bin", 1, {
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25", "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421", "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    }, {"test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d"}),
    "CIFAR100": ("cifar-100-binary", 2, {"train.bin": "6172c7755cfe09b2fe270c85cebc1b15"},
                 {"test.bin": "4499cfba6c016c1be1438163640a0898"}),
}  # fmt: skip


def folder_of(called, root):
    """The folder of the binary version: under `root`, or `root` itself; None if there is neither."""
    name = FORMATS[called][0]
    return next((folder for folder in (Path(root) / name, Path(root)) if folder.name == name and folder.is_dir()), None)


def read(called, folder):
    """((training images, labels), (test images, labels)): uint8 [n, 3, 32, 32] and int64 [n]."""
    _, labels, *parts = FORMATS[called]
    return [_part(folder, files, labels) for files in parts]


def _part(folder, files, labels):
    rows = np.concatenate([_records(folder / name, md5, labels) for name, md5 in files.items()])
    images = torch.from_numpy(rows[:, labels:].reshape(-1, 3, 32, 32).copy())
    return images, torch.from_numpy(rows[:, labels - 1].astype(np.int64))  # the last label is the fine one


def _records(path, md5, labels):
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise InputError(f"{path} is damaged: its MD5 is not {md5}; delete it and fetch it again")
    return np.frombuffer(content, np.uint8).reshape(-1, labels + PIXELS)
