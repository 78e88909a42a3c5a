"""`SQLiteStorage`: a file, for one machine. One writer at a time, and any number of readers at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import Engine, MetaData, Table
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Tenant
from actionengine.errors import ConfigurationError
from actionengine.masking.redaction import redact_address
from actionengine.storage.clock import steady_now
from actionengine.storage.lookups import OPEN_APPROVALS
from actionengine.storage.outbox import EVENTS
from actionengine.storage.rows import MAX_BACKLOG, StoredEvent
from actionengine.storage.sql.declared_protection import DeclaredProtection
from actionengine.storage.sql.storage import SQLStorage
from actionengine.storage.sql.verification_sqlite import compare_sqlite
from actionengine.storage.sqlite import statements as sql
from actionengine.storage.sqlite.database import SQLiteDatabase
from actionengine.storage.sqlite.outbox import SQLiteOutbox
from actionengine.storage.sqlite.rows import bind_time, event_row
from actionengine.storage.sqlite.unit_of_work import SQLiteUnitOfWork


class SQLiteStorage(SQLStorage):
    """Storage in a SQLite file, created and migrated when it is first used.

    One transaction writes at a time; readers see the last commit meanwhile. There is no row-level security: a handler's
    own SQL can read other tenants' rows. Triggers keep it from writing them, but it can drop a trigger. So a handler's
    SQL is trusted here.

    Args:
        path: the file, or `sqlite:///file`.
        busy_timeout: seconds to wait for other writers; then `unavailable`.
        synchronous: `"FULL"`, or `"NORMAL"`, which is faster and may lose the last commits in a power failure.
        pool_size: connections that are kept.
        max_overflow: connections beyond those, under load.
        pool_timeout: seconds to wait for a free connection; then `unavailable`.
        engine: the host's own engine for sync mode, in place of this storage's pools.
        async_engine: the host's own engine for its event loops.
        session_options: arguments for the `Session` of a unit of work, such as `autoflush`.
        protected: the tables whose protection this storage verifies, or their metadata. By default, each table of this
            process that `protect_table` was called with, if the database has it. `()` compares nothing.

    Raises:
        ConfigurationError: for a URL of another database.
    """

    database: SQLiteDatabase

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
        database = SQLiteDatabase(
            given.url if path is None and given is not None else sqlite_url(path),
            busy_timeout=busy_timeout,
            synchronous=synchronous,
            pool_options={"pool_size": pool_size, "max_overflow": max_overflow, "pool_timeout": pool_timeout},
            engine=engine,
            async_engine=async_engine,
            session_options=session_options,
            protection=DeclaredProtection(protected, compare_sqlite),
        )
        super().__init__(database)

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> SQLiteUnitOfWork:
        """Return a unit of work of one tenant. It takes the writer's lock and a connection when it is first used."""
        return SQLiteUnitOfWork(self.database, tenant, action_id, mode, read_only)

    def outbox(self, mode: Mode, queue: str = EVENTS) -> SQLiteOutbox:
        """Return a queue of the outbox, for one relay or operator."""
        return SQLiteOutbox(self.database, mode, queue)

    def _find_tenant(self, mode: Mode, slug: str) -> Tenant | None:
        for (id,) in self.database.query(mode, sql.FIND_TENANT, (slug,)):
            return Tenant(UUID(id), slug)
        return None

    def _find_tenant_by_id(self, mode: Mode, id: UUID) -> Tenant | None:
        for (slug,) in self.database.query(mode, sql.FIND_TENANT_BY_ID, (str(id),)):
            return Tenant(id, slug)
        return None

    def _create_tenant(self, mode: Mode, tenant: Tenant, name: str) -> bool:
        parameters = (str(tenant.id), tenant.slug, name, bind_time(steady_now()))
        return bool(self.database.query(mode, sql.CREATE_TENANT, parameters, writes=True))

    def _delete_tenant(self, mode: Mode, slug: str) -> bool:
        return bool(self.database.query(mode, sql.DELETE_TENANT, (bind_time(steady_now()), slug), writes=True))

    def _list_tenants(self, mode: Mode, after: str | None, limit: int | None) -> Sequence[Tenant]:
        rows = self.database.query(mode, sql.LIST_TENANTS, (after or "", -1 if limit is None else limit))
        return [Tenant(UUID(id), slug) for id, slug in rows]

    def _read_events(
        self, mode: Mode, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None
    ) -> Sequence[StoredEvent]:
        span = (str(tenant.id), after, limit)
        if types is None:
            rows = self.database.query(mode, sql.READ_EVENTS, span)
        else:
            rows = self.database.query(mode, sql.READ_EVENTS_OF_TYPES, (to_json(types).decode(), *span, limit))
        return [StoredEvent(position, event_row(event)) for position, *event, _ in rows]

    def _backlog(self, mode: Mode) -> tuple[int, str | None, int]:
        now = OPEN_APPROVALS + steady_now().isoformat(timespec="microseconds")
        ((approvals, oldest, schedules),) = self.database.query(mode, sql.BACKLOG, (MAX_BACKLOG, now, MAX_BACKLOG))
        return approvals, oldest, schedules

    def _count_events(self, mode: Mode, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None) -> int:
        span = (str(tenant.id), after, limit)
        if types is None:
            ((number,),) = self.database.query(mode, sql.COUNT_EVENTS, span)
        else:
            ((number,),) = self.database.query(mode, sql.COUNT_EVENTS_OF_TYPES, (to_json(types).decode(), *span))
        return int(number)

    def _purge_expired_keys(self, mode: Mode, limit: int) -> int:
        now, purged = bind_time(steady_now()), 0
        for statement in (sql.PURGE_KEYS, sql.PURGE_COUNTERS):
            purged += len(self.database.query(mode, statement, (now, limit - purged), writes=True))
        return purged


def sqlite_url(path: str | Path | URL | None) -> URL:
    """Return the URL of a SQLite file. Raise `ConfigurationError` for anything else."""
    text = path if isinstance(path, URL) else str(path)
    if isinstance(text, str) and "://" not in text:
        text = f"sqlite:///{text}"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            f"{redact_address(str(text))!r} is not a path or a URL: expected sqlite:///file.db"
        ) from None
    if url.get_backend_name() != "sqlite":
        raise ConfigurationError(
            f"SQLiteStorage keeps a file, not {url.drivername}:// (PostgresStorage is for servers)"
        )
    if not url.database or url.database == ":memory:":
        raise ConfigurationError("SQLiteStorage keeps a file: for memory there is InMemoryStorage")
    if "uri" in url.query:
        # The driver would take the options for a part of the file's name, and make a new file.
        raise ConfigurationError("SQLiteStorage takes the path of a file, without the option uri")
    folder = Path(url.database).parent
    if not folder.is_dir():
        raise ConfigurationError(f"the folder {str(folder)!r} for the database does not exist: make it first")
    return url.set(drivername="sqlite")
