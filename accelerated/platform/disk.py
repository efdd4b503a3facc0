"""Disk space: a part that stays free, a limit for each user, and a reserve file to delete when the disk is full."""

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from .options import PlatformOptions
from .refusals import Refused

MIB = 2**20
LEAST_FREE = 256 * MIB  # what must stay free when something new is stored
RESERVE = 4 * MIB  # size of the reserve file: on a full disk not even a deletion can be written to the database


def size(folder: Path) -> int:
    """Bytes in a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total


def set_aside(options: PlatformOptions, folder: Path) -> None:
    """Make way where a folder is to be made: one that is there and holds something goes to leftovers/, never away."""
    if not folder.exists():
        return
    try:
        folder.rmdir()
    except OSError:
        place = options.home / "leftovers"
        place.mkdir(exist_ok=True)
        folder.rename(place / f"{folder.name}-{time.time_ns()}")


def room(options: PlatformOptions, folders: Iterable[Path], more: int = 0, quota: int | None = None) -> None:
    """Refused where `more` bytes would leave too little on the disk, or take a user's `folders` over the limit.

    That is `quota` in MiB, where a user has one of his own.
    """
    if shutil.disk_usage(options.home).free < LEAST_FREE + more:
        raise Refused("The disk is full: nothing was changed. Delete records that are no longer needed.", status=507)
    if sum(map(size, folders)) + more > (options.quota if quota is None else quota) * MIB:
        raise Refused("Your records take up all the space that you may use: delete some first.", status=507)


def _reserve_file(options: PlatformOptions) -> Path:
    return options.home / "reserve"


def make_reserve(options: PlatformOptions) -> None:
    """Write the reserve file where there is room for it."""
    path = _reserve_file(options)
    if not path.exists() and shutil.disk_usage(options.home).free > 2 * LEAST_FREE:
        path.write_bytes(os.urandom(RESERVE))  # random bytes, which no file system can compress


def free_reserve(options: PlatformOptions) -> bool:
    """Delete the reserve file, so that its space can be used; False if there is none."""
    try:
        _reserve_file(options).unlink()
    except OSError:
        return False
    return True
