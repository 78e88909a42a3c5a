"""The example business and its console, served on a port of loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from examples.field_service.app import create_business, open_storage
from starlette.types import ASGIApp

from actionengine import Actor, Service
from tests.console.business import ACTORS, Business, deliver_badly
from tests.console.site import Site


def seed(file: Path, marks: Mapping[str, str]) -> None:
    """Make a database of the business, with a day's work of each tenant. Its people write the mark of their tenant."""
    with open_storage(str(file)) as storage:
        engine = create_business(storage)
        for slug, mark in marks.items():
            Business(engine, engine.resolve_tenant(slug).unwrap(), mark).seed()
        deliver_badly(storage)


@contextmanager
def opened(
    file: Path, title: str = "Site", *, services: Sequence[Service] = (), actors: Mapping[str, Actor] = ACTORS
) -> Iterator[Site]:
    """Open the business of a database, with further services, and give its console."""
    with open_storage(str(file)) as storage:
        yield Site(create_business(storage, *services), actors, title)


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """Serve an application in a thread, and give the origin of its server."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    # It cuts off the streams of pages that are still open.
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
