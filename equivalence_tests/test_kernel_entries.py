"""No wrong argument makes a native kernel read or write foreign memory: it is refused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import accelerated as acc

kernels = pytest.importorskip("accelerated.kernels", reason="the kernels' folder is not there")
from accelerated.kernels import build  # noqa: E402
from accelerated.kernels.entries import ENTRIES  # noqa: E402

ROOT = Path(__file__).parent.parent
needs_compiler = pytest.mark.skipif(kernels.library() is None, reason="there is no C compiler: PyTorch does the work")
IN_C = [name for name, entry in ENTRIES.items() if entry.symbol]


def test_every_function_of_the_sources_is_declared():
    """A kernel that is added is declared, with its arguments in their number and order."""
    text = "".join(path.read_text() for path in sorted(Path(build.__file__).parent.glob("*.[ch]")))
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    found = re.findall(r"^void (?:NAME|WIDE)?\(?(\w+)\)?\(([^)]*)PARTS\)", text, flags=re.M)
    assert {name for name, _ in found} == set(IN_C)
    for name, arguments in found:
        names = [re.findall(r"\w+", argument)[-1] for argument in arguments.split(",") if argument.strip()]
        kinds = ENTRIES[name].arguments.values()
        wanted = len(kinds) + sum(isinstance(kind, type) for kind in kinds)  # a list and its length
        assert len(names) == wanted, (name, names)


@needs_compiler
@pytest.mark.parametrize("names", [IN_C[i::2] for i in range(2)], ids=["even", "odd"])
def test_each_wrong_argument_is_refused(names, record_property):
    """In a process of its own: where a check is missing this is a crash, or worse, none."""
    command = [sys.executable, "-m", "equivalence_tests.kernel_arguments", *names]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, f"after {run.stdout[-200:]}{run.stderr[-500:]}"
    for line in run.stdout.splitlines():
        record_property("seen", f"wrong arguments: {line}")


@needs_compiler
@pytest.mark.long
@pytest.mark.timeout(1500)
def test_an_address_sanitiser_finds_nothing(tmp_path):
    """gcc's, over every wrong argument and over the tests of all kernels."""
    program = build.compiler()
    found = subprocess.run([program, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(found):
        pytest.skip("the C compiler has no address sanitiser")
    sanitised = os.environ | {
        "ISOSPIKE_CFLAGS": "-fsanitize=address -fno-omit-frame-pointer -g -O1", "LD_PRELOAD": os.path.realpath(found),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1", "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "2",
    }  # fmt: skip
    arguments = [sys.executable, "-m", "equivalence_tests.kernel_arguments", *IN_C]
    files = [f"equivalence_tests/test_{name}.py" for name in ("kernels", "event_layers", "whole_layers")]
    options = "-q", "-o", "addopts=", "-m", "not long", "-k", "not Triton and not threads"
    suite = [sys.executable, "-m", "pytest", *options, *files]
    for command in (arguments, suite):
        run = subprocess.run(command, cwd=ROOT, env=sanitised, capture_output=True, text=True, timeout=1400)
        assert "AddressSanitizer" not in run.stderr + run.stdout, (run.stderr + run.stdout)[-3000:]
        assert run.returncode == 0, (run.stderr + run.stdout)[-3000:]


WAYS = [("streaming", "increments", engine) for engine in ("dense", "event", "auto")]
WAYS += [(schedule, way, None) for schedule in ("integrate-then-fire", "signed") for way in ("totals", "increments")]


@pytest.mark.parametrize(("schedule", "arithmetic", "engine"), WAYS)
def test_other_images_on_old_state_are_refused(schedule, arithmetic, engine):
    """Fewer or more than the state holds, whichever way the network ran before; after reset() they are served."""
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(512, 5)
    x = torch.rand(16, 3, 8, 8)
    quantised = acc.quantise(torch.nn.Sequential(*layers), levels=4, initial_threshold="max", sample=x)
    spiking = acc.convert(quantised.eval(), schedule)
    if engine:
        acc.simulate(spiking, x, 2, engine=engine)
    spiking.reset(4, arithmetic)
    with torch.no_grad():
        spiking(x[:1])
        for other in (x, x[:3]):
            with pytest.raises(acc.InputError, match=r"reset\(\) first"):
                spiking(other)
        spiking.reset(4, arithmetic)
        assert len(spiking(x)) == len(x)
