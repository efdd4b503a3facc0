"""A run on disk: its folder, the state for resuming, and the lock of the process at work in it."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict
from itertools import count, takewhile
from pathlib import Path

import torch

from ..checks import InputError
from ..exports.weights import save_state, whole_file
from . import learning
from .config import NOT_PART_OF_A_RUN, default_name

STATE = ("stage", "epoch", "accuracies", "metrics", "network", "sgd", "generator", "seconds")  # what resume.pt holds


def write_json(path, value):
    """Write JSON so that the file is either the old one or the whole new one."""
    with whole_file(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n")


def folders(config):
    """The folders of runs of this name: out/NAME and, if the name was made from the settings, out/NAME-2, ..."""
    out = Path(config.out)
    yield out / config.name
    if config.name == default_name(config):
        yield from (out / f"{config.name}-{i}" for i in count(2))


def settings_of(config):
    """The part of a config that determines the result, as JSON."""
    return json.loads(json.dumps({k: v for k, v in asdict(config).items() if k not in NOT_PART_OF_A_RUN}))


def open_folder(config):
    """(folder, whether to resume) of a new run, or of the one to resume.

    No run is ever overwritten: a name made from the settings gets a number, a given name is rejected.
    """
    known, settings = list(takewhile(Path.exists, folders(config))), settings_of(config)
    if config.resume and known:
        read_state(known[-1], settings, "cpu")
        return known[-1], True
    folder = next((path for path in folders(config) if not path.exists()), None)
    if folder is None:
        advice = (
            "choose another --name" if (known[0] / "results.json").exists() else "--resume it, or choose another --name"
        )
        raise InputError(f"{known[0]} is there already: {advice}")
    try:
        folder.mkdir(parents=True)
        write_json(folder / "config.json", settings)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    return folder, False


def weights_to_start_with(config):
    """The file that `config.start` names: itself, or the weights of a run of that name in `config.out`."""
    of_run = Path(config.out) / config.start / "weights.safetensors"
    return of_run if of_run.exists() else Path(config.start)


def digest(path):
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def finished(config):
    """The results of a run that is finished, or None.

    InputError if the folder holds a run with other settings, or one that went on from other weights than are there now.
    """
    folder = Path(config.out) / config.name
    if not (folder / "results.json").exists():
        return None
    try:
        results = json.loads((folder / "results.json").read_text())
        before = results["config"]
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"{folder / 'results.json'} is damaged ({type(error).__name__}): delete {folder}") from error
    for key, value in settings_of(config).items():
        if before.get(key) != value:
            raise InputError(f"{folder} was made with {key}={before.get(key)!r}, not {value!r}: choose another --out")
    origin, weights = results.get("start"), weights_to_start_with(config)
    if origin and weights.is_file() and digest(weights) != origin["sha256"]:
        raise InputError(f"{folder} went on from other weights than are in {weights} now: choose another --out")
    return results


def _other_settings(folder, settings):
    """The first setting in which a run differs, in words; empty if none can be read."""
    try:
        before = json.loads((folder / "config.json").read_text())
        key, value = next((key, value) for key, value in settings.items() if before.get(key) != value)
    except (OSError, ValueError, AttributeError, StopIteration):
        return ""
    return f" (made with {key}={before.get(key)!r}, not {value!r})"


def read_state(folder, settings, device):
    """The state to resume from, None before the first epoch; InputError for a finished, foreign or damaged run."""
    if (folder / "results.json").exists():
        raise InputError(f"{folder} holds a finished run{_other_settings(folder, settings)}: nothing to resume")
    state = None
    try:
        before = json.loads((folder / "config.json").read_text())
        if not isinstance(before, dict):
            raise TypeError("config.json holds no settings")
        if (folder / "resume.pt").exists():
            state = torch.load(folder / "resume.pt", weights_only=True, map_location=device)
            _ = learning.STAGES.index(state["stage"]), [state[key] for key in STATE]
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{folder} cannot be resumed ({type(error).__name__}): delete it and start again") from error
    for key, value in settings.items():
        if before.get(key) != value:
            raise InputError(
                f"{folder} was started with {key}={before.get(key)!r}, not {value!r}: choose another --name"
            )
    return state


def save_checkpoint(folder, path):
    """Write the weights of a run's last whole epoch as a file to start from; InputError where there are none."""
    try:
        state = torch.load(folder / "resume.pt", weights_only=True, map_location="cpu")
        weights, kinds = state["network"], state["activations"]
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{folder} holds no readable checkpoint ({type(error).__name__})") from error
    save_state(weights, kinds, path)


def lock(folder):
    """Lock a folder while this process holds the returned object; InputError if another process has the lock."""
    file = (folder / "config.json").open()
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # no such locks on this system
        pass
    except OSError as error:
        file.close()
        raise InputError(f"another run is at work in {folder}: wait for it, or choose another --name") from error
    return file


def environment(device):
    """Commit, device and versions, without which results mean nothing."""
    here = Path(__file__).parent
    describe = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    git = (
        subprocess.run(describe, cwd=here, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    )
    name = torch.cuda.get_device_name(device) if str(device).startswith("cuda") else platform.machine()
    return {
        "commit": git or None,
        "device": f"{device} ({name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads)",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
