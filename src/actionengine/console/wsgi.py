"""The console under a WSGI server, in Flask or in Django."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from string import printable
from threading import Lock
from typing import Any
from urllib.parse import quote

from a2wsgi import ASGIMiddleware
from starlette.types import ASGIApp

_WAIT = 5.0
"""Seconds in which a request may end after its response."""


def as_wsgi(console: ASGIApp) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """Return a WSGI application of a console, for a server with threads.

    Its requests run in one event loop, in a thread that the first request of a process starts: a server may fork
    before that.
    """
    lock = Lock()
    applications: dict[int, ASGIMiddleware] = {}

    def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with lock:
            process = os.getpid()
            if process not in applications:
                # A forked process has none of the threads of its parent.
                applications.clear()
                applications[process] = ASGIMiddleware(console, wait_time=_WAIT)  # type: ignore[arg-type]
        return applications[process](_as_utf8(environ), start_response)  # type: ignore[arg-type]

    return serve


def _as_utf8(environ: dict[str, Any]) -> dict[str, Any]:
    """Return the environment of a request whose path is UTF-8, and whose query is ASCII. Others are no addresses of the
    console, and get its error page."""
    path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
    query = quote(environ.get("QUERY_STRING", "").encode("latin-1"), safe=printable)
    return {**environ, "PATH_INFO": path.encode().decode("latin-1"), "QUERY_STRING": query}
