"""The console under a WSGI server, in Flask or in Django."""

from __future__ import annotations

from typing import Any

from a2wsgi import ASGIMiddleware
from starlette.types import ASGIApp

_WAIT = 5.0
"""Seconds in which a request may end after its response."""


def as_wsgi(console: ASGIApp) -> Any:
    """Return a WSGI application of a console. Its requests run in one event loop, in a thread of its own."""
    return ASGIMiddleware(console, wait_time=_WAIT)  # type: ignore[arg-type]
