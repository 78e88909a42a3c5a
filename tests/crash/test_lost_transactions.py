"""Transactions that the database refuses, and handlers that interfere with them: repeated, or refused as a whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database
from returns.result import Failure, Result, Success
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session

from actionengine import ActionContext, ErrorCode, PostgresStorage, SQLiteStorage
from actionengine.storage.sql.storage import SQLStorage
from actionengine.testing import AsyncBackend, Backend
from actionengine.testing.base import error_of, value_of
from tests.crash.ledger import request_of
from tests.crash.notes import notes_engine, notes_request, nothing_is_written, outcomes, put, run_note
from tests.postgres import copy_database

BackendOn = Callable[[SQLStorage], Backend]

TAKE = text("UPDATE stock SET number = number - :much WHERE id = :id")
PAUSE = text("SELECT pg_sleep(0.005)")


@pytest.fixture(scope="module")
def shop(postgres_server: str, postgres_template: Database) -> Database:
    """A database with a table of the host, and a short deadlock timeout."""
    database = copy_database(postgres_server, postgres_template, "shop")
    name = make_url(database.owner_url).database
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE \"{name}\" SET deadlock_timeout = '50ms'")
    with psycopg.connect(database.owner_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE stock (id integer PRIMARY KEY, number integer NOT NULL)")
        connection.execute("GRANT SELECT, INSERT, UPDATE ON stock TO app")
    return database


@pytest.fixture
def stock(shop: Database) -> Iterator[Callable[[], dict[int, int]]]:
    """A function that returns the stock: at first 100 each of two things."""
    with psycopg.connect(shop.owner_url, autocommit=True) as connection:
        connection.execute("TRUNCATE stock")
        connection.execute("INSERT INTO stock VALUES (1, 100), (2, 100)")
        yield lambda: dict(connection.execute("SELECT id, number FROM stock").fetchall())


class Meeting:
    """A point where the first runs of two handlers wait for each other, in their transactions."""

    def __init__(self) -> None:
        self.runs = 0
        self._lock = threading.Lock()

    def arrive(self, session: Session) -> None:
        with self._lock:
            self.runs += 1
        deadline = time.monotonic() + 60
        while self.runs < 2 and time.monotonic() < deadline:
            # A pause in the database lets other tasks continue.
            session.execute(PAUSE)


def both(backend: Backend, engine: Any, action: str, *payloads: Any) -> list[Any]:
    return [
        value_of(answer)
        for answer in backend.run(
            backend.gather(
                *(backend.execute(engine, "notes", action, payload, notes_request(backend)) for payload in payloads)
            )
        )
    ]


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_deadlocked_actions_are_both_done_once(
    shop: Database, stock: Callable[[], dict[int, int]], backend_on: BackendOn, isolation: str
) -> None:
    meeting = Meeting()

    def take_both(order: list[int], ctx: ActionContext) -> Result[None, Any]:
        first, second = order
        ctx.session.execute(TAKE, {"id": first, "much": 1})
        ctx.records("notes").insert({"order": order})
        meeting.arrive(ctx.session)
        ctx.session.execute(TAKE, {"id": second, "much": 1})
        ctx.emit("stock.taken")
        return Success(None)

    backend = backend_on(storage := PostgresStorage(shop.app_url, isolation_level=isolation))

    both(backend, notes_engine(storage, take=take_both), "take", [1, 2], [2, 1])

    assert meeting.runs >= 3
    assert stock() == {1: 98, 2: 98}
    assert len(backend.run(backend.ids("notes"))) == 2
    assert len(backend.run(backend.read_events(backend.tenant))) == 2
    assert outcomes(backend) == ["succeeded", "succeeded"]


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_actions_that_change_what_both_read_are_both_done_once(
    shop: Database, stock: Callable[[], dict[int, int]], backend_on: BackendOn, isolation: str
) -> None:
    meeting = Meeting()

    def take_one(much: int, ctx: ActionContext) -> Result[int, Any]:
        number: int = ctx.session.execute(text("SELECT number FROM stock WHERE id = 1")).scalar_one()
        meeting.arrive(ctx.session)
        ctx.session.execute(text("UPDATE stock SET number = :left WHERE id = 1"), {"left": number - much})
        ctx.records("notes").insert({"left": number - much})
        return Success(number - much)

    backend = backend_on(storage := PostgresStorage(shop.app_url, isolation_level=isolation))

    left = both(backend, notes_engine(storage, take=take_one), "take", 1, 1)

    assert meeting.runs >= 3
    assert sorted(left) == [98, 99]
    assert stock() == {1: 98, 2: 100}
    assert len(backend.run(backend.ids("notes"))) == 2
    assert outcomes(backend) == ["succeeded", "succeeded"]


def test_serializable_actions_have_no_write_skew(
    shop: Database, stock: Callable[[], dict[int, int]], backend_on: BackendOn
) -> None:
    """Each action may empty one shelf while the other is full. The commit of one of them fails."""
    meeting = Meeting()

    def empty(shelf: int, ctx: ActionContext) -> Result[bool, Any]:
        numbers = dict(iter(ctx.session.execute(text("SELECT id, number FROM stock"))))
        meeting.arrive(ctx.session)
        if numbers[3 - shelf] == 0:
            return Success(False)
        ctx.session.execute(TAKE, {"id": shelf, "much": 100})
        return Success(True)

    backend = backend_on(storage := PostgresStorage(shop.app_url, isolation_level="SERIALIZABLE"))

    emptied = both(backend, notes_engine(storage, empty=empty), "empty", 1, 2)

    assert sorted(emptied) == [False, True]
    assert sorted(stock().values()) == [0, 100]
    assert outcomes(backend) == ["succeeded", "succeeded"]


def test_action_that_always_loses_is_a_conflict(shop: Database, backend_on: BackendOn) -> None:
    runs: list[int] = []

    def lose(data: None, ctx: ActionContext) -> Result[None, Any]:
        runs.append(1)
        ctx.records("notes").insert({})
        ctx.session.execute(text("DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$"))
        return Success(None)

    backend = backend_on(storage := PostgresStorage(shop.app_url))

    answer = run_note(backend, notes_engine(storage, lose=lose), "lose")

    error_of(answer, ErrorCode.CONFLICT)
    assert len(runs) == 6
    assert nothing_is_written(backend)


# Statements that take too long


def test_a_statement_that_takes_too_long_is_a_timeout(shop: Database, backend_on: BackendOn) -> None:
    def dawdle(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.records("notes").insert({})
        ctx.session.execute(text("SELECT pg_sleep(60)"))
        return Success(None)

    backend = backend_on(storage := PostgresStorage(shop.app_url, statement_timeout=0.5))
    engine = notes_engine(storage, dawdle=dawdle, put=put)

    answer = run_note(backend, engine, "dawdle")

    error_of(answer, ErrorCode.TIMEOUT)
    assert nothing_is_written(backend)
    value_of(run_note(backend, engine, "put"))


@pytest.mark.parametrize("has_key", [True, False], ids=["with a key", "without a key"])
def test_a_lock_that_does_not_come_in_time_is_a_conflict(
    shop: Database, stock: Callable[[], dict[int, int]], backend_on: BackendOn, has_key: bool
) -> None:
    def take(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.records("notes").insert({})
        ctx.session.execute(TAKE, {"id": 1, "much": 1})
        return Success(None)

    backend = backend_on(storage := PostgresStorage(shop.app_url, lock_timeout=0.2, statement_timeout=30.0))
    engine = notes_engine(storage, take=take)
    request = request_of(backend.tenant, uuid4().hex if has_key else None)

    with psycopg.connect(shop.owner_url) as holder:
        holder.execute("UPDATE stock SET number = 50 WHERE id = 1")
        answer = run_note(backend, engine, "take", request)
        holder.rollback()

    error_of(answer, ErrorCode.CONFLICT)
    assert nothing_is_written(backend)
    value_of(run_note(backend, engine, "take", request))
    assert stock() == {1: 99, 2: 100}


# Handlers that swallow the database's errors


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("SELECT 1 / 0", id="an error in the data"),
        pytest.param("SELECT * FROM no_such_table", id="an error in the statement"),
        pytest.param("INSERT INTO stock VALUES (1, 1)", id="a taken key"),
        pytest.param("SELECT pg_terminate_backend(pg_backend_pid())", id="a lost connection"),
        pytest.param("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$", id="a deadlock"),
    ],
)
@pytest.mark.parametrize("goes_on", [True, False], ids=["and goes on", "and ends"])
def test_swallowed_database_error_fails_the_whole_action(
    shop: Database, stock: Callable[[], dict[int, int]], backend_on: BackendOn, statement: str, goes_on: bool
) -> None:
    def swallow(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.records("notes").insert({})
        ctx.emit("notes.put")
        try:
            ctx.session.execute(text(statement))
        except Exception:
            if goes_on:
                ctx.records("notes").insert({})
        return Success(None)

    backend = backend_on(storage := PostgresStorage(shop.app_url))
    engine = notes_engine(storage, swallow=swallow, put=put)

    answer = run_note(backend, engine, "swallow")

    assert answer.failure().code in {ErrorCode.INTERNAL, ErrorCode.UNAVAILABLE, ErrorCode.CONFLICT}
    assert nothing_is_written(backend)
    value_of(run_note(backend, engine, "put"))


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> SQLStorage:
    if request.param == "sqlite":
        return SQLiteStorage(tmp_path / "notes.db")
    database: Database = request.getfixturevalue("postgres_database")
    return PostgresStorage(database.app_url)


def test_nested_transaction_contains_a_failed_statement(storage: SQLStorage, backend_on: BackendOn) -> None:
    def attempt(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.records("notes").insert({}, "before")
        try:
            with ctx.session.begin_nested():
                ctx.records("notes").insert({}, "within")
                ctx.session.execute(text("SELECT * FROM no_such_table"))
        except Exception:
            ctx.records("notes").insert({}, "after")
        return Success(None)

    backend = backend_on(storage)

    answer = run_note(backend, notes_engine(storage, attempt=attempt), "attempt")

    value_of(answer)
    assert backend.run(backend.ids("notes")) == ["after", "before"]


# Handlers that end the transaction themselves


def say(*statements: str) -> Callable[[Session], None]:
    def run(session: Session) -> None:
        for statement in statements:
            session.execute(text(statement))

    return run


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_session_refuses_to_end_the_transaction(storage: SQLStorage, backend_on: BackendOn, end: str) -> None:
    def meddle(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.records("notes").insert({})
        ctx.session.execute(text("SELECT 1"))
        getattr(ctx.session, end)()
        return Success(None)

    backend = backend_on(storage)
    engine = notes_engine(storage, meddle=meddle)

    answer = run_note(backend, engine, "meddle")

    assert "the pipeline" in error_of(answer, ErrorCode.INTERNAL).message
    assert nothing_is_written(backend)


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_an_async_session_refuses_to_end_the_transaction(storage: SQLStorage, end: str) -> None:
    async def meddle(data: None, ctx: ActionContext) -> Result[None, Any]:
        await ctx.async_records("notes").insert({})
        await ctx.async_session.execute(text("SELECT 1"))
        await getattr(ctx.async_session, end)()
        return Success(None)

    backend = AsyncBackend(storage)
    engine = notes_engine(storage, meddle=meddle)

    answer = run_note(backend, engine, "meddle")

    error_of(answer, ErrorCode.INTERNAL)
    assert nothing_is_written(backend)
    backend.close()


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(say("COMMIT"), id="commits"),
        pytest.param(say("ROLLBACK"), id="rolls back"),
        pytest.param(lambda session: session.connection().commit(), id="commits its connection"),
        pytest.param(say("COMMIT", "BEGIN"), id="commits and begins again"),
        pytest.param(say("ROLLBACK", "BEGIN"), id="rolls back and begins again"),
    ],
)
def test_handler_that_ends_the_transaction_has_failed(
    storage: SQLStorage, backend_on: BackendOn, end: Callable[[Session], None]
) -> None:
    """The handler's own commit stands, but the action fails, and no event is emitted."""

    def meddle(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.records("notes").insert({}, "of the handler")
        ctx.emit("notes.put")
        end(ctx.session)
        return Success(None)

    backend = backend_on(storage)
    engine = notes_engine(storage, meddle=meddle, put=put)

    answer = run_note(backend, engine, "meddle")

    assert isinstance(answer, Failure)
    assert answer.failure().code in {ErrorCode.INTERNAL, ErrorCode.HANDLER_ERROR}
    assert list(backend.run(backend.read_events(backend.tenant))) == []
    assert outcomes(backend) == ["failed"]
    value_of(run_note(backend, engine, "put"))
