"""The event loop of a relay's publisher: the relay's own, or one in a background thread where the relay has none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from actionengine.concurrency.background_loop import BackgroundLoop, Step
from actionengine.concurrency.run_sync import Mode

T = TypeVar("T")


class PublisherLoop(Protocol):
    """Calls a publisher's coroutine functions. For a relay in a thread, nothing suspends."""

    mode: Mode

    async def run(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Return what a coroutine function returns, run in the publisher's event loop."""

    def close(self) -> None:
        """End the event loop that was started for the publisher."""


def publisher_loop(mode: Mode, at_start: Step, at_end: Step) -> PublisherLoop:
    """Return the loop for a mode. Where a background loop starts, `at_start` runs first in it, and `at_end` at its
    end."""
    return _InThread(at_start, at_end) if mode == "sync" else _InLoop()


class _InLoop:
    mode: Mode = "async"

    async def run(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        return await function(*arguments)

    def close(self) -> None:
        pass


class _InThread:
    mode: Mode = "sync"

    def __init__(self, at_start: Step, at_end: Step) -> None:
        self._loop = BackgroundLoop("actionengine-publisher", at_start=at_start, at_end=at_end)

    async def run(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        return self._loop.run(function, *arguments)

    def close(self) -> None:
        self._loop.close()
