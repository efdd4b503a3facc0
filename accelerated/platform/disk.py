"""Room on the disk: a reserve that nothing new may use, a limit for each user, and ballast to throw overboard."""

import os
import shutil

from .refusals import Refused

MIB = 2**20
RESERVE = 256 * MIB  # what must be free before anything new is taken
BALLAST = 4 * MIB  # kept in a file: without room not even a deletion can be written down


def size(folder):
    """Bytes in a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total


def room(options, folders, more=0):
    """Refused where `more` bytes would leave too little on the disk, or take a user's `folders` over the limit."""
    if shutil.disk_usage(options.home).free < RESERVE + more:
        raise Refused("The disk is full: nothing was changed. Delete records that are no longer needed.", status=507)
    if sum(map(size, folders)) + more > options.quota * MIB:
        raise Refused("Your records fill the room that you have here: delete some first.", status=507)


def ballast(options):
    """Make the ballast where there is room for it."""
    path = options.home / "ballast"
    if not path.exists() and shutil.disk_usage(options.home).free > 2 * RESERVE:
        path.write_bytes(os.urandom(BALLAST))  # nothing that a file system would shrink


def overboard(options):
    """Give the ballast's room to what has to be written now; True if there was some."""
    try:
        (options.home / "ballast").unlink()
    except OSError:
        return False
    return True
