"""The HTTP server: it does not wait for ever for a request to be complete."""

import asyncio
import os

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from .options import PlatformOptions

HEADERS = 20.0  # seconds that the head of a request may take


class Impatient(H11Protocol):
    """Closes a connection on which no request is complete in time; those without any are closed after five seconds."""

    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection: a request must follow."""
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        """Some bytes: the time begins with the first ones of a request, and ends with its head."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._end()
        elif self.late is None:
            self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits any more."""
        self._end()
        super().connection_lost(exc)

    def _begin(self):
        self.late = self.loop.call_later(HEADERS, self.transport.close)

    def _end(self):
        if self.late is not None:
            self.late.cancel()
            self.late = None


def server(options: PlatformOptions, app: FastAPI) -> uvicorn.Server:
    """The server of the application. It believes X-Forwarded-* headers only where FORWARDED_ALLOW_IPS names proxies."""
    behind = bool(os.environ.get("FORWARDED_ALLOW_IPS"))
    config = uvicorn.Config(app, options.host, options.port, log_level="info" if options.access_log else "warning",
                            access_log=options.access_log, http=Impatient,
                            proxy_headers=behind, timeout_graceful_shutdown=2, server_header=False)  # fmt: skip
    return uvicorn.Server(config)
