"""`PostgresStorage`: PostgreSQL, with row-level security and two statements around a handler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus
from pydantic_core import from_json, to_json
from sqlalchemy import Engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from actionengine.context import Tenant
from actionengine.errors import ActionException, ConfigurationError, ErrorCode, failing
from actionengine.storage.port import (
    CLAIMED,
    Claim,
    ClaimAnswer,
    EventRow,
    LogQuery,
    LogRow,
    Mode,
    Record,
    Recording,
    SerializationFailure,
    StorageError,
    StorageUnavailable,
    StoredEvent,
)
from actionengine.storage.sql.bridge import await_
from actionengine.storage.sql.documents import DocumentStatements, SQLRecords
from actionengine.storage.sql.migrations import HEAD
from actionengine.storage.sql.pools import Pools
from actionengine.storage.sql.signing import Signer
from actionengine.storage.sql.storage import SQLStorage
from actionengine.storage.sql.unit_of_work import SQLUnitOfWork

# Settings are local to the transaction. They are made before the claim is inserted, which their tenant has to allow:
# the row to insert is read from them.
SETTINGS = """
    SELECT current_setting('lock_timeout') AS lock_timeout,
        set_config('app.tenant_id', %s, true),
        set_config('app.action_id', %s, true)"""
OPEN = "WITH context AS MATERIALIZED ({settings}\n)\nSELECT NULL FROM context"
OPEN_AND_CLAIM = """
WITH context AS MATERIALIZED ({settings},
        set_config('lock_timeout', %s, true)
), claimed AS (
    INSERT INTO public.ae_idempotency_keys (tenant_id, action, key, fingerprint)
    SELECT %s, %s, %s, %s
    FROM context
    ON CONFLICT DO NOTHING
    RETURNING true
)
SELECT EXISTS (SELECT FROM claimed), set_config('lock_timeout', (SELECT lock_timeout FROM context), true)
"""

CLAIM = """
SELECT status, result, approval_id
FROM public.ae_claim(%s, %s, %s, %s, %s)
"""

DOCUMENTS = DocumentStatements(
    insert="""
INSERT INTO public.ae_documents (tenant_id, collection, id, version, data, created_at, updated_at)
SELECT new.tenant_id, new.collection, new.id, 1, new.data, new.at, new.at
FROM (VALUES (%s::uuid, %s::text, %s::text, %s::json, %s::timestamptz)) new (tenant_id, collection, id, data, at)
ON CONFLICT DO NOTHING
RETURNING version
""",
    get="""
SELECT version, data::text, created_at, updated_at
FROM public.ae_documents
WHERE tenant_id = %s AND collection = %s AND id = %s
""",
    update="""
UPDATE public.ae_documents d
SET version = d.version + 1, data = new.data, updated_at = new.at
FROM (VALUES (%s::uuid, %s::text, %s::text, %s::integer, %s::json, %s::timestamptz))
    new (tenant_id, collection, id, version, data, at)
WHERE d.tenant_id = new.tenant_id AND d.collection = new.collection AND d.id = new.id AND d.version = new.version
RETURNING d.created_at
""",
    delete="""
DELETE FROM public.ae_documents
WHERE tenant_id = %s AND collection = %s AND id = %s AND version = %s
RETURNING id
""",
    version="""
SELECT version
FROM public.ae_documents
WHERE tenant_id = %s AND collection = %s AND id = %s
""",
)

LIST_DOCUMENTS = """
SELECT id, version, data::text, created_at, updated_at
FROM public.ae_documents
WHERE tenant_id = %s AND collection = %s AND id > %s
ORDER BY id
LIMIT %s
"""

# Containment finds candidates; equality, field by field, decides.
FIND_DOCUMENTS = """
SELECT id, version, data::text, created_at, updated_at
FROM public.ae_documents
WHERE tenant_id = %s AND collection = %s AND id > %s
    AND data::jsonb @> %s::jsonb
    AND (SELECT bool_and(data::jsonb -> wanted.key = wanted.value) FROM jsonb_each(%s::jsonb) wanted)
ORDER BY id
LIMIT %s
"""

READ_LOG = """
SELECT id, parent_id, tenant_id, actor_type, actor_id, approved_by, approval_id, source, reason, action,
    subjects::text, input::text, output::text, outcome, error::text, decision, started_at, latency, idempotency_key,
    request_id, model, prompt_version, input_tokens, output_tokens, cost_usd
FROM public.ae_action_log
WHERE tenant_id = %s{conditions}
ORDER BY id DESC
LIMIT %s
"""

READ_EVENTS = """
SELECT position, id, tenant_id, type, subject, payload::text, action, action_id, actor_type, actor_id, occurred_at
FROM public.ae_events
WHERE tenant_id = %s AND position > %s AND position <= %s
ORDER BY position
LIMIT %s
"""

# Positions are taken after the lock, which tells readers that events up to here may still be on their way.
_HORIZON = """horizon AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(
        (1634034944::bigint << 32) + coalesce(pg_sequence_last_value('public.ae_event_position'), 0)
    )
)"""
_LOG = """log AS (
    INSERT INTO public.ae_action_log (id, parent_id, tenant_id, actor_type, actor_id, approved_by, approval_id, source,
        reason, action, subjects, input, output, outcome, error, decision, started_at, latency, idempotency_key,
        request_id, model, prompt_version, input_tokens, output_tokens, cost_usd)
    VALUES {rows}
    RETURNING tenant_id, id, subjects
), subjects AS (
    INSERT INTO public.ae_action_log_subjects (tenant_id, subject, log_id)
    SELECT log.tenant_id, subject.name, log.id
    FROM log, json_array_elements_text(log.subjects) subject (name)
    ON CONFLICT DO NOTHING
)"""
_LOG_ROW = f"({', '.join(['%s'] * len(LogRow._fields))})"
_EVENTS = """events AS (
    INSERT INTO public.ae_events (id, tenant_id, type, subject, payload, action, action_id, actor_type, actor_id,
        occurred_at)
    SELECT event.*
    FROM horizon, (VALUES {rows}) event
    RETURNING tenant_id, position
), outbox AS (
    INSERT INTO public.ae_outbox (tenant_id, position)
    SELECT tenant_id, position
    FROM events
)"""
_EVENT_ROW = (
    "(%s::uuid, %s::uuid, %s::text, %s::text, %s::json, %s::text, %s::uuid, %s::text, %s::text, %s::timestamptz)"
)
_RESULTS = """results AS (
    UPDATE public.ae_idempotency_keys used
    SET fingerprint = new.fingerprint, result = new.result, approval_id = new.approval_id, expires_at = new.expires_at
    FROM (VALUES {rows}) new (tenant_id, action, key, fingerprint, result, approval_id, expires_at)
    WHERE used.tenant_id = new.tenant_id AND used.action = new.action AND used.key = new.key
)"""
_RESULT_ROW = "(%s::uuid, %s::text, %s::text, %s::text, %s::text, %s::text, %s::timestamptz)"

MOST_ROWS = 200
"""Rows in one recording statement; it has at most 65,535 parameters. More of them take several statements."""

CHECK = """
SELECT current_user, role.rolsuper, role.rolbypassrls, pg_has_role(schema.relowner, 'USAGE')
FROM pg_roles role
LEFT JOIN pg_class schema ON schema.oid = to_regclass('public.ae_schema')
WHERE role.rolname = current_user
"""

# What a handler's own SQL can leave behind in a connection: settings, temporary tables, cursors, locks, a role. The last
# statement tells whether it prepared statements, under names that may be the driver's.
_CLEAN = [
    (statement, ())
    for statement in (
        "CLOSE ALL",
        "SET SESSION AUTHORIZATION DEFAULT",
        "RESET ALL",
        "UNLISTEN *",
        "SELECT pg_advisory_unlock_all()",
        "DISCARD TEMP",
        "DISCARD SEQUENCES",
        "SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE from_sql)",
    )
]


class Opening(NamedTuple):
    """The statements that open a unit of work."""

    plain: str
    claiming: str


class PostgresStorage(SQLStorage):
    """Storage in PostgreSQL 15 or newer, for hosts of both worlds.

    The database has the schema of `actionengine db upgrade`, and `url` names a role that it gave its grants to
    (`--app-role`): one that is neither a superuser, nor the owner of the tables, nor free of row-level security.

    Args:
        url: `postgresql://user:password@host/database`.
        pool_size: connections that are kept.
        max_overflow: connections beyond those, under load.
        pool_timeout: seconds to wait for a free connection; then `unavailable`.
        connect_timeout: seconds to wait for a new connection; then `unavailable`.
        statement_timeout: seconds that one statement may take; then `timeout`. None leaves it to the server.
        lock_timeout: seconds that a statement may wait for a lock; then `conflict`. None leaves it to the server.
        application_name: as it stands in `pg_stat_activity`.
        isolation_level: `"READ COMMITTED"`, `"REPEATABLE READ"` or `"SERIALIZABLE"`.
        signing_key: signs each transaction's tenant and action, where the database has this key
            (`actionengine db sign`); at least 16 bytes.
        prepared_statements: whether the driver prepares statements; False for a pooler that cannot carry them.
        engine, async_engine: the host's own, instead of the pools of this storage; each serves its own world.
        session_options: arguments for the `Session` of a unit of work, such as `autoflush`.
        allow_strong_role: whether a superuser or an owner is accepted, past row-level security: for local play only.

    Raises:
        ConfigurationError: for a URL that is not one of PostgreSQL's, and for a signing key that is too short.
    """

    documents = DOCUMENTS

    def __init__(
        self,
        url: str | URL | None = None,
        *,
        pool_size: int = 10,
        max_overflow: int = 10,
        pool_timeout: float = 10.0,
        connect_timeout: int = 5,
        statement_timeout: float | None = None,
        lock_timeout: float | None = None,
        application_name: str = "actionengine",
        isolation_level: str = "READ COMMITTED",
        signing_key: str | bytes | None = None,
        prepared_statements: bool = True,
        engine: Engine | None = None,
        async_engine: AsyncEngine | None = None,
        session_options: Mapping[str, Any] | None = None,
        allow_strong_role: bool = False,
    ) -> None:
        if isolation_level not in _BEGIN:
            raise ConfigurationError(f"isolation_level is one of {', '.join(_BEGIN)}, not {isolation_level!r}")
        if url is None and engine is None and async_engine is None:
            raise ConfigurationError("PostgresStorage needs a url, an engine or an async_engine")
        given = engine or async_engine
        pools = Pools(
            given.url if url is None and given is not None else _checked_url(url),
            "postgresql+psycopg_async",
            {
                "pool_size": pool_size,
                "max_overflow": max_overflow,
                "pool_timeout": pool_timeout,
                "pool_reset_on_return": None,
                # Each transaction begins with a statement of its own.
                "isolation_level": "AUTOCOMMIT",
                "connect_args": {
                    "connect_timeout": connect_timeout,
                    "application_name": application_name,
                    "prepare_threshold": 5 if prepared_statements else None,
                },
            },
            engine,
            async_engine,
        )
        super().__init__(pools, session_options)
        self.begin = _BEGIN[isolation_level]
        self.prepares = prepared_statements
        self.signer = Signer(signing_key) if signing_key is not None else None
        named_limits = {"statement_timeout": statement_timeout, "lock_timeout": lock_timeout}
        given_limits = {name: limit for name, limit in named_limits.items() if limit is not None}
        self.limits = [_milliseconds(limit) for limit in given_limits.values()]
        settings = ["app.signature"] * (self.signer is not None) + list(given_limits)
        self.opening = {read_only: _opening(settings, read_only) for read_only in (False, True)}
        self._allow_strong_role = allow_strong_role

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> PostgresUnitOfWork:
        """A unit of work of one tenant. Takes a connection when it is first used."""
        return PostgresUnitOfWork(self, tenant, action_id, mode, read_only)

    def id_in(self, id: UUID) -> Any:
        """A tenant's id as the driver takes it."""
        return id

    def time_in(self, time: datetime) -> Any:
        """A time as the driver takes it."""
        return time

    def time_out(self, time: Any) -> datetime:
        """A time as the driver gave it, in UTC."""
        moment: datetime = time
        return moment.astimezone(UTC)

    def list_documents(
        self, unit_of_work: SQLUnitOfWork, collection: str, wanted: Mapping[str, Any], limit: int, after: str
    ) -> Sequence[Record]:
        """Documents by id."""
        scope = (unit_of_work.tenant.id, collection, after)
        if wanted:
            encoded = to_json(wanted).decode()
            rows = unit_of_work.query(FIND_DOCUMENTS, (*scope, encoded, encoded, limit))
        else:
            rows = unit_of_work.query(LIST_DOCUMENTS, (*scope, limit))
        records = SQLRecords(unit_of_work, collection)
        return [records.record(*row) for row in rows]

    def _known(self, error: Exception) -> Exception | None:
        if not isinstance(error, psycopg.Error):
            return None
        state = error.sqlstate
        if state is None:
            if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
                return StorageUnavailable(f"PostgreSQL is out of reach: {_first_line(error)}")
            if isinstance(error, psycopg.DataError):
                return failing(ErrorCode.INVALID_INPUT, f"PostgreSQL cannot store this: {_first_line(error)}")
            return None
        known = _KNOWN.get(state) or _KNOWN_CLASSES.get(state[:2])
        return known(error) if known is not None else None

    # Outside a unit of work

    def _query(self, mode: Mode, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if not self.is_checked:
            self._check(mode)
        return self._query_unchecked(mode, statement, parameters)

    def _query_unchecked(self, mode: Mode, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        for attempt in (1, 2):
            pooled = self.pools.engine(mode).raw_connection()
            try:
                rows = _execute(pooled, mode, statement, parameters, self.prepares)
                pooled.commit()
                return rows
            except BaseException as error:
                pooled.invalidate()
                if attempt == 2 or not _is_lost(error):
                    raise
                self.drop_stale(self.pools.engine(mode))
            finally:
                pooled.close()
        raise AssertionError

    def drop_stale(self, engine: Engine) -> None:
        """Close the connections that nobody uses: one of them was found dead, so that the others will be too."""
        engine.pool.dispose()

    def _signature(self, call: str) -> str | None:
        return self.signer.operator(call) if self.signer is not None else None

    def _find_tenant(self, slug: str, mode: Mode) -> Tenant | None:
        if "\0" in slug:
            return None
        signature = self._signature("find_tenant")
        ((found,),) = self._query(mode, "SELECT public.ae_find_tenant(%s, %s)", (slug, signature))
        return Tenant(found, slug) if found is not None else None

    def _create_tenant(self, tenant: Tenant, name: str, mode: Mode) -> bool:
        parameters = (tenant.id, tenant.slug, name, self._signature("create_tenant"))
        ((made,),) = self._query(mode, "SELECT public.ae_create_tenant(%s, %s, %s, %s)", parameters)
        return bool(made)

    def _list_tenants(self, mode: Mode) -> Sequence[Tenant]:
        signature = self._signature("list_tenants")
        rows = self._query(mode, "SELECT tenant_id, slug FROM public.ae_list_tenants(%s)", (signature,))
        return [Tenant(id, slug) for id, slug in rows]

    def _purge_expired_keys(self, limit: int, mode: Mode) -> int:
        parameters = (limit, self._signature("purge_keys"))
        ((purged,),) = self._query(mode, "SELECT public.ae_purge_keys(%s, %s)", parameters)
        return int(purged)

    def _read_events(self, tenant: Tenant, after: int, limit: int, mode: Mode) -> Sequence[StoredEvent]:
        # The horizon first, in a transaction of its own: what was final then is visible to the next one.
        ((horizon,),) = self._query(mode, "SELECT public.ae_event_horizon()")
        unit_of_work = self.unit_of_work(tenant, "", mode, read_only=True)
        try:
            rows = unit_of_work.query(READ_EVENTS, (tenant.id, after, horizon, limit))
        finally:
            unit_of_work._rollback()
        return [StoredEvent(position, _event_row(event)) for position, *event in rows]

    def _check(self, mode: Mode) -> None:
        ((role, is_superuser, bypasses, owns),) = self._query_unchecked(mode, CHECK)
        if owns is None:
            raise ConfigurationError(
                f"the database {self.pools.name!r} has no actionengine schema: run "
                f"`actionengine db upgrade --url … --app-role {role}` as the owner"
            )
        strength = "a superuser" if is_superuser else "free of row-level security" if bypasses else None
        if strength is None and owns:
            strength = "an owner of the tables"
        if strength is not None and not self._allow_strong_role:
            raise ConfigurationError(
                f"the role {role!r} is {strength}, and so past tenant isolation: connect as a role of its own "
                f"(CREATE ROLE app LOGIN, then `actionengine db upgrade --url … --app-role app`), or pass "
                f"allow_strong_role=True for local play"
            )
        try:
            ((version,),) = self._query_unchecked(mode, "SELECT max(version) FROM public.ae_schema")
        except psycopg.errors.InsufficientPrivilege:
            raise ConfigurationError(
                f"the role {role!r} has no grants on the actionengine tables: run "
                f"`actionengine db upgrade --url … --app-role {role}` as the owner"
            ) from None
        check_version(version, role)
        self._check_signing(mode)
        self.is_checked = True

    def _check_signing(self, mode: Mode) -> None:
        ((signed,),) = self._query_unchecked(
            mode, "SELECT public.ae_signed('operator|check', %s)", (self._signature("check"),)
        )
        if not signed and self.signer is None:
            raise ConfigurationError("the database verifies signatures: pass the signing_key that `db sign` stored")
        ((unsigned,),) = self._query_unchecked(mode, "SELECT public.ae_signed('operator|check', NULL)")
        if self.signer is not None and (unsigned or not signed):
            raise ConfigurationError(
                "the database does not have this signing_key: store it with `actionengine db sign`"
            )


class PostgresUnitOfWork(SQLUnitOfWork):
    """One transaction of one tenant."""

    storage: PostgresStorage
    _cursor: Any = None

    def execute(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a statement at the level of the driver."""
        if self._mode == "async":
            rows: list[tuple[Any, ...]] = await_(_fetch(self._cursor, statement, parameters, self.storage.prepares))
            return rows
        cursor = self._cursor
        cursor.execute(statement, parameters, prepare=self.storage.prepares)
        return cursor.fetchall() if cursor.description is not None else []

    def together(self, *statements: tuple[str, Sequence[Any]]) -> list[tuple[Any, ...]]:
        """Send statements in one go; the rows of the last."""
        if self._mode == "async":
            rows: list[tuple[Any, ...]] = await_(
                _together(self._cursor.connection, statements, self.storage.prepares)
            )
            return rows
        connection: Any = self._cursor.connection
        with connection.pipeline():
            for statement, parameters in statements:
                cursor = connection.cursor()
                cursor.execute(statement, parameters, prepare=self.storage.prepares)
        return cursor.fetchall() if cursor.description is not None else []

    def _take_connection(self, claim: Claim | None, wait: float) -> ClaimAnswer | None:
        storage = self.storage
        if not storage.is_checked:
            storage._check(self._mode)
        for attempt in (1, 2):
            self._engine = engine = storage.pools.engine(self._mode, self._is_lookup)
            self._pooled = engine.raw_connection()
            driver: Any = self._pooled.driver_connection
            self._cursor = driver.cursor()
            try:
                return self._begin(claim, wait)
            except BaseException as error:
                if _is_lost(error):
                    self._release(broken=True)
                    if attempt == 1:
                        # A connection that died in the pool: nothing has happened in it yet.
                        storage.drop_stale(engine)
                        continue
                raise
        raise AssertionError

    def _begin(self, claim: Claim | None, wait: float) -> ClaimAnswer | None:
        storage, tenant_id = self.storage, str(self.tenant.id)
        parameters: list[Any] = [tenant_id, self._action_id]
        if storage.signer is not None:
            parameters.append(storage.signer.context(tenant_id, self._action_id))
        parameters.extend(storage.limits)
        opening = storage.opening[self._read_only]
        if claim is None:
            self.together((storage.begin, ()), (opening.plain, parameters))
            return None
        parameters += (_milliseconds(wait), tenant_id, claim.action, claim.key, claim.fingerprint)
        try:
            ((is_claimed, _),) = self.together((storage.begin, ()), (opening.claiming, parameters))
        except psycopg.errors.LockNotAvailable:
            return ClaimAnswer("in_progress")
        except psycopg.errors.ProgramLimitExceeded:
            raise _key_too_long() from None
        return CLAIMED if is_claimed else self._claim_in_transaction(claim, wait)

    def _claim_in_transaction(self, claim: Claim, wait: float) -> ClaimAnswer:
        self.execute("SAVEPOINT ae_claim", ())
        try:
            ((status, result, approval_id),) = self.execute(CLAIM, (*claim, _milliseconds(wait)))
        except psycopg.errors.LockNotAvailable:
            self.execute("ROLLBACK TO SAVEPOINT ae_claim", ())
            return ClaimAnswer("in_progress")
        except psycopg.errors.ProgramLimitExceeded:
            raise _key_too_long() from None
        self.execute("RELEASE SAVEPOINT ae_claim", ())
        if status == "claimed":
            return CLAIMED
        return ClaimAnswer(status, result.encode() if result is not None else None, approval_id)

    def _read_log(self, query: LogQuery) -> list[LogRow]:
        conditions: list[str] = []
        values: list[Any] = []
        for condition, value in (
            ("action = %s", query.action),
            ("actor_id = %s", query.actor_id),
            ("actor_type = %s", query.actor_type),
            ("outcome = %s", query.outcome),
            ("started_at >= %s", query.since),
            ("started_at < %s", query.until),
            ("id < %s", _log_id(query.before) if query.before is not None else None),
            (
                "id IN (SELECT log_id FROM public.ae_action_log_subjects s WHERE s.tenant_id = %s AND s.subject = %s)",
                query.subject,
            ),
        ):
            if value is not None:
                conditions.append(condition)
                values.extend((self.tenant.id, value) if value is query.subject else (value,))
        statement = READ_LOG.format(conditions="".join(f"\n    AND {condition}" for condition in conditions))
        rows = self.query(statement, (self.tenant.id, *values, query.limit))
        return [_log_row(row) for row in rows]

    def _recording(self) -> list[tuple[str, Sequence[Any]]]:
        log = [_log_values(row) for recording in self._recordings for row in recording.log]
        events = [_event_values(row) for recording in self._recordings for row in recording.events]
        results = [
            (self.tenant.id, claim.action, claim.key, claim.fingerprint, _text(result), approval_id, expires_at)
            for recording in self._recordings
            for claim, result, approval_id, expires_at in recording.results
        ]
        statements: list[tuple[str, Sequence[Any]]] = []
        while log or events or results:
            rows = log[:MOST_ROWS], events[:MOST_ROWS], results[:MOST_ROWS]
            parameters = [*chain.from_iterable(rows[0]), *chain.from_iterable(rows[1]), *chain.from_iterable(rows[2])]
            statements.append((record_statement(len(rows[0]), len(rows[1]), len(rows[2])), parameters))
            del log[:MOST_ROWS], events[:MOST_ROWS], results[:MOST_ROWS]
        return statements

    def _finish(self) -> None:
        status = self._cursor.connection.pgconn.transaction_status
        if status == TransactionStatus.INERROR:
            raise _swallowed()
        if status == TransactionStatus.IDLE:
            raise StorageError("the handler has ended the transaction by itself; the pipeline does that")
        self._send_last(*self._recording(), ("COMMIT", ()))

    def _undo(self) -> None:
        # By the connection's own method: a driver that sees ROLLBACK among its statements forgets what it has prepared.
        connection: Any = self._cursor.connection
        if self._mode == "async":
            await_(connection.rollback())
        else:
            connection.rollback()
        if self._connection is not None:
            self._send_last()

    def _send_last(self, *statements: tuple[str, Sequence[Any]]) -> None:
        """The last statements of the transaction, and, where a handler's own SQL has been here, what cleans up."""
        if self._connection is None:
            self.together(*statements)
            return
        ((is_foul,),) = self.together(*statements, *_CLEAN)
        if is_foul:
            assert self._pooled is not None
            self._pooled.invalidate()

    def _interrupt(self) -> None:
        connection: Any = self._cursor.connection
        if self._mode == "async":
            await_(connection.cancel_safe(timeout=2.0))
        else:
            connection.cancel_safe(timeout=2.0)


_BEGIN = {
    "READ COMMITTED": "BEGIN",
    "REPEATABLE READ": "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "SERIALIZABLE": "BEGIN ISOLATION LEVEL SERIALIZABLE",
}


@lru_cache(maxsize=256)
def record_statement(log: int, events: int, results: int) -> str:
    """The statement that writes so many log rows, events with their outbox rows, and idempotent results."""
    parts: list[str] = []
    if events:
        parts.append(_HORIZON)
    if log:
        parts.append(_LOG.format(rows=", ".join([_LOG_ROW] * log)))
    if events:
        parts.append(_EVENTS.format(rows=", ".join([_EVENT_ROW] * events)))
    if results:
        parts.append(_RESULTS.format(rows=", ".join([_RESULT_ROW] * results)))
    return f"WITH {', '.join(parts)}\nSELECT"


def check_version(version: int | None, role: str) -> None:
    """Raises `ConfigurationError` where the schema is not of this version of the library."""
    if version is None or version < HEAD:
        raise ConfigurationError(
            f"the actionengine schema is at version {version}, this library needs {HEAD}: run "
            f"`actionengine db upgrade --url … --app-role {role}` as the owner"
        )
    if version > HEAD:
        raise ConfigurationError(
            f"the actionengine schema is at version {version}, this library knows {HEAD}: upgrade actionengine"
        )


def _execute(
    pooled: PoolProxiedConnection, mode: Mode, statement: str, parameters: Sequence[Any], prepare: bool
) -> list[tuple[Any, ...]]:
    driver: Any = pooled.driver_connection
    if mode == "async":
        rows: list[tuple[Any, ...]] = await_(_fetch(driver.cursor(), statement, parameters, prepare))
        return rows
    cursor = driver.cursor()
    cursor.execute(statement, parameters, prepare=prepare)
    fetched: list[tuple[Any, ...]] = cursor.fetchall()
    return fetched


async def _fetch(cursor: Any, statement: str, parameters: Sequence[Any], prepare: bool) -> list[tuple[Any, ...]]:
    await cursor.execute(statement, parameters, prepare=prepare)
    rows: list[tuple[Any, ...]] = await cursor.fetchall() if cursor.description is not None else []
    return rows


async def _together(connection: Any, statements: Sequence[tuple[str, Sequence[Any]]], prepare: bool) -> list[Any]:
    async with connection.pipeline():
        for statement, parameters in statements:
            cursor = connection.cursor()
            await cursor.execute(statement, parameters, prepare=prepare)
    rows: list[Any] = await cursor.fetchall() if cursor.description is not None else []
    return rows


def _checked_url(url: str | URL | None) -> URL:
    try:
        parsed = make_url(url)  # type: ignore[arg-type]
    except ArgumentError:
        raise ConfigurationError(f"{_shown(url)} is no database URL: postgresql://user:password@host/database") from None
    if parsed.drivername not in {"postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg_async"}:
        raise ConfigurationError(
            f"PostgresStorage speaks postgresql:// through psycopg, not {parsed.drivername}:// "
            f"(SQLiteStorage is for files)"
        )
    return parsed.set(drivername="postgresql+psycopg")


def _shown(url: object) -> str:
    text = str(url)
    return repr(text) if "@" not in text else repr(f"…@{text.rpartition('@')[2]}")


def _opening(settings: Sequence[str], read_only: bool) -> Opening:
    made = "".join(f",\n        set_config('{name}', %s, true)" for name in settings)
    if read_only:
        made += ",\n        set_config('transaction_read_only', 'on', true)"
    return Opening(*(form.format(settings=SETTINGS + made) for form in (OPEN, OPEN_AND_CLAIM)))


def _milliseconds(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))


def _is_lost(error: BaseException) -> bool:
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    return error.sqlstate is None or error.sqlstate[:2] in {"57", "08"}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _key_too_long() -> ActionException:
    return failing(ErrorCode.INVALID_INPUT, "the idempotency key is too long for the database's index")


def _swallowed() -> StorageError:
    return StorageError(
        "a statement of this transaction has failed, and its error was caught: the transaction cannot go on. "
        "Use session.begin_nested() around a statement that may fail"
    )


def _serialization(error: psycopg.Error) -> Exception:
    return SerializationFailure(_first_line(error))


def _unavailable(error: psycopg.Error) -> Exception:
    return StorageUnavailable(f"PostgreSQL: {_first_line(error)}")


def _taken(error: psycopg.Error) -> Exception:
    constraint = error.diag.constraint_name
    return failing(ErrorCode.CONFLICT, f"this exists already (constraint {constraint})", constraint=constraint)


def _locked(error: psycopg.Error) -> Exception:
    return failing(ErrorCode.CONFLICT, "another execution holds a lock on this: try again")


def _too_slow(error: psycopg.Error) -> Exception:
    return failing(ErrorCode.TIMEOUT, "a statement was stopped: it took too long")


def _not_storable(error: psycopg.Error) -> Exception:
    return failing(ErrorCode.INVALID_INPUT, f"PostgreSQL cannot store this: {_first_line(error)}")


def _refused(error: psycopg.Error) -> Exception:
    return StorageError(f"PostgreSQL refuses: {_first_line(error)}")


_KNOWN = {
    "40001": _serialization,
    "40P01": _serialization,
    "23505": _taken,
    "23P01": _taken,
    "55P03": _locked,
    "57014": _too_slow,
    "25P02": lambda error: _swallowed(),
    "25006": _refused,
    "42501": _refused,
    "AE001": _refused,
    "AE002": _refused,
    "AE003": _refused,
    "22P05": _not_storable,
    "22021": _not_storable,
    "26000": _unavailable,
}
"""What a SQLSTATE means."""

_KNOWN_CLASSES = {"08": _unavailable, "53": _unavailable, "57": _unavailable, "58": _unavailable}
"""What a class of them means: connection exceptions, lack of resources (disk full), operator intervention, I/O errors."""


def _log_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise failing(ErrorCode.INVALID_INPUT, f"{text!r} is no id of the action log") from None


def _text(encoded: bytes | None) -> str | None:
    return encoded.decode() if encoded is not None else None


def _log_values(row: LogRow) -> list[Any]:
    values: list[Any] = list(row)
    for index in _LOG_JSON:
        if values[index] is not None:
            values[index] = values[index].decode()
    values[_LOG_SUBJECTS] = to_json(row.subjects).decode()
    return values


def _log_row(values: tuple[Any, ...]) -> LogRow:
    fields = list(values)
    fields[0] = str(fields[0])
    fields[1] = str(fields[1]) if fields[1] is not None else None
    for index in _LOG_JSON:
        if fields[index] is not None:
            fields[index] = fields[index].encode()
    fields[_LOG_SUBJECTS] = tuple(from_json(fields[_LOG_SUBJECTS]))
    fields[_LOG_STARTED] = fields[_LOG_STARTED].astimezone(UTC)
    return LogRow(*fields)


def _event_values(row: EventRow) -> list[Any]:
    values: list[Any] = list(row)
    values[_EVENT_PAYLOAD] = row.payload.decode()
    return values


def _event_row(values: list[Any]) -> EventRow:
    event = EventRow(*values)
    return event._replace(
        id=str(event.id),
        payload=values[_EVENT_PAYLOAD].encode(),
        action_id=str(event.action_id),
        occurred_at=event.occurred_at.astimezone(UTC),
    )


_LOG_JSON = [LogRow._fields.index(name) for name in ("input", "output", "error")]
_LOG_SUBJECTS = LogRow._fields.index("subjects")
_LOG_STARTED = LogRow._fields.index("started_at")
_EVENT_PAYLOAD = EventRow._fields.index("payload")
