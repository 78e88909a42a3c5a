"""`PostgresStorage`: PostgreSQL, with row-level security and two statements around a handler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, MetaData, Table
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Tenant
from actionengine.errors import ConfigurationError
from actionengine.masking.redaction import redact_address
from actionengine.storage.outbox import EVENTS
from actionengine.storage.postgres import statements as sql
from actionengine.storage.postgres.database import PostgresDatabase
from actionengine.storage.postgres.outbox import Known, PostgresOutbox
from actionengine.storage.postgres.rows import array, event_row
from actionengine.storage.postgres.unit_of_work import PostgresUnitOfWork
from actionengine.storage.rows import MAX_BACKLOG, StoredEvent
from actionengine.storage.sql.declared_protection import DeclaredProtection
from actionengine.storage.sql.signing import Signer
from actionengine.storage.sql.storage import SQLStorage
from actionengine.storage.sql.verification_postgresql import compare_postgresql


class PostgresStorage(SQLStorage):
    """Storage in PostgreSQL 15 or newer, for hosts of both modes.

    Create the schema with `actionengine db upgrade --app-role ROLE`. `url` names that role, which must not be a
    superuser, the owner of the tables, or a role that bypasses row-level security.

    Args:
        url: `postgresql://user:password@host/database`.
        pool_size: connections that are kept.
        max_overflow: connections beyond those, under load.
        pool_timeout: seconds to wait for a free connection; then `unavailable`.
        connect_timeout: seconds to wait for a new connection; then `unavailable`.
        answer_timeout: seconds to wait for the answer to one of the library's own statements, including locks, and
            between two pieces of it; then `unavailable`, and the connection is given up. If there is no answer to a
            handler's statement for so long, the server is asked whether it works on it.
        statement_timeout: seconds that one statement may take; then `timeout`. None leaves it to the server.
        lock_timeout: seconds that a statement may wait for a lock; then `conflict`. None leaves it to the server.
        application_name: the name in `pg_stat_activity`.
        isolation_level: `"READ COMMITTED"`, `"REPEATABLE READ"` or `"SERIALIZABLE"`.
        signing_key: signs each transaction's tenant and action, for a database with this key (`actionengine db sign`);
            at least 16 bytes.
        prepared_statements: whether the library prepares its own statements; False for a pooler that does not support
            this.
        listens: whether a relay keeps a connection that listens for new events, and so is woken at once. False for a
            pooler that lends connections only for a transaction: then relays poll.
        engine: the host's own engine for sync mode, in place of this storage's pools.
        async_engine: the host's own engine for its event loops.
        session_options: arguments for the `Session` of a unit of work, such as `autoflush`.
        protected: the tables whose protection this storage verifies, or their metadata. By default, each table of this
            process that `protect_table` was called with, if the database has it. `()` compares nothing.
        allow_strong_role: whether a superuser or an owner is accepted, without row-level security: for experiments
        only.

    Raises:
        ConfigurationError: for a URL of another database, for a signing key that is too short, and for a timeout that
            bounds nothing: 0, infinity or None.
    """

    database: PostgresDatabase

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
        if isolation_level not in sql.BEGIN:
            raise ConfigurationError(f"isolation_level is one of {', '.join(sql.BEGIN)}, not {isolation_level!r}")
        if url is None and engine is None and async_engine is None:
            raise ConfigurationError("PostgresStorage needs a url, an engine or an async_engine")
        _check_bounds(connect_timeout=connect_timeout, answer_timeout=answer_timeout, pool_timeout=pool_timeout)
        given = engine or async_engine
        limits = {"statement_timeout": statement_timeout, "lock_timeout": lock_timeout}
        database = PostgresDatabase(
            given.url if url is None and given is not None else _validate_url(url),
            connect_timeout=connect_timeout,
            answer_timeout=answer_timeout,
            application_name=application_name,
            isolation_level=isolation_level,
            limits={name: seconds for name, seconds in limits.items() if seconds is not None},
            signer=Signer(signing_key) if signing_key is not None else None,
            prepared_statements=prepared_statements,
            listens=listens,
            allow_strong_role=allow_strong_role,
            pool_options={"pool_size": pool_size, "max_overflow": max_overflow, "pool_timeout": pool_timeout},
            engine=engine,
            async_engine=async_engine,
            session_options=session_options,
            protection=DeclaredProtection(protected, partial(compare_postgresql, is_strong=allow_strong_role)),
        )
        super().__init__(database)
        self.known = Known()

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> PostgresUnitOfWork:
        """Return a unit of work of one tenant. It takes a connection when it is first used."""
        return PostgresUnitOfWork(self.database, tenant, action_id, mode, read_only)

    def outbox(self, mode: Mode, queue: str = EVENTS) -> PostgresOutbox:
        """Return a queue of the outbox, for one relay or operator."""
        return PostgresOutbox(self.database, self.known, mode, queue)

    def _find_tenant(self, mode: Mode, slug: str) -> Tenant | None:
        if "\0" in slug:
            return None
        parameters = (slug, self.database.signature("find_tenant"))
        ((id,),) = self.database.query(mode, "SELECT public.ae_find_tenant(%s, %s)", parameters)
        return Tenant(id, slug) if id is not None else None

    def _find_tenant_by_id(self, mode: Mode, id: UUID) -> Tenant | None:
        parameters = (id, self.database.signature("find_tenant_by_id"))
        ((slug,),) = self.database.query(mode, "SELECT public.ae_find_tenant_by_id(%s, %s)", parameters)
        return Tenant(id, slug) if slug is not None else None

    def _create_tenant(self, mode: Mode, tenant: Tenant, name: str) -> bool:
        parameters = (tenant.id, tenant.slug, name, self.database.signature("create_tenant"))
        ((made,),) = self.database.query(mode, "SELECT public.ae_create_tenant(%s, %s, %s, %s)", parameters)
        return bool(made)

    def _delete_tenant(self, mode: Mode, slug: str) -> bool:
        parameters = (slug, self.database.signature(f"delete_tenant|{slug}"))
        ((deleted,),) = self.database.query(mode, "SELECT public.ae_delete_tenant(%s, %s)", parameters)
        return bool(deleted)

    def _list_tenants(self, mode: Mode, after: str | None, limit: int | None) -> Sequence[Tenant]:
        if after is not None:
            after = after.partition("\0")[0]
        parameters = (self.database.signature("list_tenants"), after, limit)
        rows = self.database.query(mode, "SELECT tenant_id, slug FROM public.ae_list_tenants(%s, %s, %s)", parameters)
        return [Tenant(id, slug) for id, slug in rows]

    def _read_events(
        self, mode: Mode, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None
    ) -> Sequence[StoredEvent]:
        span = (tenant.id, after, self._horizon(mode))
        if types is None:
            rows = self._read(mode, tenant, sql.READ_EVENTS, (*span, limit))
        else:
            asked = (array(types), *span, limit, limit, tenant.id, limit)
            rows = self._read(mode, tenant, sql.READ_EVENTS_OF_TYPES, asked)
        return [StoredEvent(position, event_row(event)) for position, *event, _ in rows]

    def _backlog(self, mode: Mode) -> tuple[int, str | None, int]:
        parameters = (MAX_BACKLOG, self.database.signature("relay"))
        ((approvals, oldest, schedules),) = self.database.query(
            mode, "SELECT approvals, oldest, schedules FROM public.ae_backlog(%s, %s)", parameters
        )
        return approvals, oldest, schedules

    def _count_events(self, mode: Mode, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None) -> int:
        span = (tenant.id, after, self._horizon(mode), limit)
        if types is None:
            ((number,),) = self._read(mode, tenant, sql.COUNT_EVENTS, span)
        else:
            ((number,),) = self._read(mode, tenant, sql.COUNT_EVENTS_OF_TYPES, (array(types), *span, limit))
        return int(number)

    def _purge_expired_keys(self, mode: Mode, limit: int) -> int:
        since = self.known.of(_PURGED_KEYS)
        parameters = (limit, self.database.signature("purge_keys"), since)
        ((purged, until),) = self.database.query(mode, PURGE_KEYS, parameters)
        self.known.record(_PURGED_KEYS, until, since is None)
        return int(purged)

    def _horizon(self, mode: Mode) -> int:
        """Return the position up to which events are final, read in a transaction of its own: the events up to there
        are visible to the next transaction."""
        ((horizon,),) = self.database.query(mode, "SELECT public.ae_event_horizon()")
        return int(horizon)

    def _read(self, mode: Mode, tenant: Tenant, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        unit_of_work = self.unit_of_work(tenant, "", mode, read_only=True)
        try:
            return unit_of_work.query(statement, parameters)
        finally:
            unit_of_work._rollback()


PURGE_KEYS = "SELECT purged, until::pg_catalog.text FROM public.ae_purge_keys(%s, %s, %s)"

_PURGED_KEYS = "purged keys"
"""The key of `Known` for the purge of expired idempotency keys."""

_MAX_SECONDS = 2_000_000
"""The longest timeout, in seconds: libpq takes milliseconds as an integer of 32 bits."""


def _check_bounds(**bounds: float) -> None:
    for name, seconds in bounds.items():
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not 0 <= seconds <= _MAX_SECONDS or (seconds == 0 and name != "pool_timeout"):
            raise ConfigurationError(
                f"{name} is a number of seconds, more than 0 and at most {_MAX_SECONDS}, not {seconds!r}: "
                f"nothing may wait without a bound"
            )


def _validate_url(url: str | URL | None) -> URL:
    try:
        parsed = make_url(url)  # type: ignore[arg-type]
        if "@" in (parsed.host or ""):
            # This is the rest of a password, and error messages contain the host.
            raise ValueError("@")
    except (ArgumentError, ValueError):
        # make_url raises ValueError for a port that is not a number.
        raise ConfigurationError(
            f"{redact_address(str(url))!r} is not a database URL: expected postgresql://user:password@host/database"
        ) from None
    if parsed.drivername not in {"postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg_async"}:
        raise ConfigurationError(
            f"PostgresStorage speaks postgresql:// through psycopg, not {parsed.drivername}:// "
            f"(SQLiteStorage is for files)"
        )
    return parsed.set(drivername="postgresql+psycopg")
