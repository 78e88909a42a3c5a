"""Calls of publishers and callbacks under an event loop: an `async def` runs in the loop, a `def` in a thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

from actionengine.concurrency.abandonable import call_in_worker, timeout_error
from actionengine.events.publishers.port import PublishError
from actionengine.pipeline.plan import is_async


async def call(function: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Any:  # noqa: ASYNC109
    """Return what a `def` or an `async def` returns, within `timeout` seconds (None: without a limit).

    A `def` runs in a daemon thread, with the caller's context variables; after the timeout, or if the caller is
    cancelled, it is abandoned there. An `async def` is cancelled.

    Raises what the function raises, and `TimeoutError` after the timeout.
    """
    if is_async(function):
        return await _await(function(*arguments), timeout)
    loop = asyncio.get_running_loop()
    started = loop.time()
    value = await call_in_worker(function, *arguments, seconds=timeout)
    if inspect.isawaitable(value):
        return await _await(value, None if timeout is None else timeout - (loop.time() - started))
    return value


async def call_out(function: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Any:  # noqa: ASYNC109
    """Call a host's publisher, as `call` does. A `BaseException` that would end a thread or an event loop of the
    library becomes a `PublishError`. The cancellation of the task and Ctrl-C pass through."""

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
        # No event loop runs here: the coroutine of an ended loop is being closed.
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
        _abandon(task)
        raise
    if task.done():
        return task.result()
    # A task that ignores its cancellation is abandoned.
    _abandon(task)
    raise timeout_error(seconds)


def _abandon(task: asyncio.Future[Any]) -> None:
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
