"""Headers of every response, and the refusal of posts from other sites."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
"""Headers of every response that does not have its own."""

_PORTS = {"http": ":80", "https": ":443"}


def with_security_headers(app: ASGIApp) -> ASGIApp:
    """Return an application whose responses have `HEADERS`."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message.get("headers", ())}
                added = [pair for pair in HEADERS.items() if pair[0] not in present]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await app(scope, receive, send_with_headers)

    return serve


def is_cross_site(request: Request, allowed_origins: Collection[str]) -> bool:
    """Return whether a browser sends this request for a page of another origin.

    Browsers state it in `Sec-Fetch-Site`, or, without HTTPS, name the page's origin in `Origin`. A request with neither
    comes from no browser of today, and so with no cookie that its sender does not own. Source: CrossOriginProtection of
    Go's net/http.
    """
    origin = request.headers.get("origin")
    if origin is not None and origin in allowed_origins:
        return False
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and _host(origin) != _host("//" + request.headers.get("host", ""), origin)


def _host(origin: str, default: str = "") -> str:
    """Return the host and port of an origin, without the default port of its scheme."""
    scheme = urlsplit(origin).scheme or urlsplit(default).scheme
    return urlsplit(origin).netloc.lower().removesuffix(_PORTS.get(scheme, " "))
