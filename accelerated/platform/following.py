"""A record's log and state as they grow, as server-sent events; the id of an event is the byte of the log after it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from . import outcomes
from .database import Unreachable

PAUSE = 0.5  # seconds between two looks
ALIVE = 15.0  # seconds without an event after which a comment keeps the connection open
READERS = 100  # streams that one user may have open
CHUNK = 64 * 1024  # bytes of a log in one event
STATE_EVERY = 2  # looks at the file for each look at the table


def read_lines(path: Path, offset: int) -> tuple[list[str], int]:
    """(whole lines from a byte on, the byte after them); a line that is longer than a chunk comes in pieces."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            piece = file.read(CHUNK)
    except OSError:
        return [], offset
    end = piece.rfind(b"\n") + 1 or (len(piece) if len(piece) == CHUNK else 0)
    return piece[:end].decode(errors="replace").splitlines(), offset + end


def remainder(path: Path, offset: int) -> tuple[list[str], int]:
    """What follows the last whole line of a log that will not grow any more, and the byte after it."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            rest = file.read(CHUNK)
    except OSError:
        return [], offset
    return rest.decode(errors="replace").splitlines(), offset + len(rest)


class Simulation:
    """The progress of each kind of simulation; a look reads only what was added since the last one."""

    KEYS = ("schedule", "calibration", "operators", "images", "of", "accuracy")

    def __init__(self, folder: Path):
        self.path = folder / "run" / "simulation.jsonl"
        self.offset = 0
        self.latest: dict = {}

    def read(self) -> list[dict]:
        """[{schedule, ..., images, of, accuracy by T}], the latest of each kind."""
        while True:
            texts, after = read_lines(self.path, self.offset)
            if after == self.offset:
                return list(self.latest.values())
            self.offset = after
            for line in outcomes.lines("\n".join(texts), self.KEYS):
                self.latest[line["schedule"], line["calibration"], line["operators"]] = line


def event(name: str, data: Any, number: int | None = None) -> str:
    """One event in the format of the stream."""
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n"


async def limited(readers: Counter, user: int, stream: AsyncIterator[str]) -> AsyncIterator[str]:
    """A stream of events, unless the user has too many open; `readers` counts them."""
    if readers[user] >= READERS:
        yield "retry: 30000\n\n"
        return
    readers[user] += 1
    try:
        async for piece in stream:
            yield piece
    finally:
        readers[user] -= 1


async def _look(state_of, known):
    """(state, whether the record exists); the known state while the database does not answer: the log goes on."""
    try:
        state = await run_in_threadpool(state_of)
    except Unreachable:
        return known, True
    return state, state is not None


async def _read(log, offset, complete):
    """(the next lines of a log, the byte after them); of a complete log also a last line without an end."""
    lines, after = await run_in_threadpool(read_lines, log, offset)
    if not lines and complete:
        return await run_in_threadpool(remainder, log, offset)
    return lines, after


async def follow(
    state_of: Callable[[], dict | None], folder: Path, offset: int, gone: Callable[[], Awaitable[bool]]
) -> AsyncIterator[str]:
    """Events of a record: log (lines), state, accuracy; `end` once it has ended and everything was sent.

    `state_of()` gives the row as pages show it, None once it is deleted. `gone()` says whether the reader has left.
    """
    log = folder / "log.txt"
    simulation = Simulation(folder)
    state = sent_state = sent_accuracy = None
    quiet = 0.0  # seconds since the last event
    yield "retry: 1000\n\n"
    for look in count():
        if await gone():
            return
        if look % STATE_EVERY == 0:
            state, exists = await _look(state_of, state)
            if not exists:
                yield event("end", {"state": "deleted"})
                return
        ended = state["state"] if state is not None and state["ended"] is not None else None
        while (piece := await _read(log, offset, complete=bool(ended)))[1] > offset:
            lines, offset = piece
            quiet = 0.0
            yield event("log", lines, offset)
        accuracy = await run_in_threadpool(simulation.read)
        if accuracy and accuracy != sent_accuracy:
            sent_accuracy = accuracy
            quiet = 0.0
            yield event("accuracy", accuracy)
        if state != sent_state:
            sent_state = state
            quiet = 0.0
            yield event("state", state)
        if ended:
            yield event("end", {"state": ended})
            return
        quiet += PAUSE
        if quiet >= ALIVE:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(PAUSE)
