"""The console under a WSGI server, in Flask or in Django."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

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
        return applications[process](environ, start_response)  # type: ignore[arg-type]

    return serve
