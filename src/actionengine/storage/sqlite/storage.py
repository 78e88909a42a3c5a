"""`SQLiteStorage`: a file, for one machine. One writer at a time, any number of readers beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import UUID

import aiosqlite
from pydantic_core import to_json
from sqlalchemy import Engine, MetaData, Table
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from actionengine.concurrency.fair_lock import FairLock
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import Tenant
from actionengine.errors import ConfigurationError
from actionengine.masking.redaction import redact_address
from actionengine.storage.clock import steady_now
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.lookups import OPEN_APPROVALS
from actionengine.storage.outbox import EVENTS
from actionengine.storage.pages import MAX_PAGE, Page, is_last_page, page_of
from actionengine.storage.records import matches
from actionengine.storage.rows import MAX_BACKLOG, EventRow, Record, StoredEvent
from actionengine.storage.sql.bridge import await_
from actionengine.storage.sql.declared_protection import DeclaredProtection
from actionengine.storage.sql.documents import Listing, SQLRecords
from actionengine.storage.sql.migrations import HEAD, schema_version, upgrade
from actionengine.storage.sql.pools import Pools
from actionengine.storage.sql.storage import SQLStorage
from actionengine.storage.sql.unit_of_work import SQLUnitOfWork
from actionengine.storage.sql.verification_sqlite import compare_sqlite
from actionengine.storage.sqlite.driver import ReleasingConnection
from actionengine.storage.sqlite.errors import to_storage_error
from actionengine.storage.sqlite.outbox import SQLiteOutbox
from actionengine.storage.sqlite.statements import (
    BACKLOG,
    COUNT_EVENTS,
    COUNT_EVENTS_OF_TYPES,
    CREATE_TENANT,
    DELETE_TENANT,
    DOCUMENTS,
    FIND_TENANT,
    FIND_TENANT_BY_ID,
    LIST_DOCUMENTS,
    LIST_TENANTS,
    PURGE_KEYS,
    READ_EVENTS,
    READ_EVENTS_OF_TYPES,
    ROWS,
)
from actionengine.storage.sqlite.unit_of_work import ConnectionState, SQLiteUnitOfWork

_GRIP = "actionengine"


class SQLiteStorage(SQLStorage):
    """Storage in a SQLite file, made and brought up to date when it is first used.

    The transactions that write take turns; readers see the last commit meanwhile. There is no row-level security here:
    a handler's own SQL can read other tenants' rows. Triggers refuse it to write them, but it can drop a trigger: here
    a handler's SQL is trusted.

    Args:
        path: the file, or `sqlite:///file`.
        busy_timeout: seconds to wait for a writer's turn; then `unavailable`.
        synchronous: `"FULL"`, or `"NORMAL"`, which is faster and may lose the last commits with the machine's power.
        pool_size: connections that are kept.
        max_overflow: connections beyond those, under load.
        pool_timeout: seconds to wait for a free connection; then `unavailable`.
        engine: the host's own, instead of the pools of this storage, for sync mode.
        async_engine: the same for its event loops.
        session_options: arguments for the `Session` of a unit of work, such as `autoflush`.
        protected: the tables whose protection this storage verifies, or their metadata. By default, each table of this
            process that `protect_table` was called with, if the database has it. `()` compares nothing.

    Raises:
        ConfigurationError: for a URL that is not one of a SQLite file.
    """

    documents = DOCUMENTS
    rows = ROWS

    def __init__(
        self,
        path: str | Path | URL | None = None,
        *,
        busy_timeout: float = 5.0,
        synchronous: str = "FULL",
        pool_size: int = 10,
        max_overflow: int = 10,
        pool_timeout: float = 10.0,
        engine: Engine | None = None,
        async_engine: AsyncEngine | None = None,
        session_options: Mapping[str, Any] | None = None,
        protected: MetaData | Iterable[Table] | None = None,
    ) -> None:
        if synchronous not in {"FULL", "NORMAL"}:
            raise ConfigurationError(f"synchronous is FULL or NORMAL, not {synchronous!r}")
        given = engine or async_engine
        if path is None and given is None:
            raise ConfigurationError("SQLiteStorage needs a path, an engine or an async_engine")
        pools = Pools(
            given.url if path is None and given is not None else _validate_path(path),
            "sqlite+aiosqlite",
            {
                "pool_size": pool_size,
                "max_overflow": max_overflow,
                "pool_timeout": pool_timeout,
                "pool_reset_on_return": None,
                "connect_args": {
                    "timeout": busy_timeout,
                    "check_same_thread": False,
                    "factory": ReleasingConnection,
                },
            },
            engine,
            async_engine,
            _connect,
        )
        super().__init__(pools, session_options, DeclaredProtection(protected, compare_sqlite))
        self.busy_timeout = busy_timeout
        self.turns = FairLock()
        self.held: dict[tuple[UUID, str, str], SQLiteUnitOfWork] = {}
        self.sleepers: set[Callable[[], object]] = set()
        self.is_given = given is not None
        self._pragmas = (
            f"PRAGMA synchronous = {synchronous}",
            "PRAGMA foreign_keys = ON",
            # A REPLACE deletes: the triggers have to see it.
            "PRAGMA recursive_triggers = ON",
            f"PRAGMA busy_timeout = {int(busy_timeout * 1000)}",
        )

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> SQLiteUnitOfWork:
        """A unit of work of one tenant. Takes its turn and a connection when it is first used."""
        return SQLiteUnitOfWork(self, tenant, action_id, mode, read_only)

    def outbox(self, mode: Mode, queue: str = EVENTS) -> SQLiteOutbox:
        """A queue of the outbox, for one relay or operator."""
        return SQLiteOutbox(self, mode, queue)

    def wake_relays(self) -> None:
        """Let the relays of this process know that there may be something to deliver."""
        for wake in list(self.sleepers):
            wake()

    def drop_caches(self) -> None:
        """Start anew in a forked process: whoever had a turn has it in the parent."""
        super().drop_caches()
        self.sleepers = set()
        self.turns = FairLock()
        self.held = {}

    def bind_id(self, id: UUID) -> Any:
        """A tenant's id as the driver takes it."""
        return str(id)

    def bind_time(self, time: datetime) -> Any:
        """A time as the driver takes it: text that sorts."""
        return time.astimezone(UTC).isoformat(timespec="microseconds")

    def load_time(self, time: Any) -> datetime:
        """A time as the driver gave it, in UTC."""
        return datetime.fromisoformat(time)

    def list_documents(self, unit_of_work: SQLUnitOfWork, collection: str, listing: Listing) -> Page[Record]:
        """Documents by id."""
        records = SQLRecords(unit_of_work, collection)
        wanted, limit = listing.wanted, listing.limit
        size = MAX_PAGE if wanted else limit
        scope = (str(unit_of_work.tenant.id), collection)

        def found(listing: Listing) -> Iterator[tuple[Record, int]]:
            while True:
                rows = unit_of_work.query(listing.statement(LIST_DOCUMENTS, self.rows), (*scope, *listing.start, size))
                for *row, bytes in rows:
                    record = records.record(*row)
                    if matches(record.data, wanted):
                        yield record, bytes
                if is_last_page((row[-1] for row in rows), size):
                    return
                listing = listing._replace(after=rows[-1][0])

        return page_of(found(listing), limit, attrgetter("id"))

    def prepare(self, pooled: PoolProxiedConnection) -> ConnectionState:
        """Make a connection one of ours: transactions that we begin, and the function that the triggers ask."""
        connection: Any = pooled.dbapi_connection
        grip: ConnectionState | None = pooled.info.get(_GRIP)
        if grip is None:
            grip = pooled.info[_GRIP] = ConnectionState(connection.isolation_level)
            connection.create_function("ae_writing_tenant", 0, grip.writing_tenant)
            connection.isolation_level = None
            cursor = connection.cursor()
            for pragma in self._pragmas:
                cursor.execute(pragma)
            cursor.close()
        elif self.is_given:
            connection.isolation_level = None
        return grip

    def _to_storage_error(self, error: Exception) -> Exception | None:
        return to_storage_error(error)

    # Outside a unit of work

    def _query(self, mode: Mode, statement: str, parameters: Sequence[Any], writes: bool) -> list[tuple[Any, ...]]:
        if not self.is_checked:
            self._check(mode)
        with self._writer_lock(mode) if writes else nullcontext(), self._borrowed(mode) as (_, pooled):
            return self._fetch(pooled, statement, parameters)

    async def ask(self, mode: Mode, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows of a statement that only reads, outside any action."""
        return await self._run(mode, self._query, mode, statement, parameters, False)

    async def write(
        self, mode: Mode, *statements: tuple[str, Sequence[Any]], condition: tuple[str, Sequence[Any]] | None = None
    ) -> list[list[tuple[Any, ...]]]:
        """The rows of each of these statements, run in one transaction outside any action. Where a `condition` finds no
        row, none of them is run, and the list is empty."""
        return await self._run(mode, self._write, mode, statements, condition)

    def _write(
        self,
        mode: Mode,
        statements: Sequence[tuple[str, Sequence[Any]]],
        condition: tuple[str, Sequence[Any]] | None,
    ) -> list[list[tuple[Any, ...]]]:
        if not self.is_checked:
            self._check(mode)
        with self._writer_lock(mode), self._borrowed(mode) as (_, pooled):
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

    def _fetch(self, pooled: PoolProxiedConnection, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        connection: Any = pooled.dbapi_connection
        cursor = connection.cursor()
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())

    @contextmanager
    def _writer_lock(self, mode: Mode) -> Iterator[None]:
        """A writer's turn."""
        turn = object()
        self.acquire_writer_lock(turn, mode, self.busy_timeout)
        try:
            yield
        finally:
            self.turns.release(turn)

    @contextmanager
    def _borrowed(self, mode: Mode) -> Iterator[tuple[Engine, PoolProxiedConnection]]:
        """A connection and its engine; closed where something is raised."""
        engine, pooled = self.pools.take(mode)
        try:
            grip = self.prepare(pooled)
            yield engine, pooled
            self.restore(pooled, grip)
        except BaseException:
            pooled.invalidate()
            pooled.close()
            raise
        self.pools.release(engine, pooled)

    def restore(self, pooled: PoolProxiedConnection, grip: ConnectionState) -> None:
        """Leave a connection of the host's as it was."""
        grip.tenant = None
        if self.is_given:
            connection: Any = pooled.dbapi_connection
            connection.isolation_level = grip.usual_isolation

    def acquire_writer_lock(self, who: object, mode: Mode, seconds: float) -> None:
        """Wait for a writer's turn. Raises `StorageUnavailable` where it does not come in time."""
        if not self.wait_for_writer_lock(who, mode, seconds):
            raise StorageUnavailable(f"the database {self.pools.name!r} was busy for {seconds} s: a writer takes long")

    def wait_for_writer_lock(self, who: object, mode: Mode, seconds: float) -> bool:
        """Return whether a writer's turn comes in time."""
        waiting = self.turns.acquire(who, mode, seconds)
        came: bool = await_(waiting) if mode == "async" else run_sync(waiting)
        return came

    def _find_tenant(self, slug: str, mode: Mode) -> Tenant | None:
        for (id,) in self._query(mode, FIND_TENANT, (slug,), writes=False):
            return Tenant(UUID(id), slug)
        return None

    def _find_tenant_by_id(self, id: UUID, mode: Mode) -> Tenant | None:
        for (slug,) in self._query(mode, FIND_TENANT_BY_ID, (str(id),), writes=False):
            return Tenant(id, slug)
        return None

    def _create_tenant(self, tenant: Tenant, name: str, mode: Mode) -> bool:
        parameters = (str(tenant.id), tenant.slug, name, self.bind_time(steady_now()))
        return bool(self._query(mode, CREATE_TENANT, parameters, writes=True))

    def _delete_tenant(self, slug: str, mode: Mode) -> bool:
        return bool(self._query(mode, DELETE_TENANT, (self.bind_time(steady_now()), slug), writes=True))

    def _list_tenants(self, mode: Mode, after: str | None, limit: int | None) -> Sequence[Tenant]:
        rows = self._query(mode, LIST_TENANTS, (after or "", -1 if limit is None else limit), writes=False)
        return [Tenant(UUID(id), slug) for id, slug in rows]

    def _backlog(self, mode: Mode) -> tuple[int, str | None, int]:
        now = OPEN_APPROVALS + steady_now().isoformat(timespec="microseconds")
        (found,) = self._query(mode, BACKLOG, (MAX_BACKLOG, now, MAX_BACKLOG), writes=False)
        approvals, oldest, schedules = found
        return approvals, oldest, schedules

    def _purge_expired_keys(self, limit: int, mode: Mode) -> int:
        return len(self._query(mode, PURGE_KEYS, (self.bind_time(steady_now()), limit), writes=True))

    def _read_events(
        self, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None, mode: Mode
    ) -> Sequence[StoredEvent]:
        span = (str(tenant.id), after, limit)
        if types is None:
            rows = self._query(mode, READ_EVENTS, span, writes=False)
        else:
            rows = self._query(mode, READ_EVENTS_OF_TYPES, (to_json(types).decode(), *span, limit), writes=False)
        return [StoredEvent(position, self.event_row(event)) for position, *event, _ in rows]

    def _count_events(self, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None, mode: Mode) -> int:
        span = (str(tenant.id), after, limit)
        if types is None:
            ((number,),) = self._query(mode, COUNT_EVENTS, span, writes=False)
        else:
            ((number,),) = self._query(mode, COUNT_EVENTS_OF_TYPES, (to_json(types).decode(), *span), writes=False)
        return int(number)

    def event_row(self, values: Sequence[Any]) -> EventRow:
        """An event as it was read."""
        event = EventRow(*values)
        return event._replace(
            tenant_id=UUID(values[1]), payload=values[4].encode(), occurred_at=self.load_time(event.occurred_at)
        )

    def _check(self, mode: Mode) -> None:
        """Bring the schema up to date, in a writer's turn."""
        with self._writer_lock(mode):
            if self.is_checked:
                return
            with self._borrowed(mode) as (engine, pooled):
                self._fetch(pooled, "PRAGMA journal_mode = WAL", ())
                self._migrate(engine, pooled)
                self.protection.check(
                    lambda statement, parameters: self._fetch(pooled, statement, parameters), self.pools.name
                )
            self.is_checked = True

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
    """A connection of the driver's, which has a thread of its own. Where it can't be opened, that thread is waited for:
    its last word would go to an event loop that may be closed by then."""
    connection = aiosqlite.connect(*arguments, **options)
    thread = connection._thread
    thread.daemon = True
    try:
        return await connection
    except BaseException:
        await asyncio.to_thread(thread.join)
        raise


def _validate_path(path: str | Path | URL | None) -> URL:
    text = path if isinstance(path, URL) else str(path)
    if isinstance(text, str) and "://" not in text:
        text = f"sqlite:///{text}"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"{redact_address(str(text))!r} is no path and no URL: sqlite:///file.db") from None
    if url.get_backend_name() != "sqlite":
        raise ConfigurationError(
            f"SQLiteStorage keeps a file, not {url.drivername}:// (PostgresStorage is for servers)"
        )
    if not url.database or url.database == ":memory:":
        raise ConfigurationError("SQLiteStorage keeps a file: for memory there is InMemoryStorage")
    folder = Path(url.database).parent
    if not folder.is_dir():
        raise ConfigurationError(f"the folder {str(folder)!r} for the database does not exist: make it first")
    return url.set(drivername="sqlite")
