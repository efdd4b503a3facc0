"""A submission's own process: it turns inputs into arrays, over a pipe, and does nothing else.

Started as `python -I -S sandboxed.py FILE NUMPY READ WRITE` by `sandbox.py`, which also imports `pack` and `unpack`.
The parent takes nothing but arrays from it, and judges these. An audit hook
ends the process, with a sentence, at the first attempt to open a file, import a module, start a process or touch
the network where that is not allowed. What this does not prevent is in docs/teachers.md.
"""

import base64
import json
import os
import sys

DENIED = (  # events of Python's audit hooks, by how they begin; reading and importing are looked at one by one
    "os.", "socket.", "subprocess.", "ctypes.", "gc.", "mmap.", "signal.", "fcntl.", "resource.", "shutil.",
    "tempfile.",
    "pty.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "sqlite3.", "pickle.", "sys.addaudithook",
    "sys.settrace", "sys.setprofile", "cpython.", "code.__new__", "glob.", "pathlib.",
)  # fmt: skip
HARMLESS = ("os.listdir", "os.scandir")  # what `import` does
FORBIDDEN = frozenset({
    "reference", "accelerated", "equivalence_tests", "pytest", "_pytest", "hypothesis", "torch", "z3", "ctypes",
    "_ctypes", "socket", "_socket", "ssl", "subprocess", "_posixsubprocess", "multiprocessing", "_multiprocessing",
    "mmap", "cffi", "gc", "faulthandler", "resource", "signal", "_xxsubinterpreters", "_interpreters", "_testcapi",
    "_testinternalcapi", "concurrent", "asyncio", "threading", "_thread", "site", "importlib", "runpy", "pickle",
    "_pickle",
})  # fmt: skip
KEPT = frozenset({"threading", "_thread", "importlib", "signal", "gc", "pickle", "_pickle"})  # numpy holds on to these
KINDS = "biuf"  # of arrays that may travel: truth values, integers, floats


def pack(value, numpy, keep=None):
    """A value as JSON can carry it; what is no array, number, text or a collection of these is kept, and named."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (numpy.ndarray, numpy.generic)):
        array = numpy.asarray(value)
        if array.dtype.kind in KINDS:
            data = base64.b64encode(numpy.ascontiguousarray(array).tobytes()).decode()
            return {"array": [array.dtype.str, list(array.shape), data]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [pack(v, numpy, keep) for v in value]}
    if type(value) is dict:
        pairs = [[pack(k, numpy, keep), pack(v, numpy, keep)] for k, v in value.items()]
        return {"dict": pairs}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"fields": {name: pack(getattr(value, name), numpy, keep) for name in value._fields}, "tuple": True}
    if hasattr(type(value), "__dataclass_fields__"):
        names = type(value).__dataclass_fields__
        return {"fields": {name: pack(getattr(value, name), numpy, keep) for name in names}}
    if keep is None:
        raise TypeError(f"a {type(value).__name__} cannot be sent")
    keep.append(value)
    return {"kept": len(keep) - 1}


def unpack(value, numpy, kept, record):
    """The value again; `kept(n)` is what stands for a kept one, `record(fields, is_tuple)` for named fields."""
    if not isinstance(value, dict):
        return value
    if "array" in value:
        kind, shape, data = value["array"]
        if numpy.dtype(kind).kind not in KINDS:
            raise ValueError(f"arrays of kind {kind!r} do not travel")
        return numpy.frombuffer(bytearray(base64.b64decode(data)), dtype=kind).reshape(shape)
    if "fields" in value:
        fields = {name: unpack(v, numpy, kept, record) for name, v in value["fields"].items()}
        return record(fields, bool(value.get("tuple")))
    if "kept" in value:
        return kept(value["kept"])
    if "dict" in value:
        return {unpack(k, numpy, kept, record): unpack(v, numpy, kept, record) for k, v in value["dict"]}
    ((kind, items),) = value.items()
    return {"list": list, "tuple": tuple}[kind](unpack(v, numpy, kept, record) for v in items)


def send(file, message):
    """One message: its length on a line, then as many bytes."""
    data = json.dumps(message).encode()
    file.write(b"%d\n" % len(data) + data)
    file.flush()


def receive(file):
    """The next message, or None at the end."""
    line = file.readline(20)
    if not line:
        return None
    return json.loads(file.read(int(line)))


def guard(allowed, tell, leave):
    """Watch from now on; the hook cannot be taken away again."""
    denied, harmless, forbidden, kind, text, data, number = DENIED, HARMLESS, FORBIDDEN, type, str, bytes, int
    begins, part, here = str.startswith, str.split, os.getcwd() + os.sep
    changes = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_CREAT | os.O_APPEND

    def hook(event, args):  # of what can be patched it uses nothing
        if event == "open":
            path, _, flags = args
            if kind(path) is number:
                return
            path = data.decode(path, "utf-8", "replace") if kind(path) is data else path
            plain_path = kind(path) is text and ".." not in part(path, "/")
            if plain_path and not begins(path, "/"):
                path = here + path
            if plain_path and kind(flags) is number and not flags & changes and begins(path, allowed):
                return
            reason = "it opened " + (path if kind(path) is text else "something that is no path")
        elif event == "import":
            if kind(args[0]) is text and not forbidden.intersection(part(args[0], ".")):
                return
            reason = f"it imported {args[0]}"
        elif begins(event, denied) and event not in harmless:
            reason = f"it called {event}"
        else:
            return
        tell(reason)
        leave(77)

    sys.addaudithook(hook)


def main():
    path, where, read, write = sys.argv[1:]
    requests, answers = os.fdopen(int(read), "rb"), os.fdopen(int(write), "wb")
    sys.path.insert(0, where)
    import linecache  # noqa: F401  what tracebacks and numpy need later is loaded now
    import traceback  # noqa: F401

    import numpy

    sys.path.remove(where)
    with open(path, encoding="utf-8") as file:
        source = file.read()
    for name in [name for name in sys.modules if name.partition(".")[0] in FORBIDDEN - KEPT]:
        del sys.modules[name]
    sys.argv[:] = ["submission.py"]
    readable = (os.path.dirname(os.__file__), os.path.dirname(numpy.__file__), os.getcwd())
    guard(tuple(p + os.sep for p in readable), lambda reason: send(answers, {"broke": reason}), os._exit)
    namespace = {"__name__": "submission"}
    try:
        exec(compile(source, "submission.py", "exec"), namespace)
    except BaseException as error:
        send(answers, {"broke": f"it cannot be imported: {type(error).__name__}: {error}"})
        return
    send(answers, {"names": sorted(name for name, value in namespace.items() if callable(value))})
    keep = []
    while (message := receive(requests)) is not None:
        try:
            arguments = [unpack(a, numpy, keep.__getitem__, lambda fields, _: fields) for a in message["arguments"]]
            named = {k: unpack(v, numpy, keep.__getitem__, None) for k, v in message["named"].items()}
            answer = {"answer": pack(namespace[message["name"]](*arguments, **named), numpy, keep)}
        except Exception as error:
            answer = {"error": [isinstance(error, ValueError), type(error).__name__, str(error)[:500]]}
        send(answers, answer)


if __name__ == "__main__":
    main()
