"""The console under a WSGI server, in Flask or in Django."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from string import printable
from typing import Any
from urllib.parse import quote

from a2wsgi import ASGIMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actionengine.concurrency.background_loop import BackgroundLoop
from actionengine.console.application import Console
from actionengine.engine import Engine
from actionengine.errors import ConfigurationError
from actionengine.storage.closing import CallsOnClose

_WAIT = 5.0
"""Seconds in which a request may end after its response."""

_NUMBERS = ("CONTENT_LENGTH", "SERVER_PORT", "REMOTE_PORT")
_NUMBER = re.compile("[0-9]{1,18}")


def as_wsgi(console: ASGIApp, engine: Engine | None = None) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """Return a WSGI application of a console, for a server with threads.

    Its requests run in one event loop, in a thread that the first request of a process starts: a server may fork
    before that. The loop and its connections end when the storage is closed.

    Args:
        console: what `create_console` returned, or an ASGI application around it.
        engine: the engine of the console, where an application is around it.

    Raises:
        ConfigurationError: without an engine.
    """
    engine = console.engine if isinstance(console, Console) else engine
    if engine is None:
        raise ConfigurationError(
            "as_wsgi needs the engine: give it what create_console returned, or as_wsgi(application, engine)"
        )
    storage = engine.storage
    background = BackgroundLoop("actionengine-console", at_end=getattr(storage, "aclose_loop", None))
    if isinstance(storage, CallsOnClose):
        storage.call_on_close(background.close)

    app = _with_ends(console)

    def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        wsgi = ASGIMiddleware(app, _WAIT, background.loop())  # type: ignore[arg-type]
        return wsgi(_cleaned(environ), start_response)  # type: ignore[arg-type]

    return serve


class _Body:
    """The body of a request. It ends where the client has gone: servers raise various exceptions then."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._body.read(size)
        except Exception:
            return b""
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


def _with_ends(app: ASGIApp) -> ASGIApp:
    """Return an application that hears of a client that has gone within a body. Of a2wsgi alone it would get empty
    chunks without an end."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_or_end() -> Message:
            message = await receive()
            is_end = message["type"] == "http.request" and message["more_body"] and not message["body"]
            return {"type": "http.disconnect"} if is_end else message

        await app(scope, receive_or_end, send)

    return serve


def _cleaned(environ: dict[str, Any]) -> dict[str, Any]:
    """Return the environment of a request as a2wsgi takes it. Others are no requests for the console, and get its error
    page: paths are UTF-8, the query is ASCII, and lengths and ports are numbers."""
    query = quote(environ.get("QUERY_STRING", "").encode("latin-1"), safe=printable)
    paths = {name: _as_utf8(environ.get(name, "")) for name in ("SCRIPT_NAME", "PATH_INFO")}
    numbers = {name: "0" for name in _NUMBERS if not _NUMBER.fullmatch(str(environ.get(name, "0")))}
    return {**environ, **paths, **numbers, "QUERY_STRING": query, "wsgi.input": _Body(environ["wsgi.input"])}


def _as_utf8(path: str) -> str:
    return path.encode("latin-1").decode("utf-8", "replace").encode().decode("latin-1")
