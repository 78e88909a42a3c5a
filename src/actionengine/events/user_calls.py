"""Calls into publishers and callbacks, under an event loop: an `async def` in it, a `def` in a thread beside it."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from typing import Any

from actionengine.events.publishers.port import PublishError
from actionengine.pipeline.plan import is_async

MAX_ABANDONED = 256
"""Calls of a `def` that were given up and still run, in this process: a further one waits until one of them ends."""

_IDLE = 10.0
"""Seconds after which a thread that has nothing to do ends."""


async def call(function: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Any:  # noqa: ASYNC109
    """What a function returns, `def` or `async def`, within `timeout` seconds (None: however long it takes).

    A `def` runs in a daemon thread, with the caller's context variables; where it is not done in time, or the caller is
    cancelled, it is left behind there. An `async def` is cancelled.

    Raises what the function raises, and `TimeoutError` when the time is up.
    """
    if is_async(function):
        return await _await(function(*arguments), timeout)
    loop = asyncio.get_running_loop()
    started = loop.time()
    value = await _WORKERS.run(loop, function, arguments, timeout)
    if inspect.isawaitable(value):
        return await _await(value, None if timeout is None else timeout - (loop.time() - started))
    return value


async def call_out(function: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Any:  # noqa: ASYNC109
    """Call a host's publisher, as `call` does. What it raises that is no `Exception` would end a thread or an event
    loop of ours: it comes out as a `PublishError`. A task that is cancelled is, and Ctrl-C ends the program."""

    async def in_loop() -> Any:
        return await _contained(function(*arguments))

    def in_thread() -> Any:
        try:
            value = function(*arguments)
        except Exception:
            raise
        except BaseException as error:
            raise _escaped(error) from error
        return _contained(value) if inspect.isawaitable(value) else value

    return await call(in_loop if is_async(function) else in_thread, timeout=timeout)


async def _contained(awaitable: Any) -> Any:
    task = asyncio.current_task()
    try:
        return await awaitable
    except Exception:
        raise
    except BaseException as error:
        is_closed = isinstance(error, GeneratorExit) and not _is_running(task)
        is_signal = isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
        if is_closed or is_signal or (task is not None and task.cancelling()):
            raise
        raise _escaped(error) from error


def _is_running(task: asyncio.Task[Any] | None) -> bool:
    try:
        return asyncio.current_task() is task
    except RuntimeError:
        # No event loop runs here: what is left of one is cleared away.
        return False


def _escaped(error: BaseException) -> PublishError:
    return PublishError(f"the publisher raised {type(error).__name__}")


async def _await(awaitable: Any, seconds: float | None) -> Any:
    if seconds is None:
        return await awaitable
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait((task,), timeout=seconds)
    except BaseException:
        _leave(task)
        raise
    if task.done():
        return task.result()
    # What swallows its cancellation is left behind.
    _leave(task)
    raise _too_late(seconds)


def _leave(task: asyncio.Future[Any]) -> None:
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


class _Job:
    """A call of a `def`, from the loop that waits for it to the thread that makes it, and back."""

    __slots__ = ("arguments", "context", "ended", "error", "function", "future", "is_left_behind", "loop", "value")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        self.loop = loop
        self.function = function
        self.arguments = arguments
        self.context: Context = copy_context()
        self.future: asyncio.Future[None] = loop.create_future()
        self.value: Any = None
        self.error: BaseException | None = None
        self.ended = False
        self.is_left_behind = False

    def run(self) -> None:
        """Make the call."""
        try:
            self.value = self.context.run(self.function, *self.arguments)
        except BaseException as error:
            self.error = error

    def notify_loop(self) -> None:
        """Let the loop know; one that was closed meanwhile has nobody left to tell."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.resolve)

    def resolve(self) -> None:
        """End the waiting, in the loop."""
        if not self.future.done():
            self.future.set_result(None)


class _Workers:
    """Threads that make calls. One that is idle is used again; what they are busy with can be left behind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[_Job]] = []
        self._left_behind = 0
        self._waiting: deque[_Job] = deque()

    async def run(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        seconds: float | None,
    ) -> Any:
        """What a `def` returns. Raises what it raises, and `TimeoutError`."""
        job = _Job(loop, function, arguments)
        timer = None if seconds is None else loop.call_later(seconds, job.resolve)
        try:
            self._begin(job)
            await job.future
        finally:
            if timer is not None:
                timer.cancel()
            ended = self._leave(job)
        if not ended:
            assert seconds is not None
            raise _too_late(seconds)
        try:
            if job.error is not None:
                raise job.error
            return job.value
        finally:
            # A traceback refers to this frame, and the job to the traceback.
            del job

    def _begin(self, job: _Job) -> None:
        with self._lock:
            if self._left_behind >= MAX_ABANDONED:
                self._waiting.append(job)
                return
            inbox = self._idle.pop() if self._idle else None
        self._hand(job, inbox)

    def _hand(self, job: _Job, inbox: SimpleQueue[_Job] | None) -> None:
        if inbox is None:
            inbox = SimpleQueue()
            threading.Thread(target=self._work, args=(inbox,), name="actionengine-call", daemon=True).start()
        inbox.put(job)

    def _leave(self, job: _Job) -> bool:
        """Return whether a job has ended; one that has not is left behind, or not begun at all."""
        with self._lock:
            if job.ended:
                return True
            if job in self._waiting:
                self._waiting.remove(job)
            else:
                job.is_left_behind = True
                self._left_behind += 1
            return False

    def _work(self, inbox: SimpleQueue[_Job]) -> None:
        while True:
            try:
                job = inbox.get(timeout=_IDLE)
            except Empty:
                with self._lock:
                    if inbox in self._idle:
                        self._idle.remove(inbox)
                        return
                continue
            job.run()
            self._end(job, inbox)
            del job

    def _end(self, job: _Job, inbox: SimpleQueue[_Job]) -> None:
        following = None
        with self._lock:
            job.ended = True
            if job.is_left_behind:
                self._left_behind -= 1
                if self._waiting:
                    following = self._waiting.popleft()
            # Idle before the caller hears of it: its next call finds this thread again.
            if following is None:
                self._idle.append(inbox)
        job.notify_loop()
        if following is not None:
            inbox.put(following)


def _too_late(seconds: float) -> TimeoutError:
    return TimeoutError(f"there was no answer within {seconds:g} s")


_WORKERS = _Workers()


def _forget() -> None:
    global _WORKERS
    _WORKERS = _Workers()


if hasattr(os, "register_at_fork"):
    # Threads are not inherited.
    os.register_at_fork(after_in_child=_forget)
