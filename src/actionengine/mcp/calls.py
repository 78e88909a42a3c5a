"""One call while it runs: heartbeats for a client that asked for progress, and its cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import monotonic
from typing import Any, TypeVar

import anyio
from mcp.server.context import ServerRequestContext

from actionengine.concurrency.abandonable import def_in_threads

T = TypeVar("T")


async def run_call(work: Coroutine[Any, Any, T], ctx: ServerRequestContext[Any, Any], name: str, heartbeat: float) -> T:
    """Return the value of a call. While it runs, report progress each `heartbeat` seconds, if the client asked for it.

    The work has a task of its own, because the SDK cancels a request again and again until it ends: the work is
    cancelled once, and has the time to roll back. Its `def` handlers run in threads, so that other calls go on.
    """
    task = asyncio.ensure_future(_in_threads(work))
    began = monotonic()
    try:
        while not (await asyncio.wait([task], timeout=heartbeat))[0]:
            seconds = monotonic() - began
            await ctx.session.report_progress(seconds, message=f"{name} has been running for {seconds:.0f} s")
    except BaseException:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio would report it
        raise
    try:
        return task.result()
    except asyncio.CancelledError:
        raise RuntimeError(f"{name} was cancelled, and not by its client") from None


async def _in_threads(work: Coroutine[Any, Any, T]) -> T:
    def_in_threads.set(True)
    return await work
