"""Deadlines on a database: a handler whose thread was abandoned cannot use it any more."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from returns.result import Result, Success
from sqlalchemy import text

from actionengine import (
    ActionContext,
    Actor,
    Engine,
    ErrorCode,
    RequestContext,
)
from tests.conftest import log_of, make_action
from tests.storage.backends import SQLDatabase, SQLStorage, engine_on

SLOW = {
    "postgresql": "SELECT pg_sleep(600)",
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 4000000000) SELECT count(*) FROM n",
}
BOUND = 60.0
"""Seconds: far above the deadlines here, far below the work that they end."""

Go = Callable[..., Any]


@pytest.fixture
def late() -> list[str]:
    """The errors of handlers after their deadline."""
    return []


@pytest.fixture
def release() -> threading.Event:
    return threading.Event()


@pytest.fixture
def engine(sql_database: SQLDatabase, sql_storage: SQLStorage, late: list[str], release: threading.Event) -> Engine:
    def quick(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.records("notes").insert({})
        return Success(ctx.session.execute(text("SELECT count(*) FROM ae_documents")).scalar())

    def slow_statement(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        session = ctx.session
        try:
            # On a busy machine, the time may be up already.
            ctx.records("notes").insert({})
            session.execute(text(SLOW[sql_database.name]))
        except Exception:
            try:
                session.execute(text("SELECT 1"))
            except Exception as error:
                late.append(str(error))
            raise
        return Success(None)

    def slow_itself(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        try:
            notes = ctx.records("notes")
            notes.insert({})
            release.wait(60)
            notes.insert({})
        except Exception as error:
            late.append(str(error))
            raise
        return Success(None)

    def nesting(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.authorize("notes.write")
        return ctx.execute("notes", "quick", {})

    def holding(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.records("notes").insert({}, "held")
        late.append("holding")
        release.wait(60)
        return Success(None)

    timeouts = {quick: 60.0, slow_statement: 0.3, slow_itself: 0.3, nesting: 60.0, holding: None}
    actions = [make_action(handler.__name__, handler, timeout=timeout) for handler, timeout in timeouts.items()]
    return engine_on(sql_storage, *actions, service="notes")


@pytest.fixture
def request_context(sql_storage: SQLStorage) -> RequestContext:
    tenant = sql_storage.create_tenant(slug="acme", name="Acme")
    return RequestContext(tenant=tenant, actor=Actor.human("ann", permissions=["notes.write"]))


@pytest.fixture(params=["sync", "async"])
def go(request: pytest.FixtureRequest, engine: Engine, sql_storage: SQLStorage, request_context: RequestContext) -> Go:
    def sync(*actions: str) -> list[Any]:
        return [engine.execute_action("notes", action, {}, request_context) for action in actions]

    def asynchronous(*actions: str) -> list[Any]:
        async def run() -> list[Any]:
            answers = [await engine.execute_action_async("notes", action, {}, request_context) for action in actions]
            await sql_storage.aclose()
            return answers

        return asyncio.run(run())

    return sync if request.param == "sync" else asynchronous


def test_a_def_handler_with_a_deadline_uses_the_database(go: Go) -> None:
    assert go("quick", "nesting") == [Success(1), Success(2)]


def test_a_statement_is_stopped_at_the_deadline(go: Go, late: list[str]) -> None:
    started = time.monotonic()

    stopped, quick = go("slow_statement", "quick")

    assert time.monotonic() - started < BOUND
    assert stopped.failure().code is ErrorCode.TIMEOUT
    assert quick == Success(1)
    deadline = time.monotonic() + BOUND
    while not late and time.monotonic() < deadline:
        time.sleep(0.01)
    assert late == ["this execution has ended, and its unit of work with it"]


def test_a_handler_that_is_left_behind_writes_nothing_more(
    go: Go, engine: Engine, request_context: RequestContext, late: list[str], release: threading.Event
) -> None:
    stopped, quick = go("slow_itself", "quick")
    release.set()

    assert stopped.failure().code is ErrorCode.TIMEOUT
    assert quick == Success(1)
    deadline = time.monotonic() + BOUND
    while not late and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(late) == 1
    assert "has ended" in late[0]
    assert request_context.tenant is not None
    assert [entry.outcome for entry in log_of(engine, request_context.tenant)] == ["failed", "succeeded"]


@pytest.mark.parametrize("sql_database", ["sqlite"], indirect=True)
def test_an_abandoned_handler_never_takes_the_writer_lock(
    go: Go, engine: Engine, request_context: RequestContext, late: list[str], release: threading.Event
) -> None:
    holder = threading.Thread(target=engine.execute_action, args=("notes", "holding", {}, request_context))
    holder.start()
    while not late:
        time.sleep(0.01)

    (stopped,) = go("slow_itself")
    release.set()
    holder.join()
    time.sleep(0.1)

    assert stopped.failure().code is ErrorCode.TIMEOUT
    assert go("quick") == [Success(2)]
