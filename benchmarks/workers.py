"""Workers that call at once: threads, tasks of one event loop, or processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from benchmarks.timing import Call, settled

AsyncCall = Callable[[], Awaitable[object]]

WARM_UP = 12
"""Calls before the first slice: PostgreSQL plans a prepared statement anew in its first five executions."""


def number_of(workers: int) -> str:
    """So many workers, in words."""
    return "1 worker" if workers == 1 else f"{workers} workers"


def in_threads(workers: Sequence[Call], calls: int) -> float:
    """Seconds a call, over all, when each of these makes so many calls in a thread of its own."""
    barrier = threading.Barrier(len(workers) + 1)
    errors: list[BaseException] = []

    def work(call: Call) -> None:
        barrier.wait()
        try:
            for _ in range(calls):
                call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(call,)) for call in workers]
    for thread in threads:
        thread.start()
    with settled():
        barrier.wait()
        started = perf_counter()
        for thread in threads:
            thread.join()
        taken = perf_counter() - started
    if errors:
        raise errors[0]
    return taken / (calls * len(workers))


async def in_tasks(workers: Sequence[AsyncCall], calls: int) -> float:
    """The same for tasks of the event loop that this runs in."""

    async def work(call: AsyncCall) -> None:
        for _ in range(calls):
            await call()

    with settled():
        started = perf_counter()
        await asyncio.gather(*(work(call) for call in workers))
        taken = perf_counter() - started
    return taken / (calls * len(workers))


@contextmanager
def in_process(make: Callable[..., Callable[[Any], object]], *arguments: Any) -> Iterator[Connection]:
    """A process of its own, with what `make(*arguments)` gives there: it is called with each object that is sent to the
    connection, and what it returns is sent back."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, arguments), daemon=True)
    process.start()
    there.close()
    try:
        here.recv()
        yield here
    finally:
        here.close()
        process.join()


def _serve(connection: Connection, make: Callable[..., Callable[[Any], object]], arguments: tuple[Any, ...]) -> None:
    call = make(*arguments)
    connection.send("ready")
    while True:
        try:
            asked = connection.recv()
        except EOFError:
            return
        connection.send(call(asked))
