"""An event that is set once, between threads and tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

from actionengine.concurrency.run_sync import Mode


class OneShotEvent:
    """An event that is set once, and waited for in `mode`.

    Any thread or task may call `set`; `wait(seconds)` ends after that, or when the time is up (None: never).
    """

    __slots__ = ("set", "wait")

    def __init__(self, mode: Mode) -> None:
        if mode == "sync":
            event = threading.Event()
            self.set: Callable[[], object] = event.set

            async def wait_in_thread(seconds: float | None) -> None:
                event.wait(seconds)

            self.wait = wait_in_thread
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not future.done():
                future.set_result(None)

        def set_from_anywhere() -> None:
            # A loop that has been closed has no waiter.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(finish)

        async def wait_in_task(seconds: float | None) -> None:
            await asyncio.wait((future,), timeout=seconds)

        self.set = set_from_anywhere
        self.wait = wait_in_task
