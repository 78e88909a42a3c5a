"""Synchronous code over a database, in both modes.

The SQL backends are written as plain functions. Under an event loop they run in a greenlet: when one of them waits for
the driver, `await_` switches to the coroutine that started the greenlet, which awaits and switches back. This is the
bridge of SQLAlchemy's asyncio extension. This module adds its use from a worker thread.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
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
    "is_off_loop",
    "on_loop",
    "run",
    "run_off_loop",
]


class _OffLoop(greenlet):  # type: ignore[misc]
    """A greenlet whose awaitables are awaited by an event loop in another thread."""

    __sqlalchemy_greenlet_provider__ = True

    def __init__(self, function: Callable[..., Any]) -> None:
        thread = getcurrent()
        super().__init__(function, thread)
        # By default it would begin in an empty context.
        self.gr_context = thread.gr_context


def is_off_loop() -> bool:
    """Return whether the caller runs in a worker thread, under `run_off_loop`."""
    return type(getcurrent()) is _OffLoop


def identity(current: Any) -> Any:
    """Return the greenlet that this one works for: itself, or the one in a worker thread that has started it."""
    return getattr(current, "works_for", current)


def run_off_loop(
    loop: asyncio.AbstractEventLoop, check: Callable[[], None], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    """Run a function in this thread, while `loop` awaits its awaitables. Return its result.

    Before each such wait, `check` may raise, if the caller has abandoned the function.
    """
    inner = _OffLoop(function)
    awaitable = inner.switch(*arguments)
    while not inner.dead:
        try:
            try:
                check()
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
    """Run a plain function where it can wait for the driver. Return its result."""
    if mode == "sync":
        return function(*arguments)
    if in_greenlet():
        return on_loop(function, *arguments)
    return await greenlet_spawn(function, *arguments)


def on_loop(function: Callable[..., T], *arguments: Any) -> T:
    """Do the same from within a greenlet. A worker thread hands the function to the loop, which owns the pool."""
    if is_off_loop():
        result: T = await_(greenlet_spawn(_working_for, getcurrent(), function, *arguments))
        return result
    return function(*arguments)


def _working_for(worker: Any, function: Callable[..., T], *arguments: Any) -> T:
    getcurrent().works_for = worker
    return function(*arguments)


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable
