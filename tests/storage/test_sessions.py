"""A host's own tables: the session of a handler in the transaction of its action, on each SQL backend."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest
from returns.result import Failure, Result, Success
from sqlalchemy import Text, UniqueConstraint, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from actionengine import (
    ActionContext,
    ConfigurationError,
    Engine,
    ErrorCode,
    RequestContext,
    Tenant,
    protect_table,
)
from tests.conftest import log_of, make_action
from tests.storage.backends import SQLDatabase, SQLStorage, as_ann, engine_on


class Base(DeclarativeBase):
    pass


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(Text)


protect_table(Job.__table__, app_role="app")


def add(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.session.add(Job(tenant_id=ctx.tenant.id, id=data["id"], name=data.get("name", "mend")))
    ctx.records("notes").insert({"of": data["id"]}, f"n{data['id']}")
    return Failure("changed my mind") if data.get("fails") else Success(data["id"])


async def add_async(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.async_session.add(Job(tenant_id=ctx.tenant.id, id=data["id"], name=data.get("name", "mend")))
    await ctx.async_records("notes").insert({"of": data["id"]}, f"n{data['id']}")
    await ctx.async_session.flush()
    return Failure("changed my mind") if data.get("fails") else Success(data["id"])


def names(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success([job.name for job in ctx.session.scalars(select(Job).order_by(Job.id))])


def add_around_failure(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Add one job before a failing nested action and one after it; then change the first one."""
    first = Job(tenant_id=ctx.tenant.id, id=1, name="first")
    ctx.session.add(first)
    failed = ctx.execute("jobs", "add", {"id": 2, "fails": True})
    assert isinstance(failed, Failure)
    ctx.execute("jobs", "add", {"id": 3, "name": "third"}).unwrap()
    first.name = "first, changed"
    return Success(None)


def add_pending(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Add a job without a flush."""
    ctx.session.add(Job(tenant_id=ctx.tenant.id, id=data["id"], name="pending"))
    return Failure("changed my mind") if data.get("fails") else Success(data["id"])


def peek_and_add(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return add_pending(data, ctx)


def peek_and_fail(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    if data.get("inner"):
        ctx.execute("jobs", "peek_and_fail", {})
        ctx.session.execute(text(f"INSERT INTO jobs VALUES ('{ctx.tenant.id}', 99, 'sneaked in')"))
    return Failure("nothing to see")


def nested(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Execute an action, then write."""
    answer = ctx.execute("jobs", data["action"], data["payload"])
    ctx.records("notes").insert({"after": data["action"]})
    return Success(isinstance(answer, Success))


def add_around_failed_flush(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Let the nested action use the session first; its flush fails."""
    ctx.records("notes").insert({}, "before")
    failed = ctx.execute("jobs", "add", {"id": 9, "name": data["taken"]}).failure()
    ctx.execute("jobs", "add", {"id": 8, "name": "free"}).unwrap()
    ctx.session.add(Job(tenant_id=ctx.tenant.id, id=7, name="own"))
    return Success(failed.code)


def records_in_a_savepoint(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.session.add(Job(tenant_id=ctx.tenant.id, id=1, name="kept"))
    savepoint = ctx.session.begin_nested()
    ctx.records("notes").insert({}, "undone")
    ctx.records("notes").insert({})
    savepoint.rollback()
    ctx.records("notes").insert({}, "kept")
    return Success([record.id for record in ctx.records("notes").list()])


def commit(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.session.commit()
    return Success(None)


def commit_by_hand(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    add(data, ctx)
    ctx.session.flush()
    ctx.session.execute(text(data["end"]))
    return Success(None)


def swallow(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    add(data, ctx)
    ctx.session.flush()
    try:
        ctx.session.execute(text("SELECT nothing FROM nowhere"))
    except Exception:
        return Success("fine")
    raise AssertionError


def swallow_in_a_savepoint(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    add(data, ctx)
    try:
        with ctx.session.begin_nested():
            ctx.session.execute(text("SELECT nothing FROM nowhere"))
    except Exception:
        return Success("fine")
    raise AssertionError


def add_for_another(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.session.execute(insert(Job).values(tenant_id=UUID(data["tenant"]), id=1, name="theirs"))
    return Success(None)


def take_over(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.session.execute(update(Job).values(tenant_id=UUID(data["tenant"])))
    return Success(None)


KEPT: list[Any] = []


def keep(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.session.execute(text("SELECT 1"))
    KEPT.append(ctx.session)
    return Success(None)


HANDLERS: tuple[Callable[..., Any], ...] = (
    add,
    add_async,
    names,
    add_around_failure,
    add_pending,
    peek_and_add,
    peek_and_fail,
    nested,
    add_around_failed_flush,
    records_in_a_savepoint,
    commit,
    commit_by_hand,
    swallow,
    swallow_in_a_savepoint,
    add_for_another,
    take_over,
    keep,
)


@pytest.fixture
def engine(sql_database: SQLDatabase, sql_storage: SQLStorage) -> Engine:
    Base.metadata.create_all(sql_database.owner)
    actions = [
        make_action(
            handler.__name__,
            handler,
            read_only=handler in (names, peek_and_add, peek_and_fail),
            timeout=30 if handler is swallow_in_a_savepoint else None,
        )
        for handler in HANDLERS
    ]
    return engine_on(sql_storage, *actions, service="jobs")


@pytest.fixture
def storage(sql_storage: SQLStorage) -> SQLStorage:
    """Return the storage in which the tenants are created."""
    return sql_storage


@pytest.fixture
def execute(sql_storage: SQLStorage, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Execute as everywhere, and close the connections of each event loop with it."""
    del request

    def asynchronous(engine: Engine, name: str, payload: Any, context: RequestContext) -> Any:
        async def run() -> Any:
            service, _, action = name.partition(".")
            answer = await engine.execute_action_async(service, action, payload, context)
            await sql_storage.aclose()
            return answer

        return asyncio.run(run())

    return asynchronous


def execute_sync(engine: Engine, name: str, payload: Any, context: RequestContext) -> Any:
    service, _, action = name.partition(".")
    return engine.execute_action(service, action, payload, context)


@pytest.fixture(params=["sync", "async"])
def go(request: pytest.FixtureRequest, execute: Callable[..., Any], engine: Engine, acme: Tenant) -> Callable[..., Any]:
    door = execute_sync if request.param == "sync" else execute

    def go(action: str, payload: Any = None, tenant: Tenant = acme) -> Any:
        return door(engine, f"jobs.{action}", payload or {}, as_ann(tenant))

    return go


def test_rows_and_documents_commit_together(go: Callable[..., Any], engine: Engine, acme: Tenant) -> None:
    assert go("add", {"id": 1, "name": "mend"}) == Success(1)

    assert go("names") == Success(["mend"])
    assert [entry.subjects for entry in log_of(engine, acme, action="jobs.add")] == [("notes/n1", "jobs/1")]


def test_rows_and_documents_roll_back_together(go: Callable[..., Any]) -> None:
    assert isinstance(go("add", {"id": 1, "fails": True}), Failure)

    assert go("names") == Success([])
    assert go("add", {"id": 1}) == Success(1)


def test_an_async_handler_has_an_async_session(
    execute: Callable[..., Any], go: Callable[..., Any], engine: Engine, acme: Tenant
) -> None:
    assert execute(engine, "jobs.add_async", {"id": 1}, as_ann(acme)) == Success(1)
    assert isinstance(execute(engine, "jobs.add_async", {"id": 2, "fails": True}, as_ann(acme)), Failure)

    assert go("names") == Success(["mend"])


def test_a_nested_action_that_fails_takes_back_its_own_rows_only(go: Callable[..., Any]) -> None:
    assert go("add_around_failure") == Success(None)

    assert go("names") == Success(["first, changed", "third"])


@pytest.mark.parametrize(
    ("action", "payload", "is_done"),
    [
        ("add_pending", {"id": 1}, True),
        ("add_pending", {"id": 1, "fails": True}, False),
        ("peek_and_add", {"id": 1}, False),
        ("peek_and_fail", {}, False),
        ("peek_and_fail", {"inner": True}, False),
    ],
)
def test_pending_rows_of_a_nested_action_follow_it(
    go: Callable[..., Any], action: str, payload: Any, is_done: bool
) -> None:
    assert go("nested", {"action": action, "payload": payload}) == Success(is_done)

    assert go("names") == Success(["pending"] if is_done else [])


def test_a_failed_nested_flush_undoes_only_the_nested_action(go: Callable[..., Any]) -> None:
    go("add", {"id": 1, "name": "mend"}).unwrap()

    assert go("add_around_failed_flush", {"taken": "mend"}) == Success("conflict")

    assert go("names") == Success(["mend", "own", "free"])


def test_documents_follow_a_handlers_own_savepoint(go: Callable[..., Any]) -> None:
    assert go("records_in_a_savepoint") == Success(["kept"])

    assert go("names") == Success(["kept"])


def test_a_taken_key_found_at_the_flush_is_a_conflict(go: Callable[..., Any]) -> None:
    go("add", {"id": 1, "name": "mend"}).unwrap()

    error = go("add", {"id": 2, "name": "mend"}).failure()

    assert error.code is ErrorCode.CONFLICT
    assert "mend" not in error.message
    assert go("names") == Success(["mend"])


def test_the_session_does_not_commit(go: Callable[..., Any]) -> None:
    error = go("commit").failure()

    assert error.code is ErrorCode.INTERNAL
    assert "the pipeline commits" in error.message


ENDS = ("COMMIT", "commit and chain", " ;-- x\n/* y; */ End", "ABORT", "ROLLBACK", "PREPARE TRANSACTION 'x'")


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_the_transaction_is_refused_before_it_is_sent(
    go: Callable[..., Any], engine: Engine, acme: Tenant, end: str
) -> None:
    error = go("commit_by_hand", {"id": 1, "end": end}).failure()

    assert error.code is ErrorCode.INTERNAL
    assert "a handler's SQL cannot end the transaction" in error.message
    assert [entry.outcome for entry in log_of(engine, acme)] == ["failed"]
    assert go("names").unwrap() == []


@pytest.mark.parametrize("end", ["ROLLBACK TO SAVEPOINT nowhere", "rollback to nowhere", "SELECT 1 -- COMMIT"])
def test_other_statements_are_the_handlers_own(go: Callable[..., Any], end: str) -> None:
    answer = go("commit_by_hand", {"id": 1, "end": end})

    assert "cannot end the transaction" not in str(answer)


def test_a_swallowed_error_of_the_database_does_not_commit_half(
    go: Callable[..., Any], sql_database: SQLDatabase
) -> None:
    answer = go("swallow", {"id": 1})

    if sql_database.name == "sqlite":
        # There, the transaction continues after the error, with the writes before it.
        assert answer == Success("fine")
        assert go("names") == Success(["mend"])
    else:
        assert answer.failure().code is ErrorCode.INTERNAL
        assert go("names") == Success([])


def test_an_error_inside_a_savepoint_can_be_swallowed(go: Callable[..., Any]) -> None:
    assert go("swallow_in_a_savepoint", {"id": 1}) == Success("fine")

    assert go("names") == Success(["mend"])


def test_a_session_is_refused_after_its_execution(go: Callable[..., Any]) -> None:
    KEPT.clear()
    go("keep").unwrap()

    with pytest.raises(Exception, match="has ended"):
        KEPT[0].execute(text("SELECT 1"))


# Protected tables


def test_a_handler_cannot_write_another_tenants_rows(go: Callable[..., Any], acme: Tenant, globex: Tenant) -> None:
    go("add", {"id": 1}, globex).unwrap()

    assert go("add_for_another", {"tenant": str(globex.id)}).failure().code is ErrorCode.INTERNAL
    go("add", {"id": 5, "name": "mine"}).unwrap()
    assert isinstance(go("take_over", {"tenant": str(globex.id)}), Failure)

    assert go("names", tenant=globex).unwrap()[0] == "mend"
    assert len(go("names", tenant=globex).unwrap()) <= 2


def test_no_write_outside_an_action_succeeds(
    go: Callable[..., Any], sql_database: SQLDatabase, acme: Tenant, sql_storage: SQLStorage
) -> None:
    go("add", {"id": 1}).unwrap()
    connection: Any
    if sql_database.name == "sqlite":
        connection = sqlite3.connect(sql_storage.pools.name)
        refused: type[Exception] = sqlite3.OperationalError
        told = "no such function: ae_writing_tenant"
    else:
        url = sql_storage.pools.engine("sync").url.set(drivername="postgresql")
        connection = psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)
        refused = psycopg.Error
        told = "outside an action: go through the engine"

    for statement in (
        f"INSERT INTO jobs (tenant_id, id, name) VALUES ('{acme.id}', 9, 'past')",
        "UPDATE jobs SET name = 'past'",
        "DELETE FROM jobs",
    ):
        with pytest.raises(refused, match=told):
            connection.execute(statement)
    connection.close()

    assert go("names") == Success(["mend"])


def test_a_table_without_a_tenant_column_cannot_be_protected() -> None:
    with pytest.raises(ConfigurationError, match="no column 'customer_id'"):
        protect_table(Job.__table__, tenant_column="customer_id")
