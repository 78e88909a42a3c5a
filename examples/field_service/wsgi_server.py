"""A server for the synchronous hosts, with the background work next to it, for the terminal and not for production."""

import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from werkzeug.serving import run_simple

from examples.field_service.app import HostStorage, create_business, open_storage, workflows_url
from examples.field_service.background import Background, is_wanted, named_publishers
from examples.field_service.greeting import address, greet


def serve_wsgi(program: str, port: int, create_app: Callable[[HostStorage, threading.Event], Any]) -> None:
    """Serve a host until SIGINT or SIGTERM, which also end the live feeds."""
    stopping = threading.Event()

    def stop(*_: object) -> None:
        stopping.set()
        raise KeyboardInterrupt

    host, port = address(program, port)
    greet(host, port)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with open_storage() as storage:
        app = create_app(storage, stopping)
        background = Background(storage, create_business(storage), *named_publishers(), workflows=workflows_url())
        with background.in_thread() if is_wanted() else nullcontext():
            run_simple(host, port, app, threaded=True)
