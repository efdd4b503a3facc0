"""A finished network to take away: as C, NIR, ONNX or a folder for Python, by the command that anyone can type."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

from .jobs import environment
from .refusals import NotHere, Refused

KINDS = {  # what it is called, its arguments
    "folder": ("A folder for Python", ["folder"]),
    "c": ("C", ["c"]),
    "onnx": ("ONNX", ["onnx", "--form", "pass"]),
    "nir": ("NIR", ["nir"]),
}
PATIENCE = 60.0  # seconds that others wait
LONGEST = 600  # seconds
LOAD = """import accelerated as acc

network = acc.load("{folder}")
spiking = acc.simulate(acc.convert(network, "halving"), network.images)
print((spiking.logits[-1].argmax(1) == network.labels).float().mean())
"""
_turn = threading.BoundedSemaphore(1)


def archive(home: Path, folder: Path, kind: str, name: str) -> Path:
    """The zip file of a record's network in one of the `KINDS`, made when first asked for; Refused without one.

    It is made in `home`, beside the records: one that is deleted meanwhile is not brought back.
    """
    path = folder / "exports" / f"{kind}.zip"
    if path.is_file():
        return path
    if not _turn.acquire(timeout=PATIENCE):
        raise Refused("Another network is being written: try again in a moment.", status=429)
    part = home / f"take-{name}.part"
    try:
        shutil.rmtree(part, ignore_errors=True)  # left by a server that died
        (part / name).mkdir(parents=True)
        _write(folder, KINDS[kind][1], part / name)
        made = shutil.make_archive(str(part / "all"), "zip", part, name)
        path.parent.mkdir(exist_ok=True)
        Path(made).replace(path)
    except FileNotFoundError:
        raise NotHere from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
        _turn.release()
    return path


def _write(folder, arguments, out):
    """Run the export; its one line of an error is the user's."""
    target = out / "network.onnx" if arguments[0] == "onnx" else out
    command = [sys.executable, "-m", "accelerated.run", "export", arguments[0], "run", *arguments[1:], "--out", target]
    try:
        done = subprocess.run(list(map(str, command)), cwd=folder, env=environment(), capture_output=True, text=True,
                              timeout=LONGEST)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Refused("Writing it takes too long here.", status=503) from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1].removeprefix("error: ")
        raise Refused("This network cannot be written in that form.", status=409, detail=said)
