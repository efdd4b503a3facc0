"""`python -m accelerated.run export c|folder|nir|onnx|page RUN`: a run's network in whole numbers, for others."""

from dataclasses import dataclass
from pathlib import Path

import torch

from .. import data as datasets
from ..checks import InputError, one_of, whole
from ..conversion import convert
from ..exports.c import c
from ..exports.nir import FORMS, kit, nir
from ..exports.onnx import onnx
from ..exports.onnx_floats import onnx_floats
from ..exports.page import page
from ..exports.program import Program
from ..exports.qonnx import qonnx
from ..exports.weights import written
from ..schedules import SCHEDULES
from ..sums import is_whole
from . import evaluation, receipts, saved
from .validation import schedule_with

PAGE, MOST_WEIGHTS = "network.html", 10**6  # beside the report of a run in whole numbers


@dataclass(frozen=True)
class COptions:
    """Write a run's network in whole numbers as one C99 file and its header, which need nothing else."""

    schedule: str = "halving"
    """streaming, integrate-then-fire, signed or halving."""
    worths: str = "auto"
    """Of the spikes of halving in its first steps, in levels, such as 4,2,1; auto: L, L/2, ..., 1."""
    bits: int = 8
    """Of the weights, 2 to 8, where the run itself is of real numbers."""
    name: str = "network"
    """With which all that the file defines begins."""
    out: str = ""
    """Folder for NAME.c and NAME.h; by default the run's."""


@dataclass(frozen=True)
class FolderOptions:
    """Write a run's network in whole numbers as a folder that others can load and verify, as the Hugging Face hub has
    it: config.json, model.safetensors, receipt.json, README.md."""

    bits: int = 8
    """Of the weights, 2 to 8, where the run itself is of real numbers."""
    out: str = ""
    """The folder; by default RUN/network."""


@dataclass(frozen=True)
class PageOptions:
    """Write a run's network in whole numbers as one page on which an image is drawn and its spikes are watched."""

    bits: int = 8
    """Of the weights, 2 to 8, where the run itself is of real numbers."""
    title: str = "Draw an image; watch it become exact"
    """The page's heading."""
    out: str = "network.html"
    """The file."""


@dataclass(frozen=True)
class NirOptions:
    """Write a run's streaming network in whole numbers as NIR, in both forms, with a kit of images and the spikes that
    they lead to; needs the extra "nir"."""

    bits: int = 8
    """Of the weights, 2 to 8, where the run itself is of real numbers."""
    images: int = 64
    """Test images of the kit."""
    steps: int = 16
    """T of the kit."""
    out: str = ""
    """Folder for neurons.nir, circuit.nir and kit.npz; by default RUN/nir."""


@dataclass(frozen=True)
class OnnxOptions:
    """Write a run's network as ONNX; needs the extra "onnx"."""

    form: str = "pass"
    """pass: in whole numbers, of integer operators; step: one time step of signed or halving, with its state as inputs
    and outputs; qonnx: one pass with MultiThreshold, as FINN reads it; floats: the quantised network as trained."""
    bits: int = 8
    """Of the weights, 2 to 8, where the run itself is of real numbers; floats: not read."""
    out: str = "network.onnx"
    """The file."""


def whole_of(folder, bits):
    """(the network of a run, or one from a folder, in whole numbers, its data)."""
    network, data = saved.load(folder), saved.data_of(folder)
    return network if is_whole(network) else evaluation.in_whole_numbers(network.config, data, network, bits), data


def to_c(folder, options):
    """NAME.c and NAME.h of a run; the path of the first."""
    one_of(options.schedule, SCHEDULES, "schedule")
    if options.worths != "auto" and SCHEDULES[options.schedule].worths is not None:
        raise InputError(f"worths are for schedule halving, got {options.schedule!r}")
    schedule = schedule_with(options.worths, 0, 0) or options.schedule
    network, data = whole_of(folder, options.bits)
    out = made(options.out or folder)
    image = datasets.first(data, "test", 1, "cpu")
    return c(convert(network, schedule), out / f"{options.name}.c", image, options.name)


def to_folder(folder, options):
    """The folder of a run's network; its path."""
    out = Path(options.out or Path(folder) / "network")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is there already: choose another --out")
    (network, data), config = whole_of(folder, options.bits), saved.config_of(Path(folder))
    trained = saved.results_of(folder)["environment"]
    about = {"name": config.data, "size": config.size, "model": config.model, "trained": trained}
    receipts.write_folder(network, data, out, about)
    return out


def made_for(path):
    """The path of a file whose folder is there now; InputError where it cannot be."""
    if not Path(path).name:
        raise InputError(f"out must be the path of a file, got {str(path)!r}")
    made(Path(path).parent)
    return Path(path)


def made(folder):
    """The folder, which is there now; InputError where it cannot be."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from error
    return Path(folder)


def to_onnx(folder, options):
    """An ONNX file of a run's network; its path."""
    one_of(options.form, ONNX_FORMS, "form")
    if options.form == "floats":
        network, data = saved.load(folder), saved.data_of(folder)
        if is_whole(network):
            raise InputError("the network is in whole numbers: choose form pass, step or qonnx")
    else:
        network, data = whole_of(folder, options.bits)
    return ONNX_FORMS[options.form](network, made_for(options.out), datasets.first(data, "test", 1, "cpu"))


def _of_integers(write, **settings):
    return lambda network, path, image: write(convert(network, "signed"), path, image, **settings)


ONNX_FORMS = {"pass": _of_integers(onnx), "step": _of_integers(onnx, step=True), "qonnx": _of_integers(qonnx),
              "floats": onnx_floats}  # fmt: skip


def to_nir(folder, options):
    """NIR files and the kit of a run; their folder."""
    count, steps = whole(options.images, "images"), whole(options.steps, "steps")
    network, data = whole_of(folder, options.bits)
    images, spiking = datasets.first(data, "test", count, "cpu"), convert(network, "streaming")
    out = made(options.out or Path(folder) / "nir")
    for form in FORMS:
        nir(spiking, out / f"{form}.nir", images[:1], form)
    kit(spiking, out / "kit.npz", images, steps)
    return out


def to_page(folder, options):
    """A page with a run's network and a test image of each class; its path."""
    network, data = whole_of(folder, options.bits)
    about = "the one that comes with the package" if str(folder) in saved.SHIPPED else Path(folder).name
    return write_page(network, data, made_for(options.out), options.title, about)


def write_page(network, data, path, title, about):
    """The page of a network in whole numbers; its path. InputError where it has none."""
    rows = torch.tensor([int((data.test_y == label).nonzero()[0]) for label in data.test_y.unique().tolist()])
    images = next(iter(datasets.batches(data, "test", [rows], "cpu")))[0]
    program = Program(convert(network, "signed"), images[:1])
    text = page(program, receipts.pixels_of(network, images), data.test_y[rows], title, about)
    return written(path, lambda part: part.write_text(text, encoding="utf-8", errors="replace"))


def leave_page(folder, network):
    """Beside the report of a run in whole numbers, its page; the reason where it has none."""
    weights = sum(parameter.numel() for parameter in network.parameters())
    if weights > MOST_WEIGHTS:
        return f"no page: {weights / 1e6:.1f} million weights, and a page is for up to {MOST_WEIGHTS / 1e6:g}"
    try:
        write_page(network.cpu(), saved.data_of(folder), Path(folder) / PAGE, PageOptions().title, Path(folder).name)
    except InputError as error:
        return f"no page: {error}"
    return PAGE


KINDS = {
    "c": (COptions, to_c),
    "folder": (FolderOptions, to_folder),
    "nir": (NirOptions, to_nir),
    "onnx": (OnnxOptions, to_onnx),
    "page": (PageOptions, to_page),
}
