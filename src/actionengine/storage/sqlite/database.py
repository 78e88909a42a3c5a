"""The file of a `SQLiteStorage`: its connections, the writer's lock, and statements outside a unit of work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from typing import Any
from uuid import UUID

import aiosqlite
from sqlalchemy import Engine
from sqlalchemy.engine import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from actionengine.concurrency.fair_lock import FairLock
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.errors import ConfigurationError
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.sql.bridge import await_
from actionengine.storage.sql.database import Database
from actionengine.storage.sql.declared_protection import DeclaredProtection
from actionengine.storage.sql.migrations import HEAD, schema_version, upgrade
from actionengine.storage.sql.pools import Pools
from actionengine.storage.sqlite.driver import ReleasingConnection
from actionengine.storage.sqlite.errors import to_storage_error
from actionengine.storage.sqlite.rows import bind_time

Rows = list[tuple[Any, ...]]

_STATE = "actionengine"


class ConnectionState:
    """A connection's tenant, which its triggers allow to write, and its isolation level as the host has set it."""

    __slots__ = ("tenant", "usual_isolation")

    def __init__(self, usual_isolation: str | None) -> None:
        self.tenant: str | None = None
        self.usual_isolation = usual_isolation


class SQLiteDatabase(Database):
    """A SQLite file. Its writers take turns, in the order in which they came; readers do not wait."""

    def __init__(
        self,
        url: URL,
        *,
        busy_timeout: float,
        synchronous: str,
        pool_options: Mapping[str, Any],
        engine: Engine | None,
        async_engine: AsyncEngine | None,
        session_options: Mapping[str, Any] | None,
        protection: DeclaredProtection,
    ) -> None:
        options = {
            **pool_options,
            "pool_reset_on_return": None,
            "connect_args": {"timeout": busy_timeout, "check_same_thread": False, "factory": ReleasingConnection},
        }
        pools = Pools(url, "sqlite+aiosqlite", options, engine, async_engine, _connect)
        super().__init__(pools, session_options, protection)
        self.busy_timeout = busy_timeout
        self._is_given = engine is not None or async_engine is not None
        self._pragmas = (
            f"PRAGMA synchronous = {synchronous}",
            "PRAGMA foreign_keys = ON",
            # A REPLACE deletes rows: the triggers must see that.
            "PRAGMA recursive_triggers = ON",
            f"PRAGMA busy_timeout = {int(busy_timeout * 1000)}",
        )
        self._begin_process()

    def _begin_process(self) -> None:
        self.writer_lock = FairLock()
        self.held_keys: dict[tuple[UUID, str, str], object] = {}
        """The unit of work that holds an idempotency key: tenant, action and key."""
        self.sleeping_relays: set[Callable[[], object]] = set()
        """The functions that wake the relays of this process."""

    def drop_caches(self) -> None:
        """Start anew in a forked process: the connections and locks belong to the parent."""
        super().drop_caches()
        self._begin_process()

    def _to_storage_error(self, error: Exception) -> Exception | None:
        return to_storage_error(error)

    def bind_id(self, id: UUID) -> str:
        """Return a tenant's id as the driver takes it."""
        return str(id)

    def bind_time(self, time: datetime) -> str:
        """Return a time as text that sorts."""
        return bind_time(time)

    def load_time(self, time: Any) -> datetime:
        """Return a time, in UTC, that the driver has read."""
        return datetime.fromisoformat(time)

    def check(self, mode: Mode) -> None:
        """Migrate the schema, holding the writer's lock. Raise `ConfigurationError` for the schema of a newer library,
        and for tables without their protection."""
        with self._locked(mode):
            if self.is_checked:
                return
            with self._borrowed(mode) as (engine, pooled):
                self._fetch(pooled, "PRAGMA journal_mode = WAL", ())
                self._migrate(engine, pooled)
                self.protection.check(
                    lambda statement, parameters: self._fetch(pooled, statement, parameters), self.pools.name
                )
            self.is_checked = True

    # Outside a unit of work

    def query(self, mode: Mode, statement: str, parameters: Sequence[Any], writes: bool = False) -> Rows:
        """Return the rows of a statement."""
        if not self.is_checked:
            self.check(mode)
        with self._locked(mode) if writes else nullcontext(), self._borrowed(mode) as (_, pooled):
            return self._fetch(pooled, statement, parameters)

    def write(
        self,
        mode: Mode,
        statements: Sequence[tuple[str, Sequence[Any]]],
        condition: tuple[str, Sequence[Any]] | None = None,
    ) -> list[Rows]:
        """Run statements in one transaction, and return the rows of each. If the `condition` finds no row, run none of
        them, and return an empty list."""
        if not self.is_checked:
            self.check(mode)
        with self._locked(mode), self._borrowed(mode) as (_, pooled):
            self._fetch(pooled, "BEGIN IMMEDIATE", ())
            try:
                if condition is not None and not self._fetch(pooled, *condition):
                    statements = ()
                rows = [self._fetch(pooled, statement, parameters) for statement, parameters in statements]
                self._fetch(pooled, "COMMIT", ())
            except BaseException:
                # A cursor that a traceback keeps alive keeps the connection's lock alive too.
                with suppress(Exception):
                    self._fetch(pooled, "ROLLBACK", ())
                raise
        return rows

    def wake_relays(self) -> None:
        """Wake the relays of this process: there may be something to deliver."""
        for wake in list(self.sleeping_relays):
            wake()

    # The writer's lock

    def acquire_writer_lock(self, owner: object, mode: Mode, seconds: float) -> None:
        """Wait for the writer's lock. Raise `StorageUnavailable` if it is not free in time."""
        if not self.wait_for_writer_lock(owner, mode, seconds):
            raise StorageUnavailable(f"the database {self.pools.name!r} was busy for {seconds} s: a writer takes long")

    def wait_for_writer_lock(self, owner: object, mode: Mode, seconds: float) -> bool:
        """Wait for the writer's lock. Return whether it was free in time."""
        waiting = self.writer_lock.acquire(owner, mode, seconds)
        acquired: bool = await_(waiting) if mode == "async" else run_sync(waiting)
        return acquired

    @contextmanager
    def _locked(self, mode: Mode) -> Iterator[None]:
        """Hold the writer's lock."""
        owner = object()
        self.acquire_writer_lock(owner, mode, self.busy_timeout)
        try:
            yield
        finally:
            self.writer_lock.release(owner)

    # Connections

    def prepare(self, pooled: PoolProxiedConnection) -> ConnectionState:
        """Set up a connection: its transactions begin explicitly, and its triggers ask for the writing tenant."""
        connection: Any = pooled.dbapi_connection
        state: ConnectionState | None = pooled.info.get(_STATE)
        if state is None:
            state = pooled.info[_STATE] = ConnectionState(connection.isolation_level)
            connection.create_function("ae_writing_tenant", 0, lambda: state.tenant)
            connection.isolation_level = None
            cursor = connection.cursor()
            for pragma in self._pragmas:
                cursor.execute(pragma)
            cursor.close()
        elif self._is_given:
            connection.isolation_level = None
        return state

    def restore(self, pooled: PoolProxiedConnection, state: ConnectionState) -> None:
        """Leave a connection of the host's own engine as it was."""
        state.tenant = None
        if self._is_given:
            connection: Any = pooled.dbapi_connection
            connection.isolation_level = state.usual_isolation

    @contextmanager
    def _borrowed(self, mode: Mode) -> Iterator[tuple[Engine, PoolProxiedConnection]]:
        """Take a connection with its engine, and release it. After an error it is closed."""
        engine, pooled = self.pools.take(mode)
        try:
            state = self.prepare(pooled)
            yield engine, pooled
            self.restore(pooled, state)
        except BaseException:
            pooled.invalidate()
            pooled.close()
            raise
        self.pools.release(engine, pooled)

    def _fetch(self, pooled: PoolProxiedConnection, statement: str, parameters: Sequence[Any]) -> Rows:
        connection: Any = pooled.dbapi_connection
        cursor = connection.cursor()
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())

    def _migrate(self, engine: Engine, pooled: PoolProxiedConnection) -> None:
        connection = Connection(engine, pooled)
        version = schema_version(connection)
        connection.rollback()
        if version is None or version < HEAD:
            with connection.begin():
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                upgrade(connection)
        elif version > HEAD:
            raise ConfigurationError(
                f"the schema in {self.pools.name!r} is at version {version}, this library knows {HEAD}: "
                f"upgrade actionengine"
            )


async def _connect(*arguments: Any, **options: Any) -> aiosqlite.Connection:
    """Open a connection of the driver, which has a thread of its own. If that fails, wait for the thread to end: its
    last message would go to an event loop that may be closed by then."""
    connection = aiosqlite.connect(*arguments, **options)
    thread = connection._thread
    thread.daemon = True
    try:
        return await connection
    except BaseException:
        await asyncio.to_thread(thread.join)
        raise
