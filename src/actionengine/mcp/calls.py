"""One call while it runs: heartbeats for a client that asked for progress, and its cancellation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from time import monotonic
from typing import Any, TypeVar

import anyio
from mcp.server.context import ServerRequestContext

from actionengine.concurrency.abandonable import def_in_threads

logger = logging.getLogger("actionengine")

T = TypeVar("T")

_FIRST_REPORT = 0.2
"""Seconds until the first report of progress."""


async def run_call(work: Coroutine[Any, Any, T], ctx: ServerRequestContext[Any, Any], name: str, heartbeat: float) -> T:
    """Return the value of a call. While it runs, report progress, if the client asked for it: soon at first, then after
    pauses that double up to `heartbeat` seconds.

    The work has a task of its own, because the SDK cancels a request again and again until it ends: the work is
    cancelled once, and has the time to roll back. Its `def` handlers run in threads, so that other calls go on.
    """
    task = asyncio.ensure_future(_in_threads(work))
    began, pause = monotonic(), min(_FIRST_REPORT, heartbeat)
    try:
        while not (await asyncio.wait([task], timeout=pause))[0]:
            pause = min(2 * pause, heartbeat)
            await _report(ctx, name, monotonic() - began)
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


async def _report(ctx: ServerRequestContext[Any, Any], name: str, seconds: float) -> None:
    try:
        await ctx.session.report_progress(seconds, message=f"{name} has been running for {seconds:.1f} s")
    except Exception as error:
        # The call goes on without its client's knowledge of it.
        logger.debug("the progress of %s could not be reported: %r", name, error)


async def _in_threads(work: Coroutine[Any, Any, T]) -> T:
    def_in_threads.set(True)
    return await work
