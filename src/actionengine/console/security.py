"""Headers of every response, and the refusal of posts from other sites."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actionengine.errors import ConfigurationError

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

_ORIGIN = re.compile(r"https?://[^/?#@\s]+")
_PORTS = {"http": ":80", "https": ":443"}


def with_security_headers(app: ASGIApp) -> ASGIApp:
    """Return an application whose responses have `HEADERS`, and no body for a HEAD."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message.get("headers", ())}
                added = [pair for pair in HEADERS.items() if pair[0] not in present]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            elif message["type"] == "http.response.body" and scope["method"] == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        await app(scope, receive, send_with_headers)

    return serve


def check_origins(origins: Iterable[str]) -> frozenset[str]:
    """Return the origins that a host allows. Raises `ConfigurationError` for a value that is no origin."""
    given = [origins] if isinstance(origins, str) else [*origins]
    for each in given:
        if isinstance(origins, str) or not isinstance(each, str) or not _ORIGIN.fullmatch(each):
            raise ConfigurationError(
                f"allowed_origins has {each!r}: it is a collection of origins, such as ['https://ops.example.com']"
            )
    return frozenset(each.lower() for each in given)


def is_cross_site(request: Request, allowed_origins: Collection[str]) -> bool:
    """Return whether a browser sends this request for a page of another origin.

    Browsers state it in `Sec-Fetch-Site`, or, without HTTPS, name the page's origin in `Origin`. A request with neither
    comes from no browser of today, and so with no cookie that its sender does not own. Source: CrossOriginProtection of
    Go's net/http.
    """
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() in allowed_origins:
        return False
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    if origin is None:
        return False
    scheme, _, host = origin.lower().partition("://")
    own = request.headers.get("host", "").lower()
    port = _PORTS.get(scheme, "")
    return not host or host.removesuffix(port) != own.removesuffix(port)
