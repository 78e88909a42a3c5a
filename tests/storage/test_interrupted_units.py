"""An interrupted, lost or closed connection frees everything at once, and nothing is half committed.

A second connection proves it: it writes at once, before any garbage collection.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest
from returns.result import Failure, Result, Success
from sqlalchemy import text

from actionengine import (
    ActionContext,
    Engine,
    ErrorCode,
    Tenant,
)
from tests.conftest import make_action
from tests.storage.backends import SQLDatabase, SQLStorage, as_ann, engine_on

SLOW = {
    "postgresql": "SELECT pg_sleep(600)",
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 4000000000) SELECT count(*) FROM n",
}
MANY = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 100000) SELECT x FROM n"
BOUND = 60.0
"""Seconds, far fewer than an uninterrupted statement takes."""

pytestmark = pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    gc.disable()
    yield
    with warnings.catch_warnings():
        # Nothing closes an interrupted stream.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.enable()


@pytest.fixture
def tenant(sql_storage: SQLStorage) -> Tenant:
    return sql_storage.create_tenant(slug="acme", name="Acme")


def is_free(sql_database: SQLDatabase, storage: SQLStorage) -> bool:
    """Return whether another connection can write at once and, on PostgreSQL, no transaction is open."""
    if sql_database.name == "sqlite":
        other = sqlite3.connect(str(storage.pools.name), timeout=0.0)
        try:
            other.execute("BEGIN IMMEDIATE")
            other.rollback()
        except sqlite3.Error:
            return False
        finally:
            other.close()
        return True
    asked = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend' AND state <> 'idle'"
    )
    url = sql_database.owner.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        row = connection.execute(asked).fetchone()
        assert row is not None
        return bool(row[0] == 0)


def frees_soon(sql_database: SQLDatabase, storage: SQLStorage) -> bool:
    """Return whether the database becomes free: a server needs a moment to notice a closed connection."""
    until = time.monotonic() + 60
    while not is_free(sql_database, storage):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def engine_of(storage: SQLStorage, *handlers: Callable[..., Any], **options: Any) -> Engine:
    return engine_on(storage, *handlers, make_action("count", count), **options)


def count(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success(len(ctx.records("notes").list()))


def notes(storage: SQLStorage, tenant: Tenant) -> int:
    return int(engine_of(storage).execute_action("w", "count", None, as_ann(tenant)).unwrap())


def run(
    storage: SQLStorage, tenant: Tenant, handler: Callable[..., Any], then: Callable[[], Any] = lambda: None
) -> Any:
    """Return the answer of an `async def` handler; call `then` while its event loop still runs."""

    async def main() -> Any:
        answer = await engine_of(storage, handler).execute_action_async("w", handler.__name__, {}, as_ann(tenant))
        seen = await asyncio.to_thread(then)
        await storage.aclose()
        return answer, seen

    started = time.monotonic()
    answered = asyncio.run(main())
    assert time.monotonic() - started < BOUND
    return answered


@pytest.mark.parametrize("of", ["session", "stream", "def"])
def test_a_cancelled_execution_frees_all_at_once(
    sql_database: SQLDatabase, sql_storage: SQLStorage, tenant: Tenant, of: str
) -> None:
    begun = threading.Event()

    async def slow(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        await ctx.async_records("notes").insert({})
        begun.set()
        if of == "session":
            await ctx.async_session.execute(text(SLOW[sql_database.name]))
        else:
            async for _ in await ctx.async_session.stream(text(SLOW[sql_database.name])):
                pass
        return Success(None)

    def slow_def(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.records("notes").insert({})
        begun.set()
        ctx.session.execute(text(SLOW[sql_database.name]))
        return Success(None)

    handler = slow_def if of == "def" else slow

    async def main() -> bool:
        engine = engine_of(sql_storage, handler)
        task = asyncio.ensure_future(engine.execute_action_async("w", handler.__name__, {}, as_ann(tenant)))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        freed = await asyncio.to_thread(frees_soon, sql_database, sql_storage)
        await sql_storage.aclose()
        return freed

    started = time.monotonic()
    assert asyncio.run(main())
    assert time.monotonic() - started < BOUND
    assert notes(sql_storage, tenant) == 0


Use = Callable[[ActionContext, str], Awaitable[Any]]


async def by_session(ctx: ActionContext, slow: str) -> None:
    await ctx.async_session.execute(text(slow))


async def by_connection(ctx: ActionContext, slow: str) -> None:
    await (await ctx.async_session.connection()).execute(text(slow))


async def by_stream(ctx: ActionContext, slow: str) -> None:
    async for _ in await ctx.async_session.stream(text(slow)):
        pass


async def in_savepoint(ctx: ActionContext, slow: str) -> None:
    async with ctx.async_session.begin_nested():
        await ctx.async_session.execute(text(slow))


@pytest.mark.parametrize("use", [by_session, by_connection, by_stream, in_savepoint])
@pytest.mark.parametrize("goes_on", ["answers", "writes"])
def test_a_handler_that_catches_its_own_timeout_commits_nothing(
    sql_database: SQLDatabase, sql_storage: SQLStorage, tenant: Tenant, use: Use, goes_on: str
) -> None:
    refusals: list[str] = []
    freed: list[bool] = []

    async def patient(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        await ctx.async_records("notes").insert({})
        try:
            async with asyncio.timeout(0.15):
                await use(ctx, SLOW[sql_database.name])
        except TimeoutError:
            # In the middle of the execution, it holds nothing any more.
            freed.append(await asyncio.to_thread(frees_soon, sql_database, sql_storage))
        if goes_on == "writes":
            for again in (
                lambda: ctx.async_records("notes").insert({}),
                lambda: ctx.async_session.execute(text("SELECT 1")),
            ):
                try:
                    await again()
                except Exception as error:
                    refusals.append(str(error))
        return Success("fine")

    answer, _ = run(sql_storage, tenant, patient)

    assert freed == [True]
    assert answer.failure().code is ErrorCode.INTERNAL
    assert "was interrupted" in answer.failure().message
    assert ["was interrupted" in refusal for refusal in refusals] == [True] * (2 if goes_on == "writes" else 0)
    assert notes(sql_storage, tenant) == 0


def test_a_timeout_of_the_action_frees_all_at_once(
    sql_database: SQLDatabase, sql_storage: SQLStorage, tenant: Tenant
) -> None:
    def slow(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.records("notes").insert({})
        ctx.session.execute(text(SLOW[sql_database.name]))
        return Success(None)

    engine = engine_of(sql_storage, slow, timeout=0.3)

    answer = engine.execute_action("w", "slow", {}, as_ann(tenant))

    assert answer.failure().code is ErrorCode.TIMEOUT
    assert frees_soon(sql_database, sql_storage)
    assert notes(sql_storage, tenant) == 0


def test_an_unread_result_blocks_nothing(sql_database: SQLDatabase, sql_storage: SQLStorage, tenant: Tenant) -> None:
    kept: list[Any] = []

    async def peek(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        await ctx.async_records("notes").insert({})
        stream = await ctx.async_session.stream(text(MANY))
        kept.append((stream, await stream.fetchone()))
        return Success(None)

    def peek_sync(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.records("notes").insert({})
        cursor = ctx.session.connection().connection.cursor()
        cursor.execute(MANY)
        kept.append((cursor, cursor.fetchone()))
        return Success(None)

    answer, freed = run(sql_storage, tenant, peek, lambda: frees_soon(sql_database, sql_storage))
    assert (answer, freed) == (Success(None), True)
    assert engine_of(sql_storage, peek_sync).execute_action("w", "peek_sync", {}, as_ann(tenant)) == Success(None)
    assert frees_soon(sql_database, sql_storage)
    # The connection is used again, after another one has written.
    assert engine_of(sql_storage, peek_sync).execute_action("w", "peek_sync", {}, as_ann(tenant)) == Success(None)
    assert notes(sql_storage, tenant) == 3


@pytest.mark.parametrize("has_session", [False, True])
def test_sql_cannot_keep_what_a_failed_nested_action_wrote(
    sql_storage: SQLStorage, tenant: Tenant, has_session: bool
) -> None:
    def inner(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.records("notes").insert({})
        for name in ("ae_1", "sa_savepoint_1"):
            ctx.session.execute(text(f"SAVEPOINT {name}"))
        return Failure("no")

    def outer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        if has_session:
            ctx.session.execute(text("SELECT 1"))
        return Success(isinstance(ctx.execute("w", "inner"), Failure))

    assert engine_of(sql_storage, outer, inner).execute_action("w", "outer", {}, as_ann(tenant)) == Success(True)
    assert notes(sql_storage, tenant) == 0


def attempts() -> list[tuple[str, Callable[[Any], Any], bool]]:
    """Return the steps that a handler tries with its session, and whether its writes survive."""
    return [
        ("close", lambda session: session.close(), True),
        ("reset", lambda session: session.reset(), True),
        ("connection.close", lambda session: session.connection().close(), True),
        ("with connection", lambda session: session.connection().__exit__(None, None, None), True),
        ("invalidate", lambda session: session.invalidate(), False),
        ("connection.detach", lambda session: session.connection().detach(), False),
        ("connection.commit", lambda session: session.connection().commit(), False),
        ("connection.rollback", lambda session: session.connection().rollback(), False),
        ("connection.invalidate", lambda session: session.connection().invalidate(), False),
        ("pooled.close", lambda session: session.connection().connection.close(), False),
        ("pooled.detach", lambda session: session.connection().connection.detach(), False),
        ("pooled.invalidate", lambda session: session.connection().connection.invalidate(), False),
        ("pooled.commit", lambda session: session.connection().connection.commit(), False),
        ("transaction.commit", lambda session: session.connection().get_transaction().commit(), False),
        ("transaction.rollback", lambda session: session.connection().get_transaction().rollback(), False),
    ]


@pytest.mark.parametrize(
    ("name", "attempt", "is_kept"), attempts(), ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_no_use_of_a_session_loses_a_write_silently(
    sql_database: SQLDatabase,
    sql_storage: SQLStorage,
    tenant: Tenant,
    name: str,
    attempt: Callable[[Any], Any],
    is_kept: bool,
    backend: str,
) -> None:
    def meddle(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.session.execute(text("SELECT 1"))
        ctx.records("notes").insert({})
        attempt(ctx.session)
        return Success(None)

    if backend == "sync":
        answer = engine_of(sql_storage, meddle).execute_action("w", "meddle", {}, as_ann(tenant))
        freed = frees_soon(sql_database, sql_storage)
    else:
        answer, freed = run(sql_storage, tenant, meddle, lambda: frees_soon(sql_database, sql_storage))

    assert freed
    assert isinstance(answer, Success) == is_kept, answer
    if isinstance(answer, Failure):
        assert answer.failure().code in {ErrorCode.INTERNAL, ErrorCode.UNAVAILABLE}
    assert notes(sql_storage, tenant) == int(is_kept)


def test_a_read_only_action_does_not_drop_what_is_pending(
    sql_database: SQLDatabase, sql_storage: SQLStorage, tenant: Tenant
) -> None:
    from tests.storage.test_flushed_subjects import Base, Order

    Base.metadata.create_all(sql_database.owner)

    def pending(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.session.add(Order(id=1, tenant_id=ctx.tenant.id, title="x"))
        return Success(None)

    engine = engine_of(sql_storage, pending, read_only=True)

    assert isinstance(engine.execute_action("w", "pending", {}, as_ann(tenant)), Failure)


def test_closing_a_session_writes_what_is_pending(
    sql_database: SQLDatabase, sql_storage: SQLStorage, tenant: Tenant
) -> None:
    from tests.storage.test_flushed_subjects import Base, Order

    Base.metadata.create_all(sql_database.owner)

    def with_session(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        with ctx.session as session:
            session.add(Order(id=1, tenant_id=ctx.tenant.id, title="x"))
        return Success(ctx.session.execute(text("SELECT count(*) FROM orders")).scalar_one())

    async def with_async_session(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        async with ctx.async_session as session:
            session.add(Order(id=2, tenant_id=ctx.tenant.id, title="x"))
        return Success((await ctx.async_session.execute(text("SELECT count(*) FROM orders"))).scalar_one())

    sync = engine_of(sql_storage, with_session).execute_action("w", "with_session", {}, as_ann(tenant))
    assert sync == Success(1)
    assert run(sql_storage, tenant, with_async_session)[0] == Success(2)
