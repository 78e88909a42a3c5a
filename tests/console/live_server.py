"""The console of a till on uvicorn, and its streams."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from actionengine.console import create_console, live
from tests.console.till import Till, by

SOON = 30.0
"""Seconds within which a stream must have told, on a busy machine."""


def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make streams look often, and repeat names at once."""
    for name in ("LOOK_INTERVAL", "LAG_INTERVAL", "PAUSE"):
        monkeypatch.setattr(live, name, 0.001)


class Server:
    """The console of a till on uvicorn, and its streams."""

    def __init__(self, till: Till, origin: str) -> None:
        self.till = till
        self.origin = origin

    @contextmanager
    def stream(self, actor: str = "boss", tenant: str = "acme", **headers: str) -> Iterator[Iterator[str]]:
        """Open a stream, and give its lines."""
        given = {**by(actor, tenant), **headers}
        with httpx.stream("GET", f"{self.origin}/live", headers=given, timeout=SOON) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["x-accel-buffering"] == "no"
            assert "no-store" in response.headers["cache-control"]
            lines = response.iter_lines()
            assert next(lines) == "retry: 3000"
            yield lines


@contextmanager
def served(till: Till) -> Iterator[Server]:
    """Serve the console of a till, in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[Mount("/", create_console(till.engine, till.identify))])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield Server(till, f"http://127.0.0.1:{listening.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
