"""The parent's side of `sandboxed.py`: an `Implementation` whose functions run in a submission's own process."""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from .implementations import CONTRACT, OPTIONAL, Implementation, Missing
from .sandboxed import pack, unpack

CALL, WAIT, CPU, MEMORY = 10.0, 180.0, 120, 2 * 2**30  # seconds for a call, waited in all, computed in all; bytes
LINE, MESSAGE = 20, 16 * 2**20  # bytes that announce a message, and of a message


class Lost(Exception):
    """The submission's process is gone, or broke a rule; the message says how."""


class Refused(ValueError):
    """A ValueError that the submission raised."""


class Failed(Exception):
    """Any other exception that the submission raised."""


class Kept:
    """Stands for an object that the submission keeps on its side."""

    def __init__(self, number):
        self.number = number


def _limits():
    import resource

    os.setsid()
    with contextlib.suppress(OSError, AttributeError):  # Linux: it dies with the judge
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def plain(text):
    """Text from a submission as one line of at most 300 printable ASCII characters."""
    line = " ".join(str(text)[:1000].split()).encode("ascii", "backslashreplace").decode()
    return "".join(c if c.isprintable() else "?" for c in line)[:300]


RECORD = frozenset({"logits", "counts", "latency", "spikes_per_neuron", "settled", "units_that_differ",
                    "units_that_differ_last", "nonzero_share"})  # fmt: skip
DEPTH, ITEMS = 8, 10_000  # limits of an answer


def _record(fields, is_tuple):
    """Named fields of an answer: only those of a simulation, since others might have a meaning for Python or NumPy."""
    if is_tuple:
        return tuple(fields.values())
    return SimpleNamespace(**{name: value for name, value in fields.items() if name in RECORD})


def _small(message):
    """Whether a message nests at most DEPTH collections, and holds at most ITEMS things."""
    level, items = [message], 0
    for _ in range(3 * DEPTH):  # each collection is up to three of JSON's
        inside = [v for v in level if isinstance(v, (list, dict))]
        level = [part for v in inside for part in (v.values() if isinstance(v, dict) else v)]
        items += len(level)
        if items > ITEMS:
            return False
        if not level:
            return True
    return False


class Sandbox(Implementation):
    """A submission in a process of its own: no folder, limits on time and memory, nothing but arrays on a pipe."""

    def __init__(self, path, call=CALL):
        self.name, self.torch, self.exact = f"student_{Path(path).stem}", False, False
        self.formats, self.call_limit, self.lost = ("float16", "float32", "float64"), call, None
        down, up = os.pipe(), os.pipe()
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("sandboxed.py")), str(Path(path).resolve()),
                   str(Path(np.__file__).parent.parent), str(down[0]), str(up[1])]  # fmt: skip
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        self.process = subprocess.Popen(
            command, cwd="/", pass_fds=(down[0], up[1]), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=dict.fromkeys(threads, "1"), preexec_fn=_limits,
        )  # fmt: skip
        os.close(down[0]), os.close(up[1])
        os.set_blocking(down[1], False)
        self.down, self.up, self.buffer = down[1], up[0], b""
        self.defined, self.unwritten, self.notes = set(), set(), {}
        self.confined, self.left, self.closed = False, WAIT, False
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self):
        with contextlib.suppress(Lost):  # every statement will say so
            try:
                self.confined = self._next()["confined"]  # said before the file's first line runs
                said = self._next()
                self.defined, self.unwritten = set(said["names"]), set(said["unwritten"])
            except (KeyError, TypeError):
                self._lose("it spoke before it was asked")

    def _lose(self, reason):
        self.lost = self.lost or reason
        self.close()
        raise Lost(self.lost)

    def _wait(self, until, reading=(), writing=()):
        """Wait until a pipe is ready; `Lost` if it takes too long."""
        left = until - time.monotonic()
        if left <= 0 or not any(select.select(reading, writing, (), left)):
            self._lose("its answers took too long in all" if self.left < self.call_limit else
                       f"a call took longer than {self.call_limit:g} s")  # fmt: skip

    def _read(self, count, until):
        """The next `count` bytes, or up to a newline where count is None."""
        while (len(self.buffer) < count) if count is not None else (b"\n" not in self.buffer[:LINE]):
            if count is None and len(self.buffer) > LINE:
                self._lose("it wrote to the pipe itself")
            self._wait(until, reading=[self.up])
            data = os.read(self.up, 1 << 16)
            if not data:
                self._lose(self._end())
            self.buffer += data
        end = self.buffer.index(b"\n") + 1 if count is None else count
        part, self.buffer = self.buffer[:end], self.buffer[end:]
        return part

    def _end(self):
        """Why no more messages come."""
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:
            return "it closed the pipe"
        how = {signal.SIGKILL: "it was killed (memory or time)", signal.SIGXCPU: "it used too much time",
               signal.SIGSYS: "it made a system call that is not allowed"}  # fmt: skip
        return how.get(-code, f"its process ended (exit code {code})")

    def _write(self, data, until):
        """Write all of `data`; `Lost` if the submission does not read."""
        with contextlib.suppress(BrokenPipeError):  # it is gone; reading says how
            while data:
                self._wait(until, writing=[self.down])
                data = data[os.write(self.down, data) :]

    def _next(self):
        start = time.monotonic()
        until = start + min(self.call_limit, self.left)
        try:
            size = int(self._read(None, until))
            if not 0 <= size <= MESSAGE:
                self._lose(f"it sent a message of {size} bytes, at most {MESSAGE} are allowed")
            message = json.loads(self._read(size, until))
        except (ValueError, RecursionError):
            self._lose("it wrote to the pipe itself")
        self.left -= time.monotonic() - start
        if not isinstance(message, dict):
            self._lose("it wrote to the pipe itself")
        if not _small(message):
            self._lose(f"it sent an answer of more than {ITEMS} parts, or {DEPTH} deep")
        if "broke" in message:
            self._lose(plain(message["broke"]))
        return message

    def has(self, name):
        return name in self.defined

    def native(self, name):
        """The submission's function; it takes and gives arrays, and objects that it keeps."""
        if self.lost:
            raise Lost(self.lost)
        if name not in self.defined:
            raise Missing(name)
        if name in self.unwritten:
            raise Missing(f"{name} (not written yet)")
        return lambda *args, **kwargs: self.by_value(name, args, self._ask(name, args, kwargs))

    def _ask(self, name, args, kwargs):
        if self.lost:
            raise Lost(self.lost)
        request = {"name": name, "arguments": [self._pack(a) for a in args],
                   "named": {key: self._pack(value) for key, value in kwargs.items()}}  # fmt: skip
        data = json.dumps(request).encode()
        start = time.monotonic()
        self._write(memoryview(b"%d\n" % len(data) + data), start + min(self.call_limit, self.left))
        self.left -= time.monotonic() - start
        message = self._next()
        if "error" in message:
            try:
                refused, kind, text = message["error"]
            except (TypeError, ValueError):
                self._lose("it wrote to the pipe itself")
            raise (Refused if refused else Failed)(f"{name} raised {plain(kind)}: {plain(text)}")
        try:
            return unpack(message["answer"], np, Kept, _record)
        except Exception:
            self._lose("it sent something that is no array")

    def _pack(self, value):
        if isinstance(value, Kept):
            return {"kept": value.number}
        if type(value) in (list, tuple):
            return {type(value).__name__: [self._pack(v) for v in value]}
        return pack(value, np)

    def decode(self, value):
        return value

    def close(self):
        """End the process and whatever it started."""
        if self.closed:
            return
        self.closed = True
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for fd in (self.down, self.up):
            with contextlib.suppress(OSError):
                os.close(fd)

    def __getattr__(self, name):
        if name in (*CONTRACT, *OPTIONAL):
            return self.native(name)
        raise AttributeError(name)
