"""A record's log and state as they grow, as server-sent events; the id of an event says where to go on."""

import asyncio
import json

from starlette.concurrency import run_in_threadpool

from . import outcomes
from .database import Unreachable

PAUSE, ALIVE = 0.5, 15.0  # seconds between two looks; and between two signs of life
READERS = 100  # streams that one user may have open
CHUNK = 64 * 1024  # bytes of a log in one event
STATE_EVERY = 2  # looks at the file for each look at the table


def read_lines(path, offset):
    """(whole lines from a byte on, the byte after them); a line that is longer than a chunk comes in pieces."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            piece = file.read(CHUNK)
    except OSError:
        return [], offset
    end = piece.rfind(b"\n") + 1 or (len(piece) if len(piece) == CHUNK else 0)
    return piece[:end].decode(errors="replace").splitlines(), offset + end


def remainder(path, offset):
    """What is left after the last whole line of a log that will not grow any more."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            rest = file.read(CHUNK)
    except OSError:
        return [], offset
    return rest.decode(errors="replace").splitlines(), offset + len(rest)


class Simulation:
    """How far each kind of simulation has come, read on from where it was read last."""

    KEYS = ("schedule", "calibration", "operators", "images", "of", "accuracy")

    def __init__(self, folder):
        self.path, self.offset, self.latest = folder / "run" / "simulation.jsonl", 0, {}

    def read(self):
        """[{schedule, ..., images, of, accuracy by T}], the latest of each kind."""
        while True:
            texts, after = read_lines(self.path, self.offset)
            if after == self.offset:
                return list(self.latest.values())
            self.offset = after
            for line in outcomes.lines("\n".join(texts), self.KEYS):
                self.latest[line["schedule"], line["calibration"], line["operators"]] = line


def event(name, data, number=None):
    """One event on the wire."""
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n"


async def limited(readers, user, stream):
    """A stream of events, while this user has not too many open; `readers` counts them."""
    if readers[user] >= READERS:
        yield "retry: 30000\n\n"
        return
    readers[user] += 1
    try:
        async for piece in stream:
            yield piece
    finally:
        readers[user] -= 1


async def follow(state_of, folder, offset, gone):
    """Events of a record: log (lines), state, accuracy; `end` once it has ended and all was told.

    `state_of()` gives the row as people see it, or None if it is no more. `gone()` says whether the reader has left.
    """
    log, told, seen, quiet, looks = folder / "log.txt", None, None, 0.0, 0
    simulation = Simulation(folder)
    yield "retry: 1000\n\n"
    while not await gone():
        state = told
        if looks % STATE_EVERY == 0:
            try:
                state = await run_in_threadpool(state_of)
            except Unreachable:
                state = told  # the database is away for a moment; the log goes on
            else:
                if state is None:
                    yield event("end", {"state": "deleted"})
                    return
        looks += 1
        ended = state["state"] if state is not None and state["ended"] is not None else None
        more = True
        while more:
            lines, after = await run_in_threadpool(read_lines, log, offset)
            if not lines and ended:
                lines, after = await run_in_threadpool(remainder, log, offset)
            more = after > offset
            if more:
                offset, quiet = after, 0.0
                yield event("log", lines, offset)
        now = await run_in_threadpool(simulation.read)
        if now != seen and now:
            seen, quiet = now, 0.0
            yield event("accuracy", now)
        if state != told:
            told, quiet = state, 0.0
            yield event("state", state)
        if ended:
            yield event("end", {"state": ended})
            return
        quiet += PAUSE
        if quiet >= ALIVE:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(PAUSE)
