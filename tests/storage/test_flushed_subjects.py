"""Rows of a host's own tables that a session has changed are subjects in the action log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from returns.result import Failure, Result, Success
from sqlalchemy import ForeignKey, Integer, Text, delete, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from actionengine import (
    ActionContext,
    Engine,
    Tenant,
    protect_table,
)
from actionengine.storage.rows import MAX_FLUSHED_SUBJECTS
from tests.conftest import log_of
from tests.storage.backends import SQLDatabase, SQLStorage, as_ann, engine_on


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    tenant_id: Mapped[UUID]
    title: Mapped[str] = mapped_column(Text)
    lines: Mapped[list[Line]] = relationship(cascade="all, delete-orphan")


class Line(Base):
    __tablename__ = "order_lines"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    text: Mapped[str] = mapped_column(Text)


class Ticket(Base):
    __tablename__ = "tickets"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    tenant_id: Mapped[UUID]


class Visit(Base):
    """A protected table that is left out of the log."""

    __tablename__ = "visits"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    tenant_id: Mapped[UUID]


class Note(Base):
    """A table without protection."""

    __tablename__ = "plain_notes"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)


for mapped, names_rows in ((Order, True), (Line, True), (Ticket, True), (Visit, False)):
    protect_table(mapped.__table__, app_role="app", subjects=names_rows)


def order(ctx: ActionContext, id: int, title: str = "x") -> Order:
    return Order(id=id, tenant_id=ctx.tenant.id, title=title)


def line(ctx: ActionContext, order_id: int, number: int) -> Line:
    return Line(tenant_id=ctx.tenant.id, order_id=order_id, number=number, text="x")


def add(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.session.add(order(ctx, data["id"]))
    return Failure("no") if data.get("fails") else Success(None)


def add_numbered(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Add a row whose number the database chooses."""
    made = Ticket(tenant_id=ctx.tenant.id)
    ctx.session.add(made)
    ctx.session.flush()
    return Success(made.id)


def edit(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Change one row, set one to its own value, and read one."""
    changed, same, _ = ctx.session.scalars(select(Order).where(Order.id.in_([1, 2, 3])).order_by(Order.id))
    changed.title = "changed"
    same.title = str(same.title)
    return Success(None)


def remove(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.session.delete(ctx.session.get(Order, data["id"]))
    return Success(None)


def fill(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    found = ctx.session.get(Order, 1)
    found.lines.append(line(ctx, 1, 7))
    return Success(None)


def empty(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    found = ctx.session.get(Order, 1)
    found.lines.clear()
    return Success(None)


def quiet(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.session.add(Visit(tenant_id=ctx.tenant.id))
    ctx.session.add(Note())
    return Success(None)


def many(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    for id in range(1000, 1000 + MAX_FLUSHED_SUBJECTS + 20):
        ctx.session.add(order(ctx, id))
        if id % 30 == 0:
            ctx.session.flush()
    return Success(None)


def in_savepoints(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.session.add(order(ctx, 11))
    savepoint = ctx.session.begin_nested()
    ctx.session.add(order(ctx, 12))
    ctx.session.flush()
    savepoint.rollback()
    with ctx.session.begin_nested():
        ctx.session.add(order(ctx, 13))
    return Success(None)


def around(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.session.add(order(ctx, 21))
    ctx.execute("orders", "add", {"id": 22, "fails": True})
    ctx.session.add(order(ctx, 23))
    ctx.execute("orders", "add", {"id": 24})
    ctx.session.add(order(ctx, 25))
    return Success(None)


def nested_first(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Use the session in nested actions first."""
    ctx.execute("orders", "add", {"id": 31, "fails": True})
    ctx.execute("orders", "add", {"id": 32})
    ctx.session.add(order(ctx, 33))
    return Success(None)


def statement(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    run: dict[str, Callable[[], Any]] = {
        "update": lambda: ctx.session.execute(update(Order).values(title="all")),
        "delete": lambda: ctx.session.execute(delete(Order).where(Order.id == 1)),
        "insert": lambda: ctx.session.execute(
            insert(Base.metadata.tables["orders"]).values(id=41, tenant_id=ctx.tenant.id, title="x")
        ),
        "insert many": lambda: ctx.session.execute(
            insert(Order), [{"id": id, "tenant_id": ctx.tenant.id, "title": "x"} for id in (51, 52)]
        ),
        "bulk": lambda: ctx.session.bulk_save_objects([order(ctx, 61)]),
        "select": lambda: ctx.session.execute(select(Order)),
    }
    run[data]()
    return Success(None)


async def add_async(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.async_session.add(order(ctx, 71))
    await ctx.async_session.flush()
    ctx.async_session.add(line(ctx, 71, 1))
    return Success(None)


HANDLERS: tuple[Callable[..., Any], ...] = (
    add,
    add_numbered,
    edit,
    remove,
    fill,
    empty,
    quiet,
    many,
    in_savepoints,
    around,
    nested_first,
    statement,
    add_async,
)


@pytest.fixture
def storage(sql_storage: SQLStorage) -> SQLStorage:
    return sql_storage


@pytest.fixture
def engine(sql_database: SQLDatabase, sql_storage: SQLStorage) -> Engine:
    Base.metadata.create_all(sql_database.owner)
    if sql_database.name == "postgresql":
        with sql_database.owning() as connection:
            connection.exec_driver_sql("GRANT SELECT, INSERT ON plain_notes TO app")
            connection.exec_driver_sql("GRANT USAGE ON SEQUENCE plain_notes_id_seq TO app")
    return engine_on(sql_storage, *HANDLERS, service="orders")


@pytest.fixture(params=["sync", "async"])
def subjects(request: pytest.FixtureRequest, engine: Engine, sql_storage: SQLStorage, acme: Tenant) -> Any:
    """Return the subjects of an action, after the insertion of three orders and a line."""
    context = as_ann(acme)

    def set_up(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.session.add_all([order(ctx, id) for id in (1, 2, 3)])
        ctx.session.flush()
        ctx.session.add(line(ctx, 1, 1))
        return Success(None)

    engine_on(sql_storage, set_up, service="setting").execute_action("setting", "set_up", {}, context).unwrap()

    async def run(name: str, data: Any) -> Any:
        answer = await engine.execute_action_async("orders", name, data, context)
        await sql_storage.aclose()
        return answer

    def subjects(name: str, data: Any = None) -> list[tuple[str, list[str]]]:
        if request.param == "sync":
            answer = engine.execute_action("orders", name, data or {}, context)
        else:
            answer = asyncio.run(run(name, data or {}))
        if not (isinstance(data, dict) and data.get("fails")):
            answer.unwrap()
        rows = [row for row in log_of(engine, acme) if row.action.startswith("orders.")]
        return [(row.action.removeprefix("orders."), sorted(row.subjects)) for row in rows]

    return subjects


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("edit", ["orders/1"]),
        ("fill", ["order_lines/1,7"]),
        ("empty", ["order_lines/1,1"]),
        ("quiet", []),
        ("in_savepoints", ["orders/11", "orders/13"]),
    ],
)
def test_rows_that_a_flush_changes_are_subjects(subjects: Any, action: str, expected: list[str]) -> None:
    assert subjects(action) == [(action, expected)]


def test_rows_that_go_are_subjects_with_what_goes_with_them(subjects: Any) -> None:
    assert subjects("remove", {"id": 1}) == [("remove", ["order_lines/1,1", "orders/1"])]


def test_a_key_that_the_database_gives_is_known(subjects: Any) -> None:
    ((_, (subject,)),) = subjects("add_numbered")

    assert subject == "tickets/1"


def test_the_changes_of_a_record_are_found(subjects: Any, engine: Engine, acme: Tenant) -> None:
    subjects("edit")

    assert [row.action for row in log_of(engine, acme, subject="orders/1")] == ["setting.set_up", "orders.edit"]
    assert [row.action for row in log_of(engine, acme, subject="orders/2")] == ["setting.set_up"]


def test_rows_are_the_subjects_of_the_action_that_changed_them(subjects: Any) -> None:
    assert subjects("around") == [
        ("around", ["orders/21", "orders/23", "orders/25"]),
        ("add", []),
        ("add", ["orders/24"]),
    ]


def test_rows_are_subjects_of_the_nested_action_that_wrote_them(subjects: Any) -> None:
    assert subjects("nested_first") == [("nested_first", ["orders/33"]), ("add", []), ("add", ["orders/32"])]


def test_a_failed_action_has_changed_no_row(subjects: Any) -> None:
    assert subjects("add", {"id": 9, "fails": True}) == [("add", [])]


def test_rows_beyond_the_bound_are_not_named(subjects: Any) -> None:
    ((_, found),) = subjects("many")

    assert len(found) == MAX_FLUSHED_SUBJECTS + 1
    assert "orders/*" in found


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("update", ["orders/*"]),
        ("delete", ["orders/*"]),
        ("insert", ["orders/41"]),
        ("insert many", ["orders/*"]),
        ("bulk", ["orders/*"]),
        ("select", []),
    ],
)
def test_statements_name_their_table(engine: Engine, acme: Tenant, kind: str, expected: list[str]) -> None:
    engine.execute_action("orders", "statement", kind, as_ann(acme)).unwrap()

    assert [list(row.subjects) for row in log_of(engine, acme)] == [expected]


@pytest.mark.parametrize("subjects", ["async"], indirect=True)
def test_an_async_handler_names_its_rows(subjects: Any) -> None:
    assert subjects("add_async") == [("add_async", ["order_lines/71,1", "orders/71"])]
