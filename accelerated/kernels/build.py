"""Compile the kernels once and keep them: `library()` is the shared library, or None without a C compiler."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

HERE = Path(__file__).parent
BLOCK = 512  # pixels x steps whose sums an event-driven layer holds at once; events.py makes room for them
LOOKED_UP = 64  # most words that one pixel of a layer with tables may read
COPIED = 8  # entries of a list that are copied at once; lists.py leaves as much room behind them
FLAGS = (
    f"-DBLOCK={BLOCK}", f"-DLOOKED_UP={LOOKED_UP}", f"-DCOPIED={COPIED}",
    "-O3", "-std=gnu11", "-shared", "-fPIC",
    "-fno-trapping-math", "-fno-math-errno",  # lets comparisons and floor become vector instructions; no value changes
    "-ffp-contract=off",  # no fused multiply-add: it would round once where PyTorch rounds twice
)  # fmt: skip
NATIVE = ("-march=native", "-mcpu=native", "")  # the first that the compiler accepts
THREADS = ("-fopenmp", "")


def compiler():
    """The C compiler: $CC, cc, gcc or clang; None if there is none, or with $ISOSPIKE_KERNELS=off."""
    if os.environ.get("ISOSPIKE_KERNELS") == "off":
        return None
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    return next((path for name in names if (path := shutil.which(name))), None)


def cache():
    """The folder of compiled kernels: $XDG_CACHE_HOME/isospike, else ~/.cache/isospike."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isospike"


def _machine():
    """What the binary depends on besides its sources: the processor's instruction set."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        return next(line for line in text.splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor()


def build(folder, flags=FLAGS, native=NATIVE):
    """The path of the compiled kernels in `folder`, compiled now if missing; OSError if that fails."""
    sources = sorted([*HERE.glob("*.c"), *HERE.glob("*.h")])
    program = compiler()
    if program is None:
        off = os.environ.get("ISOSPIKE_KERNELS") == "off"
        raise OSError("ISOSPIKE_KERNELS=off" if off else "there is no C compiler")
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    parts = [
        *flags,
        *native,
        *THREADS,
        os.environ.get("ISOSPIKE_CFLAGS", ""),
        version,
        _machine(),
        *(source.read_text() for source in sources),
    ]
    target = folder / f"kernels-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    more = os.environ.get("ISOSPIKE_CFLAGS", "").split()
    for options in product(THREADS, native):
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".so", delete=False) as file:
            partial = Path(file.name)
        command = [program, *flags, *filter(None, options), *more, "-o", str(partial), str(HERE / "kernels.c"), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            partial.replace(target)  # atomic: the whole file or none
            return target
        partial.unlink()
    said = done.stderr.strip().splitlines() or ["nothing"]
    raise OSError(f"{Path(program).name} says: {next((line for line in said if 'error' in line), said[0])}")


@functools.cache
def library():
    """The kernels, or None with the reason in one line on stderr."""
    try:
        try:
            path = build(cache())
        except PermissionError:  # the home folder is not writable
            path = build(Path(tempfile.mkdtemp(prefix="isospike-")))
        return ctypes.CDLL(str(path))
    except OSError as error:
        print(f"isospike: kernels are not compiled ({error}); PyTorch does their work, slower", file=sys.stderr)
        return None
