"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

Step = Callable[[], Awaitable[None]] | None
"""A coroutine function that runs when a loop starts or ends, or none."""

STOP_TIMEOUT = 10.0
"""Seconds that `close` waits for the thread. A coroutine that blocks the loop can outlive it."""

CANCEL_TIMEOUT = 1.0
"""Seconds that cancelled calls have to end when their loop ends."""

CHECK_INTERVAL = 1.0
"""Seconds between two checks that the loop of a waiting caller still runs."""


class LoopEnded(RuntimeError):
    """Raised to a caller if the loop ends during its call. The next call starts another loop."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the event loop of {name} ended during a call, whose outcome is unknown: repeat the call, with its "
            f"idempotency key if it changes something"
        )


@dataclass(frozen=True)
class _Running:
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread


class BackgroundLoop:
    """An event loop in a daemon thread. The first call starts it, and so does a call after `close` or after a fork.

    Args:
        name: the name of the thread.
        at_start: runs in each new loop before any call.
        at_end: runs in the loop at its end, after its calls were cancelled: it closes what was opened there.
    """

    _pid: int
    _lock: threading.Lock
    _running: _Running | None
    _stop: weakref.finalize[[_Running], BackgroundLoop] | None

    def __init__(self, name: str, *, at_start: Step = None, at_end: Step = None) -> None:
        self._name = name
        self._steps = (at_start, at_end)
        self._forget_parent()

    def run(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Return what a coroutine function returns. It runs in the loop, with the caller's context variables.

        Raises what the function raises; `LoopEnded` if the loop ends during the call; and `RuntimeError` if code in
        this loop calls, since it would wait for itself.
        """
        running = self._start()
        if threading.current_thread() is running.thread:
            raise RuntimeError(
                f"code in the event loop of {self._name} would wait for itself: await the coroutine (a handler "
                f"uses ctx.execute or ctx.execute_async)"
            )
        call = _awaited(function, arguments)
        try:
            future = asyncio.run_coroutine_threadsafe(call, running.loop)
        except RuntimeError:
            call.close()
            raise self._ended(running) from None
        try:
            return self._wait(future, running)
        except CancelledError:
            raise self._ended(running) from None
        except BaseException:
            # The caller was interrupted: the call ends too.
            future.cancel()
            raise

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop of this process, for code that schedules calls in it itself."""
        return self._start().loop

    def close(self) -> None:
        """Cancel the calls that still run, and end the loop. Does nothing if no loop runs."""
        if self._pid == os.getpid():
            with self._lock:
                self._running = None
                stop, self._stop = self._stop, None
            if stop is not None:
                stop()

    def _wait(self, future: Future[T], running: _Running) -> T:
        while True:
            try:
                return future.result(CHECK_INTERVAL)
            except TimeoutError:
                if future.done():
                    raise
                if not running.thread.is_alive():
                    raise self._ended(running) from None

    def _ended(self, running: _Running) -> LoopEnded:
        with self._lock:
            if self._running is running:
                self._running = self._stop = None
        return LoopEnded(self._name)

    def _start(self) -> _Running:
        if self._pid != os.getpid():
            # The thread has stayed in the parent process.
            if self._stop is not None:
                self._stop.detach()
            self._forget_parent()
        with self._lock:
            if self._running is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_serve, args=(loop, *self._steps), name=self._name, daemon=True)
                self._running = _Running(loop, thread)
                # Also when the program ends.
                self._stop = weakref.finalize(self, _end, self._running)
                thread.start()
            return self._running

    def _forget_parent(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._running = None
        self._stop = None


def _end(running: _Running) -> None:
    if running.loop.is_closed():
        return
    running.loop.call_soon_threadsafe(running.loop.stop)
    if threading.current_thread() is not running.thread:
        running.thread.join(STOP_TIMEOUT)


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
            loop.run_until_complete(asyncio.wait(left, timeout=CANCEL_TIMEOUT))
        if at_end is not None:
            loop.run_until_complete(_awaited(at_end, ()))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _awaited(function: Callable[..., Awaitable[T]], arguments: tuple[Any, ...]) -> Coroutine[Any, Any, T]:
    async def await_result() -> T:
        return await function(*arguments)

    return await_result()
