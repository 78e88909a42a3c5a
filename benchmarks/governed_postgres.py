"""A governed action on PostgreSQL against hand-written psycopg that does the same five statements.

Ours validates, authorizes through a role in storage, claims a fresh idempotency key, runs the handler with its one
write, and commits its event, its outbox row, its result and its row of the action log: as the restricted app role,
under row-level security. The peer (`benchmarks.by_hand`) claims, writes, and inserts event, log and result into plain
tables of equal columns and indexes; each of its workers has a psycopg connection of its own, open all the time, without
a pool. Both run in this process, in threads and in tasks of one event loop, beside a server on the same machine, with
the settings that it comes with (fsync and synchronous_commit on).

The business write is a document (`ctx.records`), and in the rows without an aim an insert into a table of the host's
own: through SQLAlchemy Core and `ctx.session`, against the same insert by psycopg.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count

import psycopg

from benchmarks import by_hand
from benchmarks.postgres import PAYLOAD, Application, Bench, database, with_workers
from benchmarks.report import Aim, Row, at_most_ratio
from benchmarks.timing import FEWEST_ROUNDS, Call, take_samples
from benchmarks.workers import WARM_UP, AsyncCall, in_tasks, in_threads, number_of

WORKERS = (1, 4, 16)
MAX_CALLS = 240
"""In one slice, by all workers together."""

_AIM = at_most_ratio(1.10)
_OURS, _PEER = "ours", "peer"
_WRITES = {
    "records": ("one document", False, _AIM),
    "core": ("one row of the host's own table, by SQLAlchemy Core through ctx.session", True, None),
}


def run(seconds: float) -> list[Row]:
    """Each world, each number of workers, each kind of write."""
    rows: list[Row] = []
    each = seconds / (2 * len(WORKERS) * len(_WRITES))
    with database() as made, asyncio.Runner() as runner:
        by_hand.make_tables(made)
        for world, contenders in (("sync", _threads), ("async", _tasks)):
            for workers in WORKERS:
                for name, (write, core, aim) in _WRITES.items():
                    with contenders(made, runner, workers, core) as measures:
                        row = f"governed_postgres_{world}_{workers}_{name}"
                        rows.append(_row(row, f"{world}, {number_of(workers)}, {write}", workers, measures, each, aim))
    return rows


Measure = Callable[[int], float]
"""Seconds a call, where each worker makes so many."""


def _row(name: str, how: str, workers: int, measures: tuple[Measure, Measure], seconds: float, aim: Aim | None) -> Row:
    ours, peer = measures
    ours(WARM_UP)
    peer(WARM_UP)
    fitting = int(seconds / FEWEST_ROUNDS / len(measures) / ours(1))
    calls = max(1, min(MAX_CALLS, fitting) // workers)
    times = take_samples({_OURS: lambda: ours(calls), _PEER: lambda: peer(calls)}, seconds)
    return Row(
        name,
        f"governed action on PostgreSQL: {how}",
        "psycopg by hand: the same five statements in one transaction",
        times[_OURS],
        times[_PEER],
        aim,
    )


@contextmanager
def _threads(made: Bench, runner: asyncio.Runner, workers: int, core: bool) -> Iterator[tuple[Measure, Measure]]:
    app, keys = with_workers(made.app_url, workers), count()
    connections = [psycopg.connect(made.app_url, autocommit=True) for _ in range(workers)]
    ours = [_ours(app, core)] * workers
    peers = [_peer(each, app, keys, core) for each in connections]
    try:
        yield (
            lambda calls: in_threads(ours, calls),
            lambda calls: in_threads(peers, calls),
        )
    finally:
        for each in connections:
            each.close()
        app.storage.close()


@contextmanager
def _tasks(made: Bench, runner: asyncio.Runner, workers: int, core: bool) -> Iterator[tuple[Measure, Measure]]:
    app, keys = with_workers(made.app_url, workers), count()

    async def connect() -> list[psycopg.AsyncConnection]:
        return [await psycopg.AsyncConnection.connect(made.app_url, autocommit=True) for _ in range(workers)]

    async def close() -> None:
        for each in connections:
            await each.close()
        await app.storage.aclose()

    connections = runner.run(connect())
    ours = [_ours_async(app, core)] * workers
    peers = [_peer_async(each, app, keys, core) for each in connections]
    try:
        yield (
            lambda calls: runner.run(in_tasks(ours, calls)),
            lambda calls: runner.run(in_tasks(peers, calls)),
        )
    finally:
        runner.run(close())


def _ours(app: Application, core: bool) -> Call:
    execute, action = app.engine.execute_action, "refund_core" if core else "refund"
    return lambda: execute("payments", action, PAYLOAD, app.request()).unwrap()


def _ours_async(app: Application, core: bool) -> AsyncCall:
    execute, action = app.engine.execute_action_async, "refund_core_async" if core else "refund_async"

    async def call() -> object:
        return (await execute("payments", action, PAYLOAD, app.request())).unwrap()

    return call


def _peer(connection: psycopg.Connection, app: Application, keys: Iterator[int], core: bool) -> Call:
    return lambda: by_hand.refund(connection, app.tenant.id, f"key-{next(keys)}", core)


def _peer_async(connection: psycopg.AsyncConnection, app: Application, keys: Iterator[int], core: bool) -> AsyncCall:
    def call() -> Awaitable[object]:
        return by_hand.refund_async(connection, app.tenant.id, f"key-{next(keys)}", core)

    return call
