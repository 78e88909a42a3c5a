"""Where a relay works: in a thread, or under an event loop. Publishers have an event loop in both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Protocol, TypeVar

from actionengine.concurrency.run_sync import Mode

T = TypeVar("T")

_STOP_TIMEOUT = 10.0
"""Seconds that the publisher's event loop has to end."""

_CHECK_INTERVAL = 1.0
"""Seconds between two looks at whether the publisher's event loop is still there."""


class LoopEnded(RuntimeError):
    """Raised where a publisher has ended the event loop that it was called in: the next call gets another one."""

    def __init__(self) -> None:
        super().__init__("the publisher has ended its event loop")


class PublisherLoop(Protocol):
    """How a relay waits for a publisher. In a thread nothing suspends."""

    mode: Mode

    async def run(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """What a coroutine function returns, run in the publisher's event loop."""

    def close(self) -> None:
        """End what was opened for it."""


Step = Callable[[], Awaitable[None]] | None


def publisher_loop(mode: Mode, at_start: Step, at_end: Step) -> PublisherLoop:
    """The world of this mode; `at_start` runs first in an event loop that it opens, and `at_end` closes what was opened
    there."""
    return _Thread(at_start, at_end) if mode == "sync" else _Loop()


class _Loop:
    """Under an event loop: the publisher's is the same."""

    mode: Mode = "async"

    async def run(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """What a coroutine function returns."""
        return await function(*arguments)

    def close(self) -> None:
        """Nothing to end."""


class _Thread:
    """In a thread: the publisher gets an event loop of its own, in another one."""

    mode: Mode = "sync"

    def __init__(self, at_start: Step, at_end: Step) -> None:
        self._at_start = at_start
        self._at_end = at_end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """What a coroutine function returns."""
        if self._loop is not None and self._loop.is_closed():
            self._loop = None
            raise LoopEnded
        future = asyncio.run_coroutine_threadsafe(_awaited(function, arguments), self._started())
        try:
            while True:
                try:
                    return future.result(_CHECK_INTERVAL)
                except TimeoutError:
                    if future.done():
                        raise
                    if self._thread is None or not self._thread.is_alive():
                        raise LoopEnded from None
                except CancelledError:
                    raise LoopEnded from None
        except LoopEnded:
            self._loop = None
            raise
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop, and what still runs in it."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            # A publisher that blocks the loop keeps it.
            self._thread.join(_STOP_TIMEOUT)
            self._loop = self._thread = None

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = self._loop = asyncio.new_event_loop()
            arguments = (loop, self._at_start, self._at_end)
            self._thread = threading.Thread(target=_serve, args=arguments, name="actionengine-publisher", daemon=True)
            self._thread.start()
        return self._loop


def _serve(loop: asyncio.AbstractEventLoop, at_start: Step, at_end: Step) -> None:
    asyncio.set_event_loop(loop)
    try:
        if at_start is not None:
            loop.run_until_complete(_awaited(at_start, ()))
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        if at_end is not None:
            loop.run_until_complete(_awaited(at_end, ()))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _awaited(function: Callable[..., Awaitable[T]], arguments: tuple[Any, ...]) -> Coroutine[Any, Any, T]:
    async def await_it() -> T:
        return await function(*arguments)

    return await_it()
