"""What stands before every page: whose requests are taken, how large, and what browsers may do with the answers."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

MIB = 2**20
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
                               "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}  # fmt: skip


def foreign(method, headers):
    """Whether a request that changes something comes from a page of another origin.

    Browsers say so themselves (Sec-Fetch-Site, else Origin); who says neither is no browser, and brings no cookie that
    its user does not know of.
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

    def __init__(self, app, limits, most=MIB):
        self.app, self.limits, self.most = app, limits, most

    async def __call__(self, scope, receive, send):
        """ASGI."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        limit = self.limits.get(scope["path"], self.most) if form else self.most  # other kinds are read into memory

        async def answer(message):
            if message["type"] == "http.response.start":
                known = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    if name != "Cache-Control" or not scope["path"].startswith("/static/"):
                        known.setdefault(name, value)
            await send(message)

        if foreign(scope["method"], headers):
            refusal = PlainTextResponse("This request comes from another site, and is not taken.\n", 403)
            return await refusal(scope, receive, answer)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            refusal = PlainTextResponse(f"At most {limit // MIB} MiB can be sent.\n", 413, {"Connection": "close"})
            return await refusal(scope, receive, answer)
        taken = 0

        async def limited():
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:  # a body that does not say how long it is
                raise TooLarge
            return message

        try:
            return await self.app(scope, limited, answer)
        except TooLarge:
            refusal = PlainTextResponse(f"At most {limit // MIB} MiB can be sent.\n", 413, {"Connection": "close"})
            return await refusal(scope, receive, answer)


class TooLarge(Exception):
    """A body has more bytes than are taken."""
