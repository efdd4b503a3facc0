"""Checks before every page: the origin and the size of requests, and headers that restrict browsers."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MIB = 2**20
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
                               "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}  # fmt: skip

APART = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob:"
)


def foreign(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request that changes something comes from a page of another origin.

    Browsers send Sec-Fetch-Site or Origin. A client that sends neither is not a browser, so no other page can make it
    send its cookies.
    """
    if method in ("GET", "HEAD", "OPTIONS"):
        return False
    site = headers.get("sec-fetch-site")
    if site:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    try:
        return bool(origin) and urlsplit(origin).netloc != headers.get("host")
    except ValueError:
        return True


class Guard:
    """Refuses requests of other origins and bodies that are too large; adds headers to every answer."""

    def __init__(self, app: ASGIApp, limits: dict[str, int], most: int = MIB):
        self.app = app
        self.limits = limits
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._limit(scope["path"], headers)
        answer = _with_headers(scope["path"], send)
        length = headers.get("content-length", "0")
        try:
            if foreign(scope["method"], headers):
                refusal = PlainTextResponse("This request comes from another site and was refused.\n", 403)
                await refusal(scope, receive, answer)
                return
            if not length.isdigit() or int(length) > limit:
                raise TooLarge
            await self.app(scope, _limited(receive, limit), answer)
        except TooLarge:
            refusal = PlainTextResponse(f"At most {limit // MIB} MiB can be sent.\n", 413, {"Connection": "close"})
            await refusal(scope, receive, answer)

    def _limit(self, path, headers):
        """The largest body of a request; only files in forms are kept on disk, all else is read into memory."""
        form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        return self.limits.get(path, self.most) if form else self.most


def _with_headers(path, send):
    """`send`, with the headers added."""

    async def answer(message):
        if message["type"] == "http.response.start":
            known = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                if name != "Cache-Control" or not path.startswith("/static/"):
                    known.setdefault(name, value)
        await send(message)

    return answer


def _limited(receive, limit):
    """`receive`, which raises TooLarge once a body without a stated length has passed the limit."""
    taken = 0

    async def limited():
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise TooLarge
        return message

    return limited


class TooLarge(Exception):
    """A body is larger than its limit."""
