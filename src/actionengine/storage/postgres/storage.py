"""`PostgresStorage`: PostgreSQL, with row-level security and two statements around a handler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import Any
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import Engine, MetaData, Table
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Tenant
from actionengine.errors import ConfigurationError
from actionengine.masking.redaction import redact_address
from actionengine.storage.outbox import EVENTS
from actionengine.storage.pages import Page, page_of
from actionengine.storage.postgres.checks import check
from actionengine.storage.postgres.connecting import resolve_names, socket_options
from actionengine.storage.postgres.driver import LibpqConnection, Row, milliseconds
from actionengine.storage.postgres.errors import to_storage_error
from actionengine.storage.postgres.outbox import Known, PostgresOutbox
from actionengine.storage.postgres.rows import array, event_row
from actionengine.storage.postgres.statements import (
    BEGIN,
    COUNT_EVENTS,
    COUNT_EVENTS_OF_TYPES,
    DOCUMENTS,
    FIND_DOCUMENTS,
    LIST_DOCUMENTS,
    READ_EVENTS,
    READ_EVENTS_OF_TYPES,
    ROWS,
    opening_statements,
)
from actionengine.storage.postgres.unit_of_work import PostgresUnitOfWork
from actionengine.storage.postgres.waiting import is_lost
from actionengine.storage.rows import MAX_BACKLOG, Record, StoredEvent
from actionengine.storage.sql.declared_protection import DeclaredProtection
from actionengine.storage.sql.documents import Listing, SQLRecords
from actionengine.storage.sql.pools import DRIVER, Pools
from actionengine.storage.sql.signing import Signer
from actionengine.storage.sql.storage import SQLStorage
from actionengine.storage.sql.unit_of_work import SQLUnitOfWork
from actionengine.storage.sql.verification_postgresql import compare_postgresql


class PostgresStorage(SQLStorage):
    """Storage in PostgreSQL 15 or newer, for hosts of both modes.

    The database has the schema of `actionengine db upgrade`, and `url` names a role that it gave its grants to
    (`--app-role`): one that is neither a superuser, nor the owner of the tables, nor free of row-level security.

    Args:
        url: `postgresql://user:password@host/database`.
        pool_size: connections that are kept.
        max_overflow: connections beyond those, under load.
        pool_timeout: seconds to wait for a free connection; then `unavailable`.
        connect_timeout: seconds to wait for a new connection; then `unavailable`.
        answer_timeout: seconds to wait for the answer to one of the library's own statements, locks included, and
            between two pieces of it; then `unavailable`, and the connection is given up. After a handler's statement
            was silent for so long, the server is asked whether it works on it.
        statement_timeout: seconds that one statement may take; then `timeout`. None leaves it to the server.
        lock_timeout: seconds that a statement may wait for a lock; then `conflict`. None leaves it to the server.
        application_name: as it stands in `pg_stat_activity`.
        isolation_level: `"READ COMMITTED"`, `"REPEATABLE READ"` or `"SERIALIZABLE"`.
        signing_key: signs each transaction's tenant and action, where the database has this key
            (`actionengine db sign`); at least 16 bytes.
        prepared_statements: whether the library's own statements are prepared; False for a pooler that cannot carry
            them.
        listens: whether a relay keeps a connection that listens for new events, and so is woken at once; False for a
            pooler that lends connections for a transaction only: then relays look for themselves.
        engine: the host's own, instead of the pools of this storage, for sync mode.
        async_engine: the same for its event loops.
        session_options: arguments for the `Session` of a unit of work, such as `autoflush`.
        protected: the tables whose protection this storage verifies, or their metadata. By default, each table of this
            process that `protect_table` was called with, if the database has it. `()` compares nothing.
        allow_strong_role: whether a superuser or an owner is accepted, past row-level security: for local play only.

    Raises:
        ConfigurationError: for a URL that is not one of PostgreSQL's, for a signing key that is too short, and for a
            timeout that is no bound: 0, infinity or None.
    """

    documents = DOCUMENTS
    rows = ROWS

    def __init__(
        self,
        url: str | URL | None = None,
        *,
        pool_size: int = 10,
        max_overflow: int = 10,
        pool_timeout: float = 10.0,
        connect_timeout: int = 5,
        answer_timeout: float = 30.0,
        statement_timeout: float | None = None,
        lock_timeout: float | None = None,
        application_name: str = "actionengine",
        isolation_level: str = "READ COMMITTED",
        signing_key: str | bytes | None = None,
        prepared_statements: bool = True,
        listens: bool = True,
        engine: Engine | None = None,
        async_engine: AsyncEngine | None = None,
        session_options: Mapping[str, Any] | None = None,
        protected: MetaData | Iterable[Table] | None = None,
        allow_strong_role: bool = False,
    ) -> None:
        if isolation_level not in BEGIN:
            raise ConfigurationError(f"isolation_level is one of {', '.join(BEGIN)}, not {isolation_level!r}")
        if url is None and engine is None and async_engine is None:
            raise ConfigurationError("PostgresStorage needs a url, an engine or an async_engine")
        _check_bounds(connect_timeout=connect_timeout, answer_timeout=answer_timeout, pool_timeout=pool_timeout)
        given = engine or async_engine
        checked_url = given.url if url is None and given is not None else _validate_url(url)
        self.known = Known()
        self._prepares = prepared_statements
        self._answer_timeout = answer_timeout
        pools = Pools(
            checked_url,
            "postgresql+psycopg_async",
            {
                "pool_size": pool_size,
                "max_overflow": max_overflow,
                "pool_timeout": pool_timeout,
                "pool_reset_on_return": None,
                # The connection used last has its statements prepared, and its caches warm.
                "pool_use_lifo": True,
                # Each transaction begins with a statement of its own.
                "isolation_level": "AUTOCOMMIT",
                "connect_args": {
                    "connect_timeout": connect_timeout,
                    "application_name": application_name,
                    "client_encoding": "utf8",
                    # A driver that prepares by itself also drops, at any ROLLBACK, all that is prepared: ours too.
                    "prepare_threshold": None,
                    **socket_options(checked_url, answer_timeout),
                },
            },
            engine,
            async_engine,
            new_driver=self._new_driver,
            before_connecting=resolve_names,
        )
        compare = partial(compare_postgresql, is_strong=allow_strong_role)
        super().__init__(pools, session_options, DeclaredProtection(protected, compare))
        self.begin = BEGIN[isolation_level]
        # What a read-only action reads is of one moment, however many statements it takes.
        self.begin_reading = BEGIN[max(isolation_level, "REPEATABLE READ", key=list(BEGIN).index)]
        self.listens = listens
        self.signer = Signer(signing_key) if signing_key is not None else None
        named_limits = {"statement_timeout": statement_timeout, "lock_timeout": lock_timeout}
        given_limits = {name: limit for name, limit in named_limits.items() if limit is not None}
        self.limits = [milliseconds(limit) for limit in given_limits.values()]
        self.opening = {
            read_only: opening_statements(list(given_limits), read_only, self.signer is not None)
            for read_only in (False, True)
        }
        self._allow_strong_role = allow_strong_role

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> PostgresUnitOfWork:
        """A unit of work of one tenant. Takes a connection when it is first used."""
        return PostgresUnitOfWork(self, tenant, action_id, mode, read_only)

    def outbox(self, mode: Mode, queue: str = EVENTS) -> PostgresOutbox:
        """A queue of the outbox, for one relay or operator."""
        return PostgresOutbox(self, mode, queue)

    def bind_id(self, id: UUID) -> Any:
        """A tenant's id as the driver takes it."""
        return id

    def bind_time(self, time: datetime) -> Any:
        """A time as the driver takes it."""
        return time

    def load_time(self, time: Any) -> datetime:
        """A time as the driver gave it, in UTC."""
        moment: datetime = time
        return moment.astimezone(UTC)

    def list_documents(self, unit_of_work: SQLUnitOfWork, collection: str, listing: Listing) -> Page[Record]:
        """Documents by id."""
        scope = (unit_of_work.tenant.id, collection, *listing.start)
        wanted = (to_json(listing.wanted).decode(),) * 2 if listing.wanted else ()
        statement = listing.statement(FIND_DOCUMENTS if wanted else LIST_DOCUMENTS, self.rows)
        rows = unit_of_work.query(statement, (*scope, *wanted, listing.limit))
        records = SQLRecords(unit_of_work, collection)
        return page_of(((records.record(*row), size) for *row, size in rows), listing.limit, attrgetter("id"))

    def _to_storage_error(self, error: Exception) -> Exception | None:
        return to_storage_error(error)

    # Outside a unit of work

    def _query(self, mode: Mode, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        if not self.is_checked:
            self._check(mode)
        return self._query_unchecked(mode, statement, parameters)

    def _query_unchecked(self, mode: Mode, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        for attempt in (1, 2):
            engine, pooled = self.pools.take(mode)
            try:
                rows = self.driver(pooled, mode).execute((statement, parameters))
            except BaseException as error:
                pooled.invalidate()
                pooled.close()
                if attempt == 2 or not is_lost(error):
                    raise
            else:
                self.pools.release(engine, pooled)
                return rows
        raise AssertionError

    def driver(self, pooled: PoolProxiedConnection, mode: Mode) -> LibpqConnection:
        """What speaks below a pooled connection; it lives as long as that does."""
        driver: LibpqConnection | None = pooled.info.get(DRIVER)
        if driver is None:
            driver = pooled.info[DRIVER] = self._new_driver(pooled.driver_connection, mode)
        return driver

    def _new_driver(self, connection: Any, mode: Mode) -> LibpqConnection:
        return LibpqConnection(connection, mode, self._prepares, self._answer_timeout, self.pools.doubt)

    def _signature(self, call: str) -> str | None:
        return self.signer.operator(call) if self.signer is not None else None

    def _find_tenant(self, slug: str, mode: Mode) -> Tenant | None:
        if "\0" in slug:
            return None
        signature = self._signature("find_tenant")
        ((found,),) = self._query(mode, "SELECT public.ae_find_tenant(%s, %s)", (slug, signature))
        return Tenant(found, slug) if found is not None else None

    def _find_tenant_by_id(self, id: UUID, mode: Mode) -> Tenant | None:
        parameters = (id, self._signature("find_tenant_by_id"))
        ((slug,),) = self._query(mode, "SELECT public.ae_find_tenant_by_id(%s, %s)", parameters)
        return Tenant(id, slug) if slug is not None else None

    def _create_tenant(self, tenant: Tenant, name: str, mode: Mode) -> bool:
        parameters = (tenant.id, tenant.slug, name, self._signature("create_tenant"))
        ((made,),) = self._query(mode, "SELECT public.ae_create_tenant(%s, %s, %s, %s)", parameters)
        return bool(made)

    def _delete_tenant(self, slug: str, mode: Mode) -> bool:
        parameters = (slug, self._signature(f"delete_tenant|{slug}"))
        ((deleted,),) = self._query(mode, "SELECT public.ae_delete_tenant(%s, %s)", parameters)
        return bool(deleted)

    def _list_tenants(self, mode: Mode, after: str | None, limit: int | None) -> Sequence[Tenant]:
        if after is not None and "\0" in after:
            after = after.partition("\0")[0]
        parameters = (self._signature("list_tenants"), after, limit)
        rows = self._query(mode, "SELECT tenant_id, slug FROM public.ae_list_tenants(%s, %s, %s)", parameters)
        return [Tenant(id, slug) for id, slug in rows]

    def _backlog(self, mode: Mode) -> tuple[int, str | None, int]:
        parameters = (MAX_BACKLOG, self._signature("relay"))
        ((approvals, oldest, schedules),) = self._query(
            mode, "SELECT approvals, oldest, schedules FROM public.ae_backlog(%s, %s)", parameters
        )
        return approvals, oldest, schedules

    def _purge_expired_keys(self, limit: int, mode: Mode) -> int:
        since = self.known.of(_PURGED_KEYS)
        parameters = (limit, self._signature("purge_keys"), since)
        ((purged, until),) = self._query(mode, PURGE_KEYS, parameters)
        self.known.record(_PURGED_KEYS, until, since is None)
        return int(purged)

    def _read_events(
        self, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None, mode: Mode
    ) -> Sequence[StoredEvent]:
        # The horizon first, in a transaction of its own: what was final then is visible to the next one.
        ((horizon,),) = self._query(mode, "SELECT public.ae_event_horizon()")
        unit_of_work = self.unit_of_work(tenant, "", mode, read_only=True)
        try:
            span = (tenant.id, after, horizon)
            if types is None:
                rows = unit_of_work.query(READ_EVENTS, (*span, limit))
            else:
                asked = (array(types), *span, limit, limit, tenant.id, limit)
                rows = unit_of_work.query(READ_EVENTS_OF_TYPES, asked)
        finally:
            unit_of_work._rollback()
        return [StoredEvent(position, event_row(event)) for position, *event, _ in rows]

    def _count_events(self, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None, mode: Mode) -> int:
        ((horizon,),) = self._query(mode, "SELECT public.ae_event_horizon()")
        unit_of_work = self.unit_of_work(tenant, "", mode, read_only=True)
        try:
            span = (tenant.id, after, horizon)
            if types is None:
                ((number,),) = unit_of_work.query(COUNT_EVENTS, (*span, limit))
            else:
                ((number,),) = unit_of_work.query(COUNT_EVENTS_OF_TYPES, (array(types), *span, limit, limit))
        finally:
            unit_of_work._rollback()
        return int(number)

    def _check(self, mode: Mode) -> None:
        check(
            lambda statement, *parameters: self._query_unchecked(mode, statement, parameters),
            self.pools.name,
            self._signature("check"),
            self._allow_strong_role,
        )
        self.protection.check(
            lambda statement, parameters: self._query_unchecked(mode, statement, parameters), self.pools.name
        )
        self.is_checked = True


PURGE_KEYS = "SELECT purged, until::pg_catalog.text FROM public.ae_purge_keys(%s, %s, %s)"

_PURGED_KEYS = "purged keys"
"""What `Known` calls the queue of idempotency keys that expire."""

_MAX_SECONDS = 2_000_000
"""Seconds; as milliseconds they have to go into an integer of libpq's."""


def _check_bounds(**bounds: float) -> None:
    for name, seconds in bounds.items():
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not 0 <= seconds <= _MAX_SECONDS or (seconds == 0 and name != "pool_timeout"):
            raise ConfigurationError(
                f"{name} is a number of seconds, more than 0 and at most {_MAX_SECONDS}, not {seconds!r}: "
                f"nothing may wait "
                f"without a bound"
            )


def _validate_url(url: str | URL | None) -> URL:
    try:
        parsed = make_url(url)  # type: ignore[arg-type]
        if "@" in (parsed.host or ""):
            # It is the rest of a password, and errors name the host.
            raise ValueError("@")
    except (ArgumentError, ValueError):
        # A port that is no number is a ValueError.
        raise ConfigurationError(
            f"{redact_address(str(url))!r} is no database URL: postgresql://user:password@host/database"
        ) from None
    if parsed.drivername not in {"postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg_async"}:
        raise ConfigurationError(
            f"PostgresStorage speaks postgresql:// through psycopg, not {parsed.drivername}:// "
            f"(SQLiteStorage is for files)"
        )
    return parsed.set(drivername="postgresql+psycopg")
