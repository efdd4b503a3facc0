"""What all pages share: the user, the data sent, and the answer, as a page or as the same data in JSON."""

import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Depends, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from . import accounts
from .database import User
from .refusals import Refused
from .words import chosen, translator

HERE = Path(__file__).parent
COOKIE = "isospike"
LANGUAGE = "language"  # the cookie of the one that was chosen
LONGEST = 1000  # characters of one answer
OWN = re.compile('(href|src|action|formaction|data-news)="/')  # what pages are made of
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")


def _when(seconds):
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""


def _lasted(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _share(value):
    return "" if value is None else f"{100 * value:.2f} %"


templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True)  # fmt: skip
templates.filters |= {"when": _when, "lasted": _lasted, "share": _share, "drawing": Markup}


def wants_json(request: Request) -> bool:
    """Whether the client is a program: it accepts JSON, and no HTML."""
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "text/html" not in accepted


def language_for(request: Request) -> str:
    """The language of the answer to a request."""
    return chosen(request.cookies.get(LANGUAGE, ""), request.headers.get("accept-language", ""))


def plain(value: Any) -> Any:
    """Data without the keys that begin with an underscore, which only pages need."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if not str(key).startswith("_")}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def page(request: Request, template: str, data: dict | None = None, status: int = 200) -> Response:
    """A page, or its data in JSON."""
    data = data or {}
    if wants_json(request):
        return JSONResponse(plain(data), status)
    language = language_for(request)
    user = getattr(request.state, "user", None)
    common = {"_": translator(language), "language": language, "me": user, "path": request.url.path,
              "options": request.app.state.options}  # fmt: skip
    text = templates.get_template(template).render(common | data)
    text = under(text, request.app.state.options.path)
    return HTMLResponse(text, status, {"Vary": "Accept, Accept-Language, Cookie"})


def under(text: str, path: str) -> str:
    """A page whose own addresses lie under a path. Texts of users cannot hold a quotation mark, which pages escape."""
    return OWN.sub(rf'\g<1>="{path}/', text) if path else text


def gone_to(request: Request, address: str, data: dict | None = None, status: int = 201) -> Response:
    """The answer after a change: browsers are sent to a page; programs get its address."""
    address = request.app.state.options.path + address
    if wants_json(request):
        return JSONResponse({"href": address} | (data or {}), status)
    return RedirectResponse(address, 303)


def current(request: Request) -> User | None:
    """The user whose session the request carries, or None."""
    secret = request.cookies.get(COOKIE, "")
    if not secret:
        return None
    with request.app.state.database.begin() as db:
        request.state.user = accounts.who(db, secret)
    return request.state.user


def logged_in(request: Request, user: User | None = Depends(current)) -> User:
    """The user; LogIn without one."""
    if user is None:
        raise LogIn(f"{request.url.path}?{request.url.query}".rstrip("?") if request.method == "GET" else "/")
    return user


class LogIn(Exception):
    """The user has to log in first."""

    def __init__(self, back: str):
        self.address = "/login" + (f"?back={quote(back)}" if back != "/" else "")


def local(address: str) -> str:
    """An address of this server to go back to; the home page for any other."""
    return address if address.startswith("/") and not address.startswith(("//", "/\\")) else "/"


async def answers(request: Request) -> dict:
    """{field: text} of a form or of a JSON object; files unchanged."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            sent = await request.json()
        except (ValueError, RecursionError):
            sent = None
        if not isinstance(sent, dict):
            raise Refused("Send an object in JSON.", status=400)
        return {_text(key): _text(value) for key, value in sent.items()}
    if kind in FORM_TYPES:
        form = await request.form(max_files=1, max_fields=100)
        return {_text(key): value if key == "file" else _text(value) for key, value in form.items()}
    return {}


def _text(value):
    """A plain answer as text that can be stored and sent; empty for anything else."""
    text = str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    return text.encode(errors="replace").decode().replace("\0", "")[:LONGEST]


def numbered(text: str) -> int | None:
    """The number of a record, or None if the text cannot be one."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


async def sent(request: Request, user: User = Depends(logged_in)) -> dict:
    """The answers of a user who is logged in; the body of any other request is not read."""
    return await answers(request)
