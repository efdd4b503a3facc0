"""The options of a benchmark."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..checks import InputError, one_of, positive, whole
from ..models import MODELS
from ..runs.validation import device

PEERS = ("published loop", "spikingjelly", "snntorch", "sinabs")
BENCHMARKS = ("neuron", "qcfs", "training")
AXES = {"steps": (2, 4, 8, 16, 32), "batch": (1, 4, 16, 64), "width": (0.25, 0.5, 1.0, 2.0),
        "rate": (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)}  # fmt: skip


@dataclass(frozen=True)
class BenchmarkOptions:
    """Measure neurons, activations, training and networks beside their limits and other packages; print the ratios."""

    what: tuple[str, ...] = ("neuron", "qcfs", "training", "resnet20", "resnet18", "vgg16", "vit_tiny")
    """Which benchmarks: neuron (the IF layer), qcfs (forward and backward), training (a step of ResNet-20), networks by
    name (random weights), or folders of runs (trained; their test images)."""
    only: tuple[str, ...] = ()
    """Candidates to run beside the limit, by the names in the table; none: all there are."""
    exact: bool = False
    """Of networks, compare exact answers alone, with the other ways to the same accuracy: signed neurons until quiet
    (spikingjelly) and COS."""
    growth: tuple[str, ...] = ()
    """Plots for each network of `what`: over steps, batch, width, or rate (of a single convolution)."""
    memory: bool = False
    """Also the most memory that each network takes at T = 4 and at T = 32."""
    steps: int = 8
    """T."""
    batch: int = 32
    """Images (QCFS and training take four times as many)."""
    judged: int = 256
    """Test images of a run on which engines and the first peer are also compared by accuracy."""
    rounds: int = 30
    """How often all candidates of a benchmark run, one after another."""
    width: float = 1.0
    """Channels of the networks, as a multiple."""
    device: str = "cpu"
    """cpu, or cuda for neuron, qcfs, training, and networks by name without --exact."""
    threads: int = torch.get_num_threads()
    """Of the processor."""
    peers: tuple[str, ...] = PEERS
    """Which other ways to compare with, where they are installed; published loop: what the authors of QCFS do."""
    compile: bool = True
    """Also everything of PyTorch's under torch.compile, which takes a minute a network before the first round."""
    allocator: str = "warm"
    """warm (memory once taken is kept: glibc's MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ raised, in a process
    of its own) or default (blocks over 32 MiB are mapped afresh each time, which can cost more than the work)."""
    out: str = "bench"
    """Folder for bench.json and the plots."""


def checked(options):
    """The options; InputError naming the first that is wrong."""
    for name in options.what:
        if not (Path(name) / "config.json").is_file():
            one_of(name, (*BENCHMARKS, *MODELS), "benchmark")
        elif "width" in options.growth:
            raise InputError(f"growth over width is for networks by name: {name} is trained at its own")
    for axis in options.growth:
        one_of(axis, AXES, "axis of growth")
    for name in options.peers:
        one_of(name, PEERS, "peer")
    layers = [name for name in options.what if name in BENCHMARKS]
    if options.exact and layers:
        raise InputError(f"exact answers are those of networks, got {layers[0]!r} among --what: name networks alone")
    for name in ("steps", "batch", "judged", "rounds", "threads"):
        whole(getattr(options, name), name)
    positive(options.width, "width")
    on_events = options.exact or options.growth or options.memory
    if device(options.device) != "cpu" and (on_events or any(Path(name).is_dir() for name in options.what)):
        raise InputError("exact answers, growth, memory and runs are measured on the CPU: leave --device")
    one_of(options.allocator, ("warm", "default"), "allocator")
    return options
