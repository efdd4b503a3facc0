"""What is to be seen on a GPU, in one command of at most ten minutes; without a GPU, the same in small on the CPU.

    python -m accelerated.benchmarks.gpu --data-root FOLDER

From the repository's root, with the extra "test"; FOLDER holds CIFAR-10. It runs the kernels' tests (bits in all
formats, CUDA graphs), measures layers and a network beside their limits and other packages, and trains a ResNet-18 in
mixed precision with its exact schedules. OUT/gpu.json and gpu.md say what came out, after each part.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ..checks import InputError, whole
from ..run import parse
from ..runs.folders import environment, write_json
from ..runs.validation import device as usable

PROGRAM = "python -m accelerated.benchmarks.gpu"
TESTS = ("equivalence_tests/test_kernels.py", "equivalence_tests/test_engines.py")


@dataclass(frozen=True)
class Options:
    """Check and measure everything that needs a GPU, within a time."""

    data_root: str = "data"
    """Folder of CIFAR-10."""
    device: str = "auto"
    """auto, cpu or cuda."""
    seconds: int = 570
    """For all parts together; what does not fit is left out and named."""
    out: str = "gpu"
    """Folder for gpu.json, gpu.md and what the parts leave."""


@dataclass(frozen=True)
class Part:
    """A command, and where it leaves its results."""

    name: str
    arguments: tuple
    results: str = ""


def parts(options, device):
    """The parts for a device; on a CPU each is as small as it can be."""
    out = Path(options.out)
    layers: tuple
    network: tuple
    learn: tuple
    bench, to = ("-m", "accelerated.benchmarks", "--device", device), ("--out", str(out / "layers"))
    train = ("-m", "accelerated.run", "--device", device, "--out", str(out / "runs"), "--name", "resnet18", "--model",
             "resnet18", "--levels", "8", "--schedules", "integrate-then-fire", "signed", "halving")  # fmt: skip
    if device == "cpu":
        wanted, layers, network = "kernels_over_time", ("--rounds", "3", "--batch", "2"), ("--width", "0.125")
        learn = ("--data", "digits", "--size", "32", "--width", "0.0625", "--epochs", "1", "1", "1", "--times", "8",
                 "--test-images", "32")  # fmt: skip
    else:
        wanted, layers, network = "Triton or graphs_are", ("--rounds", "20", "--batch", "128"), ()
        learn = ("--data", "cifar10", "--data-root", options.data_root, "--augment", "standard", "--epochs", "12", "6",
                 "2", "--batch", "256", "--precision", "bfloat16", "--channels-last", "--workers", "12", "--times", "8",
                 "--test-batch", "1000")  # fmt: skip
    few = ("--no-compile", *layers)
    tests = ("-m", "pytest", "-q", "-rs", "-n0", "-p", "no:cacheprovider", *TESTS)
    return (
        Part("kernels, bit for bit", (*tests, "-k", wanted)),
        Part("layers", (*bench, *few, *to, "--what", "neuron", "qcfs"), "layers/bench.json"),
        Part("a network", (*bench, *few, *network, "--out", str(out / "network"), "--what", "resnet18"),
             "network/bench.json"),
        Part("training, and exact schedules", (*train, *learn), "runs/resnet18/results.json"),
    )  # fmt: skip


def carried_out(part, out, seconds):
    """{"ended": how, "seconds": ..., "found": lines} of a part that is stopped after so many seconds."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *part.arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, start_new_session=True)  # fmt: skip
    try:
        text, _ = process.communicate(timeout=seconds)
        ended = "done" if process.returncode == 0 else f"failed with {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
        text, ended = process.communicate()[0], f"stopped after {seconds:.0f} s"
    said = [line for line in text.splitlines() if line.strip()]
    if ended == "done" and not part.results and " skipped" in said[-1]:
        ended = "done, but for what was skipped"
    read = ended == "done" and part.results
    found = list(lines_of(json.loads((out / part.results).read_text()))) if read else said[-3:]
    return {"ended": ended, "seconds": round(time.perf_counter() - began, 1), "found": found}


def lines_of(results):
    """What a benchmark's or a run's results say, in lines."""
    for name, result in results.get("results", {}).items():
        for candidate, (middle, low, high) in result["ratios"].items():
            took = 1e3 * median(result["seconds"][candidate])
            yield f"{name}, {candidate}: {took:.2f} ms, {middle:.2f} ({low:.2f} to {high:.2f}) times {result['limit']}"
    for stage, share in results.get("accuracy", {}).items():
        yield f"{stage}: {100 * share:.2f} % of {results['test_images']} test images"
    for row in results.get("rows", ()):
        if row["logits_equal"] is not None and row["settled"] is not False:  # where an equality is claimed
            equal = "equal in every bit" if row["logits_equal"] else "not equal"
            yield f"{row['schedule']}, T = {row['T']}: logits {equal}; least active layer {100 * least(row):.0f} %"


def least(row):
    """The share of the neurons that spike, in the layer where fewest do."""
    return min(row["nonzero_share"].values())


def page(machine, found):
    """The results as a page."""
    lines = [f"Commit {machine['commit']}, {machine['device']}, torch {machine['torch']}, seed 0.", ""]
    for name, result in found.items():
        lines += [f"**{name}**: {result['ended']}, {result['seconds']} s", ""]
        lines += [*(f"- {line}" for line in result["found"]), ""]
    return "\n".join(lines)


def run(options):
    """Carry out the parts; returns whether all of them were done."""
    device = usable(options.device)
    whole(options.seconds, "seconds")
    if not all(Path(test).exists() for test in TESTS):
        raise InputError(f"{TESTS[0]} is not here: start from the root of the repository")
    out, end, found = Path(options.out), time.perf_counter() + options.seconds, {}
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is there already: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    machine = environment(device)
    for part in parts(options, device):
        left = end - time.perf_counter()
        nothing = {"ended": "left out: no time", "seconds": 0, "found": []}
        found[part.name] = carried_out(part, out, left) if left > 1 else nothing
        print(f"{part.name}: {found[part.name]['ended']}, {found[part.name]['seconds']} s", flush=True)
        write_json(out / "gpu.json", {"machine": machine, "parts": found})
        (out / "gpu.md").write_text(page(machine, found))
    return all(result["ended"] == "done" for result in found.values())


def main(arguments=None):
    """Run the command line; returns the exit status."""
    try:
        options = parse(Options, arguments, PROGRAM)
        well = run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {options.out}/gpu.json and gpu.md")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
