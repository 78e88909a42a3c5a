"""Calls of a `def` in a daemon thread. The caller waits for the end of the call, and can abandon it.

Python cannot end a thread. An abandoned call runs to its end, and its result is lost.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from queue import Empty, SimpleQueue
from typing import Any

from actionengine.concurrency.one_shot_event import OneShotEvent
from actionengine.concurrency.run_sync import Mode

MAX_ABANDONED = 256
"""Abandoned calls that still run in workers, in this process: a further call waits until one of them ends."""

def_in_threads: ContextVar[bool] = ContextVar("def_in_threads", default=False)
"""True where each `def` of an execution under an event loop runs in a thread of its own: the loop stays free, and a
cancelled caller abandons the call. By default only a `def` with a deadline does."""

_IDLE_TIMEOUT = 10.0
"""Seconds after which an idle worker ends."""


class AbandonableCall:
    """A call of a `def` with the context variables of its caller, who waits for it in `mode`."""

    __slots__ = ("_arguments", "_context", "_error", "_event", "_function", "_value", "has_ended", "is_abandoned")

    def __init__(self, mode: Mode, function: Callable[..., Any], *arguments: Any) -> None:
        self._function = function
        self._arguments = arguments
        self._context = copy_context()
        self._event = OneShotEvent(mode)
        self._value: Any = None
        self._error: BaseException | None = None
        self.has_ended = self.is_abandoned = False

    def start(self, thread_name: str) -> None:
        """Make the call in a new thread."""

        def make() -> None:
            self.run()
            self.end()

        threading.Thread(target=make, name=thread_name, daemon=True).start()

    def run(self) -> None:
        """Make the call in this thread."""
        try:
            self._value = self._context.run(self._function, *self._arguments)
        except BaseException as error:
            self._error = error

    def end(self) -> None:
        """Wake the caller."""
        self.has_ended = True
        self._event.set()

    async def wait(self, seconds: float | None) -> bool:
        """Wait for the end (None: without a bound); return whether it came in time."""
        await self._event.wait(seconds)
        return self.has_ended

    def result(self) -> Any:
        """Return the value of a call that has ended, or raise its error. Call it once."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._value
        finally:
            # The traceback refers to this frame.
            del error


async def call_in_worker(function: Callable[..., Any], *arguments: Any, seconds: float | None) -> Any:
    """Return the value of a `def`, called in a worker thread, to a caller under an event loop.

    Raise the error of the `def`, or `TimeoutError` when the call has not ended after `seconds`. A call is abandoned
    when it is late, or when its caller is cancelled.
    """
    call = AbandonableCall("async", function, *arguments)
    workers = _workers
    try:
        workers.begin(call)
        await call.wait(seconds)
    finally:
        ended = workers.leave(call)
    if not ended:
        assert seconds is not None
        raise timeout_error(seconds)
    return call.result()


def timeout_error(seconds: float) -> TimeoutError:
    """Return the error for a call without an answer."""
    return TimeoutError(f"there was no answer within {seconds:g} s")


class _Workers:
    """Threads that make calls. An idle one makes the next call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[AbandonableCall]] = []
        self._abandoned = 0
        self._waiting: deque[AbandonableCall] = deque()

    def begin(self, call: AbandonableCall) -> None:
        """Start a call, or queue it while too many abandoned ones run."""
        with self._lock:
            if self._abandoned >= MAX_ABANDONED:
                self._waiting.append(call)
                return
            inbox = self._idle.pop() if self._idle else None
        if inbox is None:
            inbox = SimpleQueue()
            threading.Thread(target=self._work, args=(inbox,), name="actionengine-call", daemon=True).start()
        inbox.put(call)

    def leave(self, call: AbandonableCall) -> bool:
        """Return whether a call has ended. If not, a running call is abandoned, and a queued one is dropped."""
        with self._lock:
            if call.has_ended:
                return True
            if call in self._waiting:
                self._waiting.remove(call)
            else:
                call.is_abandoned = True
                self._abandoned += 1
            return False

    def _work(self, inbox: SimpleQueue[AbandonableCall]) -> None:
        while True:
            try:
                call = inbox.get(timeout=_IDLE_TIMEOUT)
            except Empty:
                with self._lock:
                    if inbox in self._idle:
                        self._idle.remove(inbox)
                        return
                continue
            call.run()
            self._end(call, inbox)
            del call

    def _end(self, call: AbandonableCall, inbox: SimpleQueue[AbandonableCall]) -> None:
        next_call = None
        with self._lock:
            call.has_ended = True
            if call.is_abandoned:
                self._abandoned -= 1
                if self._waiting:
                    next_call = self._waiting.popleft()
            # Idle before the caller wakes: its next call finds this thread again.
            if next_call is None:
                self._idle.append(inbox)
        call.end()
        if next_call is not None:
            inbox.put(next_call)


_workers = _Workers()


def _replace_workers() -> None:
    global _workers
    _workers = _Workers()


if hasattr(os, "register_at_fork"):
    # A forked process inherits no threads.
    os.register_at_fork(after_in_child=_replace_workers)
