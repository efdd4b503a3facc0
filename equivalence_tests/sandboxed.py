"""A submission's own process: it turns inputs into arrays, over a pipe, and does nothing else.

Started as `python -I -S sandboxed.py FILE NUMPY READ WRITE` by `sandbox.py`, which also imports `pack` and `unpack`.
Two mechanisms confine it. With libseccomp (Linux), the kernel refuses every system call except those that computing
needs (`CALLS`), before the file's first line runs: whatever the file does to its interpreter, it has no files,
processes or network. In addition, and alone on other systems, an audit hook ends the process at the first attempt with
a sentence on what was tried. docs/teachers.md says what is not prevented.
"""

import base64
import json
import os
import sys

OFFERED = (  # what a file may import; loaded beforehand, for afterwards nothing can be opened
    "__future__", "abc", "argparse", "array", "bisect", "cmath", "collections.abc", "contextlib", "copy", "dataclasses",
    "datetime", "decimal", "enum", "fractions", "functools", "heapq", "inspect", "io", "itertools", "json",
    "logging", "math", "numbers", "numpy", "numpy.fft", "numpy.lib.stride_tricks", "numpy.linalg", "numpy.polynomial",
    "numpy.random", "numpy.typing", "operator", "os", "pathlib", "pprint", "random", "re", "statistics",
    "string", "sys", "textwrap", "time", "traceback", "types", "typing", "warnings",
)  # fmt: skip
UNLOADED = frozenset({  # what these bring along
    "ctypes", "_ctypes", "socket", "_socket", "ssl", "subprocess", "_posixsubprocess", "multiprocessing",
    "_multiprocessing", "mmap", "faulthandler", "resource", "select", "selectors", "concurrent", "asyncio", "site",
    "runpy",
})  # fmt: skip
LATE = ("encodings.", "numpy.")  # imports that these may still try of their own
DENIED = (  # events of Python's audit hooks, by how they begin; opening and importing are looked at one by one
    "os.", "_thread.", "socket.", "subprocess.", "ctypes.", "gc.", "mmap.", "signal.", "fcntl.", "resource.", "shutil.",
    "tempfile.", "pty.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "sqlite3.", "pickle.",
    "sys.addaudithook", "sys.settrace", "sys.setprofile", "cpython.", "code.__new__", "glob.", "pathlib.",
)  # fmt: skip
HARMLESS = ("os.listdir", "os.scandir")  # what `import` does
CALLS = (  # of the system: memory, time, the two pipes, the end
    "read", "write", "readv", "writev", "close", "fstat", "lseek", "brk", "mmap", "munmap", "mremap",
    "mprotect", "madvise", "futex", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "clock_gettime",
    "clock_getres", "gettimeofday", "time", "getrandom", "getpid", "gettid", "sched_yield", "sched_getaffinity",
    "restart_syscall", "exit", "exit_group",
)  # fmt: skip
HOSTILE = (  # these end the process; what is in neither list is refused
    "fork", "vfork", "clone", "clone3", "execve", "execveat", "kill", "tkill", "tgkill", "pidfd_open", "ptrace",
    "process_vm_readv", "process_vm_writev", "socket", "connect", "mount", "unshare", "setns", "bpf", "io_uring_setup",
)  # fmt: skip
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


def confine():
    """Have the kernel refuse all but CALLS from now on, for good; whether it does (Linux with libseccomp)."""
    import ctypes

    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return False
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint,
                                               ctypes.c_void_p]  # fmt: skip
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    refuse, allow, end = 0x00050000 | 1, 0x7FFF0000, 0x80000000  # SCMP_ACT_ERRNO(EPERM), _ALLOW, _KILL_PROCESS
    rules = library.seccomp_init(refuse)
    for action, names in ((allow, CALLS), (end, HOSTILE)):
        for name in names:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number >= 0:  # below: this architecture has no such call
                library.seccomp_rule_add_array(rules, action, number, 0, None)
    return library.seccomp_load(rules) == 0


def read(path):
    """The source of a file as text, as Python would read it: with a byte order mark, or in the encoding it declares.

    `Unreadable` says what is wrong, and where.
    """
    import io
    import tokenize

    with open(path, "rb") as file:
        data = file.read()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        what = f"line {line}, column {column}: byte 0x{data[error.start]:02x} is not {error.encoding}"
        advice = "save the file as UTF-8, or declare its encoding in the first line (# coding: latin-1)"
        raise Unreadable(f"{what}; {advice}") from None
    except (SyntaxError, LookupError, ValueError) as error:
        raise Unreadable(f"its encoding is not understood: {error}; save the file as UTF-8") from None
    return text


class Unreadable(Exception):
    """A file that is no Python; the message says where, and what is wrong."""


def compiled(path):
    """(The code of a file, the names of its empty functions); nothing of it runs. `Unreadable` if it is no Python."""
    import ast

    source = read(path)
    try:
        tree = ast.parse(source, "submission.py")
        return compile(tree, "submission.py", "exec", dont_inherit=True), unwritten(tree)
    except SyntaxError as error:
        shown = " ".join((error.text or "").split())[:60]
        where = f"line {error.lineno}, column {error.offset}: " if error.lineno else ""
        what = f"{where}{type(error).__name__}: {error.msg}"
        raise Unreadable(what + (f", at {shown!r}" if shown else "")) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise Unreadable(f"it is no Python: {error or type(error).__name__}") from None


def unwritten(tree):
    """Names of a file's functions that have no body but a docstring, `pass` or `...`."""
    import ast

    functions = {node.name: node.body for node in tree.body if isinstance(node, ast.FunctionDef)}

    def nothing(line):
        return isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))

    return frozenset(name for name, body in functions.items() if all(map(nothing, body)))


def place(error):
    """Where in the submission an exception came from: "line 3, column 5: ", or nothing."""
    found, step = "", error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if code.co_filename == "submission.py":
            column = list(code.co_positions())[step.tb_lasti // 2][2]
            found = f"line {step.tb_lineno}" + (f", column {column + 1}: " if column is not None else ": ")
        step = step.tb_next
    return found


def guard(allowed, tell, leave):
    """Watch from now on; the hook cannot be taken away again."""
    denied, harmless, late, kind, text, data, number = DENIED, HARMLESS, LATE, type, str, bytes, int
    frame_of = sys._getframe
    begins, part = str.startswith, str.split
    changes = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_CREAT | os.O_APPEND

    def hook(event, args):  # of what can be patched it uses nothing
        if event == "open":
            path, _, flags = args
            if kind(path) is number:
                return
            path = data.decode(path, "utf-8", "replace") if kind(path) is data else path
            plain_path = kind(path) is text and ".." not in part(path, "/")
            if plain_path and kind(flags) is number and not flags & changes and begins(path, allowed):
                return
            reason = "it opened " + (path if kind(path) is text else "something that is no path")
        elif event == "import":
            if kind(args[0]) is text and begins(args[0], late):
                return
            frame = frame_of(1)
            while frame is not None and frame.f_code.co_filename != "submission.py":
                frame = frame.f_back
            where = f"line {frame.f_lineno}: " if frame is not None else ""
            reason = f"{where}it imported {args[0]}, which is not offered"
        elif begins(event, denied) and event not in harmless:
            reason = f"it called {event}"
        else:
            return
        tell(reason)
        leave(77)

    sys.addaudithook(hook)


def prepare(path, where):
    """(code or Unreadable, whether the kernel helps, folders that may be read): load what is offered, lock the door."""
    import importlib
    import linecache
    import warnings

    sys.path.insert(0, where)
    for name in OFFERED:
        importlib.import_module(name)
    numpy = sys.modules["numpy"]
    numpy.__all__ = [name for name in numpy.__all__ if name in vars(numpy)]  # the rest would be loaded only now
    sys.path.remove(where)
    try:
        code = compiled(path)
    except Unreadable as error:
        code = error
    linecache.updatecache = lambda *_: []  # warnings and tracebacks would read source files
    warnings.showwarning = lambda *_, **__: None
    confined = confine()
    for name in [name for name in sys.modules if name.partition(".")[0] in UNLOADED]:
        del sys.modules[name]
    sys.argv[:] = ["submission.py"]
    return code, confined, tuple(os.path.dirname(module.__file__) + os.sep for module in (os, numpy))


def main():
    path, where, read, write = sys.argv[1:]
    requests, answers = os.fdopen(int(read), "rb"), os.fdopen(int(write), "wb")
    code, confined, readable = prepare(path, where)
    import numpy

    send(answers, {"confined": confined})
    if isinstance(code, Unreadable):
        send(answers, {"broke": f"it is not readable as Python: {code}"})
        return
    guard(readable, lambda reason: send(answers, {"broke": reason}), os._exit)
    namespace = {"__name__": "submission"}
    try:
        exec(code[0], namespace)
    except BaseException as error:
        send(answers, {"broke": f"it cannot be imported: {place(error)}{type(error).__name__}: {error}"})
        return
    names = sorted(name for name, value in namespace.items() if callable(value))
    send(answers, {"names": names, "unwritten": sorted(code[1])})
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
