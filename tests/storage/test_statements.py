"""The traffic to PostgreSQL: two statements around any handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from examples.embedded_postgres import Database
from psycopg.pq import Trace
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    Actor,
    Engine,
    PostgresStorage,
    RequestContext,
)
from tests.storage.backends import engine_on


class Traffic(NamedTuple):
    """The executed statements, and the number of times that the client waited for the server."""

    statements: list[str]
    round_trips: int


def plain(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success(None)


def five_events(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    for number in range(5):
        ctx.emit("counted", {"number": number}, subject=f"number/{number}")
    return Success(None)


def nesting(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return ctx.execute("work", "plain", {})


def nesting_writer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return ctx.execute("work", "writing", {})


def writing(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success(ctx.records("notes").insert({"text": "hi"}).id)


@pytest.fixture
def storage(postgres_database: Database) -> Iterator[PostgresStorage]:
    with PostgresStorage(postgres_database.app_url, pool_size=1, max_overflow=0) as storage:
        yield storage


@pytest.fixture
def engine(storage: PostgresStorage) -> Engine:
    return engine_on(storage, plain, five_events, nesting, nesting_writer, writing, service="work")


@pytest.fixture
def request_of(storage: PostgresStorage) -> Callable[[], RequestContext]:
    tenant = storage.create_tenant(slug=f"t-{uuid4().hex}", name="Acme")
    return lambda: RequestContext(tenant=tenant, actor=Actor.human("ann"), idempotency_key=str(uuid4()))


@contextmanager
def traced(connection: Any, path: Path) -> Iterator[None]:
    """Write down the traffic of the client library."""
    with path.open("wb") as file:
        connection.pgconn.trace(file.fileno())
        connection.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        yield
        connection.pgconn.untrace()


def traffic(path: Path, prepared: dict[str, str]) -> Traffic:
    """Return the traffic in a trace. All statements but those that name a savepoint were prepared before."""
    sent = [line.split("\t") for line in path.read_text().splitlines() if line.startswith("F\t")]
    kinds = [message[2] for message in sent]
    assert set(kinds) <= {"Parse", "Bind", "Describe", "Execute", "Sync"}, kinds
    unnamed = [message[3].split('"')[3] for message in sent if message[2] == "Parse"]
    assert all("SAVEPOINT ae_" in statement for statement in unnamed)
    names = [message[3].split('"')[3] for message in sent if message[2] == "Bind"]
    assert len(names) == kinds.count("Execute")
    statements = [prepared[name] if name else unnamed.pop(0) for name in names]
    return Traffic([statement.split()[0] for statement in statements], kinds.count("Sync"))


PREPARED = "SELECT name, statement FROM pg_prepared_statements"


def count_sync(
    storage: PostgresStorage, engine: Engine, action: str, request: Callable[[], RequestContext], path: Path
) -> Traffic:
    for _ in range(2):
        engine.execute_action("work", action, {}, request()).unwrap()
    _, pooled = storage.pools.take("sync")
    driver: Any = pooled.driver_connection
    prepared = dict(driver.execute(PREPARED).fetchall())
    pooled.close()
    with traced(driver, path):
        engine.execute_action("work", action, {}, request()).unwrap()
    return traffic(path, prepared)


def count_async(
    storage: PostgresStorage, engine: Engine, action: str, request: Callable[[], RequestContext], path: Path
) -> Traffic:
    async def count() -> Traffic:
        from sqlalchemy.util import greenlet_spawn

        for _ in range(2):
            (await engine.execute_action_async("work", action, {}, request())).unwrap()
        _, pooled = await greenlet_spawn(storage.pools.take, "async")
        driver: Any = pooled.driver_connection
        prepared = dict(await (await driver.execute(PREPARED)).fetchall())
        await greenlet_spawn(pooled.close)
        with traced(driver, path):
            (await engine.execute_action_async("work", action, {}, request())).unwrap()
        await storage.aclose()
        return traffic(path, prepared)

    return asyncio.run(count())


@pytest.mark.parametrize("count", [count_sync, count_async], ids=["sync", "async"])
@pytest.mark.parametrize("action", ["plain", "five_events", "nesting"])
def test_the_engine_takes_two_statements_and_two_round_trips(
    storage: PostgresStorage,
    engine: Engine,
    request_of: Callable[[], RequestContext],
    tmp_path: Path,
    action: str,
    count: Callable[..., Traffic],
) -> None:
    sent = count(storage, engine, action, request_of, tmp_path / "trace")

    assert sent == Traffic(["BEGIN", "WITH", "WITH", "COMMIT"], round_trips=2)


def test_a_new_document_is_one_statement_more_and_no_round_trip(
    storage: PostgresStorage, engine: Engine, request_of: Callable[[], RequestContext], tmp_path: Path
) -> None:
    sent = count_sync(storage, engine, "writing", request_of, tmp_path / "trace")

    assert sent == Traffic(["BEGIN", "WITH", "INSERT", "WITH", "COMMIT"], round_trips=2)


def test_a_nested_action_that_uses_the_database_adds_a_savepoint(
    storage: PostgresStorage, engine: Engine, request_of: Callable[[], RequestContext], tmp_path: Path
) -> None:
    sent = count_sync(storage, engine, "nesting_writer", request_of, tmp_path / "trace")

    assert sent.statements == ["BEGIN", "WITH", "SAVEPOINT", "INSERT", "RELEASE", "WITH", "COMMIT"]


def test_the_words_of_a_reason_take_no_further_statement(
    storage: PostgresStorage, engine: Engine, request_of: Callable[[], RequestContext], tmp_path: Path
) -> None:
    def with_reason() -> RequestContext:
        return replace(request_of(), reason="Refund for ticket 4711", request_id="request-1")

    sent = count_sync(storage, engine, "nesting", with_reason, tmp_path / "trace")

    assert sent == Traffic(["BEGIN", "WITH", "WITH", "COMMIT"], round_trips=2)
