"""The application: pages, the checks before them, and the answers to errors."""

import contextlib
import sys

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import DatabaseError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ..checks import first_line
from . import account_pages, disk, record_pages
from .database import Database
from .options import PlatformOptions
from .refusals import NotHere, Refused
from .security import MIB, Guard
from .web import HERE, LogIn, gone_to, page, wants_json


def make(options: PlatformOptions, database: Database | None = None) -> FastAPI:
    """The application on a folder and its database."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.options = options
    app.state.database = database or Database(options.database)
    app.include_router(account_pages.router)
    app.include_router(record_pages.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    hosts = ["localhost", "127.0.0.1", "[::1]", options.host, *options.names]
    everywhere = options.host in ("0.0.0.0", "::") and not options.names
    app.add_middleware(Guard, limits={"/ann/upload": (options.upload_limit + 1) * MIB})
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["*"] if everywhere else hosts, www_redirect=False)
    app.add_exception_handler(LogIn, _log_in)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(DatabaseError, _unreachable)
    app.add_exception_handler(OSError, _os_error)
    app.add_exception_handler(Exception, _unknown)
    return app


def _refused(request: Request, error) -> Response:
    return page(request, "error.html", {"refused": error.data}, error.status)


def _log_in(request: Request, error) -> Response:
    if wants_json(request):
        return _refused(request, Refused("Log in first.", 401))
    return gone_to(request, error.address)


def _invalid(request: Request, error) -> Response:
    return _refused(request, NotHere())


def _http_error(request: Request, error) -> Response:
    known = error.status_code in (404, 405)
    return _refused(request, NotHere() if known else Refused("This request was not understood.", error.status_code))


def _unreachable(request: Request, error) -> Response:
    with contextlib.suppress(Exception):
        print(f"server: the database does not answer: {first_line(error.orig)}", file=sys.stderr)
    request.state.user = None
    if "full" in str(error.orig):
        return _disk_full(request)
    return _refused(request, Refused("The database does not answer: try again in a moment.", 503))


def _os_error(request: Request, error) -> Response:
    if error.errno == 28:
        return _disk_full(request)
    raise error


def _unknown(request: Request, error) -> Response:
    """The site's own page; the server's log has the rest."""
    request.state.user = getattr(request.state, "user", None)
    return _refused(request, Refused("Something went wrong here; the log of the server says what.", 500))


def _disk_full(request):
    disk.free_reserve(request.app.state.options)  # so that the next deletion can be written to the database
    sentence = "The disk is full: nothing was changed. Delete records that are no longer needed."
    return _refused(request, Refused(sentence, 507))
