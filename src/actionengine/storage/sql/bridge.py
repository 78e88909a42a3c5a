"""Synchronous code over a database, in both modes.

The SQL backends are written as plain functions. Under an event loop they run in a greenlet: where one of them waits for
the driver, `await_` switches to the coroutine that started the greenlet, which awaits and switches back. It is the
bridge of SQLAlchemy's asyncio extension; what is added here is its use from a thread beside the loop.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]
from sqlalchemy.util import await_, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from actionengine.concurrency.run_sync import Mode

T = TypeVar("T")

__all__ = [
    "await_",
    "greenlet_spawn",
    "identity",
    "in_greenlet",
    "is_beside_loop",
    "on_loop",
    "run",
    "run_off_loop",
    "uninterrupted",
]


class _OffLoop(greenlet):  # type: ignore[misc]
    """A greenlet whose awaitables are awaited by an event loop in another thread."""

    __sqlalchemy_greenlet_provider__ = True

    def __init__(self, function: Callable[..., Any]) -> None:
        thread = getcurrent()
        super().__init__(function, thread)
        # Otherwise it would begin in an empty context.
        self.gr_context = thread.gr_context


def is_beside_loop() -> bool:
    """Return whether the caller runs in a thread beside the event loop, under `run_off_loop`."""
    return type(getcurrent()) is _OffLoop


def identity(current: Any) -> Any:
    """Return the greenlet that this one works for: itself, or the one beside the loop that has started it."""
    return getattr(current, "works_for", current)


def run_off_loop(
    loop: asyncio.AbstractEventLoop,
    may_go_on: Callable[[], None],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> Any:
    """What `function` returns, run in this thread; what it awaits is awaited by `loop`.

    Before each such wait `may_go_on` may raise, for a function that has been left behind.
    """
    inner = _OffLoop(function)
    awaitable = inner.switch(*arguments)
    while not inner.dead:
        try:
            try:
                may_go_on()
            except BaseException:
                if asyncio.iscoroutine(awaitable):
                    awaitable.close()
                raise
            value = asyncio.run_coroutine_threadsafe(_awaited(awaitable), loop).result()
        except BaseException:
            awaitable = inner.throw(*sys.exc_info())
        else:
            awaitable = inner.switch(value)
    return awaitable


async def run(mode: Mode, function: Callable[..., T], *arguments: Any) -> T:
    """What a plain function returns, run where it can wait for the driver."""
    if mode == "sync":
        return function(*arguments)
    if in_greenlet():
        return on_loop(function, *arguments)
    return await greenlet_spawn(function, *arguments)


def on_loop(function: Callable[..., T], *arguments: Any) -> T:
    """The same from within a greenlet: a thread beside the loop leaves it to the loop, which the pool belongs to."""
    if is_beside_loop():
        result: T = await_(greenlet_spawn(_working_for, getcurrent(), function, *arguments))
        return result
    return function(*arguments)


def _working_for(beside: Any, function: Callable[..., T], *arguments: Any) -> T:
    getcurrent().works_for = beside
    return function(*arguments)


async def uninterrupted(coroutine: Coroutine[Any, Any, T]) -> T:
    """The value of a coroutine that a cancellation of this task must not stop halfway: it comes through afterwards."""
    task = asyncio.ensure_future(coroutine)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                continue
            except BaseException:
                break
        raise


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable
