"""What other packages make of a NIR graph: spikes that differ from the kit's, as imported and with a shim.

    python -m accelerated.run export nir RUN --out KIT
    python -m accelerated.benchmarks.importers KIT ...

A shim is what it takes to make an importer run the graph as it is meant. Most of it is in the graph (`plain`); the rest
sets reset, first membrane and spikes per step on the neurons that the package made.
"""

import copy
import importlib.metadata
import importlib.util
import io
import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import nn

from ..checks import InputError, first_line
from ..exports.from_nir import stateless
from ..exports.nir import FIRST, FORMS, imported
from ..exports.weights import written
from ..run import parse

NEURONS, _ = FORMS
PROGRAM = "python -m accelerated.benchmarks.importers"


@dataclass
class Options:
    """Compare what other packages make of NIR graphs with the spikes that their kits expect."""

    kits: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders that `python -m accelerated.run export nir` has written."""
    out: str = ""
    """A file for the table."""


def plain(graph, images_count=False):
    """The same graph of Affine, Conv2d, Flatten and IF alone; `images_count`: Flatten counts the axis of images."""
    package, nodes = imported(), copy.deepcopy(graph.nodes)
    for name, node in graph.nodes.items():
        shape = tuple(int(side) for side in node.input_type["input"]) if node.input_type else ()
        if type(node) is package.Scale and len(shape) == 1:
            nodes[name] = package.Affine(np.diag(node.scale), np.zeros(shape))
        elif type(node) is package.Scale:
            if (node.scale != node.scale[:, :1, :1]).any():
                raise InputError(f"{name} has a factor for each pixel: no convolution has")
            kernel = np.diag(node.scale[:, 0, 0])[:, :, None, None]
            nodes[name] = package.Conv2d(shape[1:], kernel, 1, 0, 1, 1, np.zeros(shape[0]))
        elif type(node) is package.SumPool2d:
            kernel = np.eye(shape[0])[:, :, None, None] * np.ones(tuple(node.kernel_size))
            sides = tuple(node.stride), tuple(node.padding)
            nodes[name] = package.Conv2d(shape[1:], kernel, *sides, 1, 1, np.zeros(shape[0]))
        elif type(node) is package.Flatten and images_count:
            nodes[name].start_dim, nodes[name].end_dim = 1, -1
    return package.NIRGraph(nodes, graph.edges, type_check=False)


class Integrator(nn.Module):
    """The sum of all inputs so far."""

    def forward(self, x, state=None):
        """(the sum, the state)."""
        total = x if state is None else state + x
        return total, total


class Threshold(nn.Module):
    """1 above a threshold."""

    def __init__(self, threshold):
        super().__init__()
        self.register_buffer("threshold", torch.from_numpy(threshold))

    def forward(self, x):
        """Whether x is above it."""
        return (x > self.threshold).to(x.dtype)


def nirtorch(graphs, first, mend):
    """The circuit, executed by nirtorch: modules for the nodes are what it asks for."""
    import nirtorch

    package = imported()
    kinds = (
        package.Input,
        package.Output,
        package.Affine,
        package.Conv2d,
        package.Flatten,
        package.SumPool2d,
        package.Scale,
    )
    made: dict = dict.fromkeys(kinds, lambda node: stateless(package, "", node))
    made |= {package.I: lambda node: Integrator(), package.Threshold: lambda node: Threshold(node.threshold)}
    return nirtorch.nir_to_torch(graphs["circuit"], made if mend else {}).float()


def spikingjelly(graphs, first, mend):
    """Imported by SpikingJelly: hard reset from 0."""
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    module = import_from_nir(plain(graphs[NEURONS]) if mend else graphs[NEURONS], dt=1.0)
    for name, start in first.items() if mend else ():
        neuron = module.get_submodule(name).module
        neuron.v_reset, neuron.v = None, start
    return module


def sinabs(graphs, first, mend):
    """Imported by sinabs: several spikes a step, a membrane of at least -theta, from 0, and branches of other lengths
    a step late (nirtorch.load); the shim has nirtorch's newer way.
    """
    import nirtorch
    import sinabs.nir
    from sinabs.activation import SingleSpike

    count = len(next(iter(first.values())))
    if not mend:
        return sinabs.nir.from_nir(graphs[NEURONS], batch_size=count)
    package = imported()

    def made(node):
        return sinabs.nir._import_sinabs_module(node, batch_size=count, num_timesteps=None)

    kinds = package.Affine, package.Conv2d, package.Flatten, package.IF
    module = nirtorch.nir_to_torch(plain(graphs[NEURONS]), dict.fromkeys(kinds, made))
    for name, start in first.items():
        neuron = module.get_submodule(name)
        neuron.spike_fn, neuron.min_v_mem, neuron.v_mem = SingleSpike, None, start
    return module


class SpikesAlone(nn.Module):
    """snnTorch's neuron, which returns spikes and membrane, as one that returns spikes."""

    def __init__(self, neuron, start):
        super().__init__()
        self.neuron, self.membrane = neuron, start
        neuron.beta.fill_(1.0)

    def forward(self, x):
        """The spikes of a step."""
        spikes, self.membrane = self.neuron(x, self.membrane)
        return spikes


def snntorch(graphs, first, mend):
    """Imported by snnTorch: leaky (beta 0.9), from 0. What a spike leaves above theta fires again from 2 theta on only,
    which no shim takes away.
    """
    from snntorch.import_nir import import_from_nir

    module = import_from_nir(plain(graphs[NEURONS], images_count=True) if mend else graphs[NEURONS])
    for name, start in first.items() if mend else ():
        module.set_submodule(name, SpikesAlone(module.get_submodule(name), start))
    return module


def norse(graphs, first, mend):
    """Imported by norse: hard reset from 0, which is not a setting; the shim mends its axes alone."""
    import norse.torch

    return norse.torch.from_nir(plain(graphs[NEURONS], images_count=True) if mend else graphs[NEURONS])


IMPORTERS = {"nirtorch": nirtorch, "spikingjelly": spikingjelly, "sinabs": sinabs, "snntorch": snntorch, "norse": norse}
NOTES = {
    "nirtorch": "the circuit: modules for I, Threshold, Scale and the layers",
    "spikingjelly": "soft reset, first membrane; Scale and SumPool2d as convolutions",
    "sinabs": "single spikes, no lower bound, first membrane; branches in step",
    "snntorch": "no leak, first membrane, spikes alone; Flatten's axes. What is left above theta fires at 2 theta",
    "norse": "Flatten's axes. Its reset to 0 cannot be set",
}


def spikes_of(module, names, frames, steps):
    """{node: spikes [steps, n, ...]} of an imported module that is called once a step."""
    seen: dict = {name: [] for name in names}
    for name in names:

        def see(_, inputs, result, name=name):
            spikes = result[0] if isinstance(result, tuple) else result
            seen[name].append(spikes.detach().clone())

        module.get_submodule(name).register_forward_hook(see)
    state = None
    for _ in range(steps):
        result = module(frames, state)
        state = result[1] if isinstance(result, tuple) else None
    return {name: torch.stack(spikes) for name, spikes in seen.items()}


def differences(found, expected):
    """(share of spikes of all layers that differ from the kit's, share of (unit, image) pairs of the last layer whose
    counts differ); InputError for a layer of another shape.
    """
    different = total = 0
    for name, wanted in expected.items():
        if found[name].shape != wanted.shape:
            raise InputError(f"{name}: shape {tuple(found[name].shape)}, and {tuple(wanted.shape)} is expected")
        different, total = different + int((found[name] != wanted).sum()), total + wanted.numel()
    last = [*expected][-1]
    return different / total, float((found[last].sum(0) != expected[last].sum(0)).float().mean())


def tried(importer, folder, mend):
    """`differences` of an importer on a kit's graphs, or the first line of what stops it."""
    arrays = {name: torch.from_numpy(value) for name, value in np.load(folder / "kit.npz").items()}
    expected = {name.removeprefix("spikes."): v.float() for name, v in arrays.items() if name.startswith("spikes.")}
    graphs = {form: imported().read(folder / f"{form}.nir") for form in FORMS}
    frames, steps = arrays["frames"].float(), len(arrays["outputs"])
    starts = {name: torch.from_numpy(graphs[NEURONS].nodes[name].metadata[FIRST]).float() for name in expected}
    first = {name: start.expand(len(frames), *start.shape).clone() for name, start in starts.items()}
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            return differences(spikes_of(importer(graphs, first, mend), first, frames, steps), expected)
    except Exception as error:  # of any kind, by somebody else's code
        return f"stops: {type(error).__name__}: {first_line(error)[:90]}"


def cell(found):
    """What came out, as a cell."""
    if isinstance(found, str):
        return found
    return "every spike equal" if found == (0, 0) else f"{found[0]:.2%} of spikes, {found[1]:.1%} of last counts differ"


def rows(folder):
    """The table's rows of a kit."""
    if not all((folder / name).is_file() for name in ("kit.npz", *(f"{form}.nir" for form in FORMS))):
        raise InputError(f"{folder} holds no kit: python -m accelerated.run export nir RUN --out {folder}")
    for name, importer in IMPORTERS.items():
        if importlib.util.find_spec(name) is None:
            yield f"| {folder.name} | {name} | not installed | | |"
            continue
        cells = (cell(tried(importer, folder, mend)) for mend in (False, True))
        yield " | ".join(["| " + folder.name, f"{name} {importlib.metadata.version(name)}", *cells, f"{NOTES[name]} |"])


def main(arguments=None):
    """Run the command line; returns the exit status."""
    try:
        options = parse(Options, arguments, PROGRAM)
        lines = ["| network | importer | as imported | with the shim | the shim |", "|---|---|---|---|---|"]
        for folder in options.kits:
            lines += rows(Path(folder))
        versions = (f"{name} {importlib.metadata.version(name)}" for name in ("nir", "torch"))
        text = "\n".join([*lines, "", f"With {', '.join(versions)}.", ""])
        if options.out:
            written(options.out, lambda part: part.write_text(text))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
