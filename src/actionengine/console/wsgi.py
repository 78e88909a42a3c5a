"""The console under a WSGI server, in Flask or in Django."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from string import printable
from typing import Any
from urllib.parse import quote

from a2wsgi import ASGIMiddleware
from starlette.types import ASGIApp

from actionengine.concurrency.background_loop import BackgroundLoop
from actionengine.console.application import Console
from actionengine.engine import Engine
from actionengine.errors import ConfigurationError
from actionengine.storage.closing import CallsOnClose

_WAIT = 5.0
"""Seconds in which a request may end after its response."""


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

    def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        wsgi = ASGIMiddleware(console, _WAIT, background.loop())  # type: ignore[arg-type]
        return wsgi(_as_utf8(environ), start_response)  # type: ignore[arg-type]

    return serve


def _as_utf8(environ: dict[str, Any]) -> dict[str, Any]:
    """Return the environment of a request whose path is UTF-8, and whose query is ASCII. Others are no addresses of the
    console, and get its error page."""
    path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
    query = quote(environ.get("QUERY_STRING", "").encode("latin-1"), safe=printable)
    return {**environ, "PATH_INFO": path.encode().decode("latin-1"), "QUERY_STRING": query}
