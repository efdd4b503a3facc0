"""The application: pages, what stands before them, and what they answer to errors."""

import collections
import contextlib
import sys

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from . import account_pages, disk, record_pages
from .database import Database, Unreachable
from .refusals import NotHere, Refused
from .security import MIB, Guard
from .web import HERE, LogIn, gone_to, page, wants_json


def make(options, database=None):
    """The application on a folder and its database."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.options, app.state.database = options, database or Database(options.database)
    app.state.readers, app.state.closing = collections.Counter(), False
    app.include_router(account_pages.router)
    app.include_router(record_pages.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    hosts = ["localhost", "127.0.0.1", "[::1]", options.host, *options.names]
    everywhere = options.host in ("0.0.0.0", "::") and not options.names
    app.add_middleware(Guard, limits={"/ann/upload": (options.upload_limit + 1) * MIB})
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["*"] if everywhere else hosts, www_redirect=False)

    @app.exception_handler(LogIn)
    def log_in(request: Request, error):
        if wants_json(request):
            return refused(request, Refused("Log in first.", 401))
        return gone_to(request, error.address)

    @app.exception_handler(Refused)
    def refused(request: Request, error):
        return page(request, "error.html", {"refused": error.told}, error.status)

    @app.exception_handler(RequestValidationError)
    def odd(request: Request, error):
        return refused(request, NotHere())

    @app.exception_handler(HTTPException)
    def other(request: Request, error):
        known = error.status_code in (404, 405)
        return refused(request, NotHere() if known else Refused("This request was not understood.", error.status_code))

    @app.exception_handler(Unreachable)
    def away(request: Request, error):
        with contextlib.suppress(Exception):
            print(f"server: the database does not answer: {str(error.orig).splitlines()[0]}", file=sys.stderr)
        request.state.user = None
        if "full" in str(error.orig):
            return full(request)
        return refused(request, Refused("The database does not answer: try again in a moment.", 503))

    @app.exception_handler(OSError)
    def no_room(request: Request, error):
        if error.errno == 28:
            return full(request)
        raise error

    def full(request):
        disk.overboard(options)  # so that what is deleted next can be written down
        told = "The disk is full: nothing was changed. Delete records that are no longer needed."
        return refused(request, Refused(told, 507))

    return app
