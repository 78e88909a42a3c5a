"""Databases that are full, broken, busy or missing: `unavailable`, in bounded time, and nothing half written."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from examples.embedded_postgres import Database
from returns.result import Result, Success
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from actionengine import ActionContext, ErrorCode, PostgresStorage, SQLiteStorage, StorageUnavailable
from actionengine.storage.sql.storage import SQLStorage
from actionengine.testing import Backend
from actionengine.testing.base import error_of, value_of
from tests.crash.notes import look, notes_engine, notes_request, nothing_is_written, outcomes, put, run_note

BOUND = 60.0
"""Seconds that a refusal may take."""

BackendOn = Callable[[SQLStorage], Backend]


@contextmanager
def bounded() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < BOUND


# A full disk


class SmallDisk:
    """A SQLite file that can grow by a number of pages only."""

    def __init__(self, path: Path) -> None:
        with SQLiteStorage(path) as storage:
            engine = storage.pools.engine("sync")
            with engine.connect() as connection:
                self._used: int = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        self.room = 40
        self.storage = SQLiteStorage(
            path,
            engine=create_engine(f"sqlite:///{path}", poolclass=NullPool),
            async_engine=create_async_engine(f"sqlite+aiosqlite:///{path}", poolclass=NullPool),
        )
        for mode_engine in (self.storage.pools._given, self.storage.pools._given_async.sync_engine):  # type: ignore[union-attr]
            event.listen(mode_engine, "connect", self._limit)

    def _limit(self, connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count = {self._used + self.room}")
        cursor.close()


def put_much(data: None, ctx: ActionContext) -> Result[None, Any]:
    ctx.records("notes").insert({"text": "x" * 10_000})
    ctx.records("notes").insert({"text": "x" * 10_000})
    ctx.emit("notes.put")
    return Success(None)


def put_as_much_as_possible(data: None, ctx: ActionContext) -> Result[None, Any]:
    notes = ctx.records("notes")
    try:
        while True:
            notes.insert({"text": "x" * 10_000})
    except Exception:
        return Success(None)


def test_full_disk_is_unavailable_and_nothing_is_written(tmp_path: Path, backend_on: BackendOn) -> None:
    disk = SmallDisk(tmp_path / "small.db")
    backend = backend_on(disk.storage)
    engine = notes_engine(disk.storage, put=put_much)
    value_of(run_note(backend, engine, "put"))
    done = 1

    while isinstance(answer := run_note(backend, engine, "put", last := notes_request(backend)), Success):
        done += 1

    error_of(answer, ErrorCode.UNAVAILABLE)
    assert len(backend.run(backend.ids("notes"))) == 2 * done
    assert len(backend.run(backend.read_events(backend.tenant))) == done
    assert outcomes(backend).count("succeeded") == done

    disk.room = 1000
    value_of(run_note(backend, engine, "put", last))
    value_of(run_note(backend, engine, "put", last))
    assert len(backend.run(backend.ids("notes"))) == 2 * done + 2


def test_caught_error_of_a_full_disk_leaves_nothing_written(tmp_path: Path, backend_on: BackendOn) -> None:
    disk = SmallDisk(tmp_path / "small.db")
    backend = backend_on(disk.storage)
    engine = notes_engine(disk.storage, put=put_as_much_as_possible)

    answer = run_note(backend, engine, "put")

    assert answer.failure().code in {ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL}
    assert nothing_is_written(backend)


# Files that are none of ours


def not_a_database(path: Path) -> None:
    path.write_bytes(b"These are notes of somebody's, and no database at all.\n" * 100)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_broken_database(path: Path) -> None:
    with SQLiteStorage(path) as storage:
        storage.create_tenant(slug="acme", name="Acme")
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)


@pytest.mark.parametrize("make", [not_a_database, a_folder, a_broken_database])
def test_broken_file_is_unavailable_and_stays_as_it_is(
    tmp_path: Path, backend_on: BackendOn, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "notes.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    storage = SQLiteStorage(path)
    backend = backend_on(storage)
    engine = notes_engine(storage, put=put)

    with bounded():
        answer = run_note(backend, engine, "put")

    error_of(answer, ErrorCode.UNAVAILABLE)
    assert (path.read_bytes() if path.is_file() else None) == before


# No connection to be had


@pytest.fixture(params=["sqlite", "postgres"])
def one_connection(request: pytest.FixtureRequest, tmp_path: Path) -> SQLStorage:
    """A storage with one connection, and short timeouts."""
    if request.param == "sqlite":
        return SQLiteStorage(tmp_path / "one.db", pool_size=1, max_overflow=0, pool_timeout=0.1, busy_timeout=0.1)
    database: Database = request.getfixturevalue("postgres_database")
    return PostgresStorage(database.app_url, pool_size=1, max_overflow=0, pool_timeout=0.1)


@pytest.mark.parametrize("action", ["look", "put"])
def test_exhausted_pool_is_unavailable_until_a_release(
    one_connection: SQLStorage, backend_on: BackendOn, action: str
) -> None:
    backend = backend_on(one_connection)
    engine = notes_engine(one_connection, {"look"}, look=look, put=put)

    async def execute_beside_another_one() -> Any:
        async with backend.writing() as unit:
            await unit.records("notes").insert({}, "of the other one")
            return await backend.execute(engine, "notes", action, None, notes_request(backend))

    with bounded():
        answer = backend.run(execute_beside_another_one())

    error_of(answer, ErrorCode.UNAVAILABLE)
    value_of(run_note(backend, engine, action))


def test_a_server_with_no_connection_left_is_unavailable(
    postgres_server: str, fresh_postgres_database: Database, backend_on: BackendOn
) -> None:
    name = make_url(fresh_postgres_database.app_url).database
    storage = PostgresStorage(fresh_postgres_database.app_url)
    backend = backend_on(storage)
    engine = notes_engine(storage, put=put)

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
        with bounded():
            refused = run_note(backend, engine, "put")
        # Raise the limit: the server still counts closed connections for a moment.
        connection.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')

    error_of(refused, ErrorCode.UNAVAILABLE)
    value_of(run_note(backend, engine, "put"))


# Servers that are not there


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"host": "no-such-host.invalid"}, "no-such-host", id="a host that does not exist"),
        pytest.param({"host": "127.0.0.1", "port": 1}, "refused", id="a port where nobody listens"),
        pytest.param({"database": "no_such_database"}, "no_such_database", id="a database that does not exist"),
        pytest.param({"username": "no_such_role"}, "no_such_role", id="a role that does not exist"),
    ],
)
def test_missing_server_is_unavailable_and_named_by_the_check(
    postgres_database: Database, backend_on: BackendOn, changes: dict[str, Any], told: str
) -> None:
    url = make_url(postgres_database.app_url)
    if "host" in changes:
        url = url.difference_update_query(["host", "port"])
    storage = PostgresStorage(url.set(**changes), connect_timeout=2)
    backend = backend_on(storage)
    engine = notes_engine(storage, put=put)

    with bounded():
        answer = run_note(backend, engine, "put")
    with bounded(), pytest.raises(StorageUnavailable, match=told):
        storage.check()

    error_of(answer, ErrorCode.UNAVAILABLE)


def test_a_server_that_accepts_and_says_nothing_is_unavailable(backend_on: BackendOn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        storage = PostgresStorage(f"postgresql://app@127.0.0.1:{silent.getsockname()[1]}/notes", connect_timeout=2)
        backend = backend_on(storage)
        engine = notes_engine(storage, put=put)

        with bounded():
            answer = run_note(backend, engine, "put")

    error_of(answer, ErrorCode.UNAVAILABLE)
