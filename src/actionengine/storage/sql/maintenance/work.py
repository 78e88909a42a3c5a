"""A piece of maintenance: its transactions, and the record of what it has done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import sleep, time
from typing import Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

from pydantic_core import from_json, to_json
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from actionengine.errors import ActionError, ConfigurationError, ErrorCode
from actionengine.storage.sql.grants import quoted
from actionengine.storage.sql.migrations import HEAD, schema_of, schema_version
from actionengine.storage.sql.signing import Signer

Transactions = Callable[[], AbstractContextManager[Connection]]
"""A function that opens a transaction in the database. Leaving the block commits it."""

LOCK_TIMEOUT = 0.5
"""Seconds that maintenance waits for a lock on a table: the statements of hosts wait behind it."""

MAX_CLOCK_DIFFERENCE = 3600
"""Seconds between the clock of an operator's machine and the server's. A wrong month would be made or removed."""

ATTEMPTS = 20
ATTEMPT_INTERVAL = 0.25
"""Seconds between two attempts to get the locks."""

_OWNER = """
SELECT o.rolname, current_user, pg_has_role(c.relowner, 'MEMBER'), extract(epoch FROM clock_timestamp())::float8
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
WHERE c.oid = pg_catalog.to_regclass('public.ae_schema')
"""
_RECORD = """
INSERT INTO {schema}ae_maintenance ({time}actor, reason, operation, target, details)
VALUES ({now}:actor, :reason, :operation, :target, :details)
"""
_LOCK_NOT_AVAILABLE = {"55P03", "40P01"}

_T = TypeVar("_T")


class Done(NamedTuple):
    """A row of `ae_maintenance`: who has removed or moved what, and why. `at` is in UTC."""

    id: int
    at: datetime
    actor: str
    reason: str | None
    operation: str
    target: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The transactions of an operator with a name."""

    transactions: Transactions
    actor: str
    reason: str | None = None

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a transaction as the owner of the tables, in which rows may be removed that are otherwise kept.

        Raise `ConfigurationError` for another role, and for a schema of another version.
        """
        with self.transactions() as connection:
            if connection.dialect.name == "sqlite":
                # The driver would begin one only before the first write.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                act_for(connection, None)
                _check_version(connection)
            else:
                _become_owner(connection)
            yield connection

    def with_retry(self, work: Callable[[Connection], _T]) -> _T:
        """Return the result of a transaction that locks tables. It waits shortly for the locks, and tries again: the
        transactions of hosts go first. Raise `ActionError(conflict)` if it has tried often enough."""
        for _ in range(ATTEMPTS):
            try:
                with self.begin() as connection:
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(LOCK_TIMEOUT * 1000)}ms'")
                    return work(connection)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _LOCK_NOT_AVAILABLE:
                    raise
            sleep(ATTEMPT_INTERVAL)
        raise ActionError(
            ErrorCode.CONFLICT,
            f"other transactions use the tables all the time: {ATTEMPTS} attempts waited {LOCK_TIMEOUT} s each for a "
            "lock. Nothing was changed in this step; end long transactions (pg_stat_activity), and run the command "
            "again",
        )

    def record(self, connection: Connection, operation: str, target: str, details: dict[str, Any]) -> None:
        """Write what this transaction does."""
        is_sqlite = connection.dialect.name == "sqlite"
        statement = _RECORD.format(
            schema="" if is_sqlite else "public.",
            time="at, " if is_sqlite else "",
            now=":now, " if is_sqlite else "",
        )
        values = {
            "actor": self.actor,
            "reason": self.reason,
            "operation": operation,
            "target": target,
            "details": to_json(details).decode(),
        }
        if is_sqlite:
            act_for(connection, None)
            values["now"] = datetime.now(UTC).isoformat(timespec="microseconds")
        connection.execute(text(statement), values)


def act_for(connection: Connection, tenant: UUID | None, signing_key: str | None = None) -> None:
    """Allow the transaction to read and write a tenant's rows of the host's tables, as an action does."""
    if connection.dialect.name == "sqlite":
        named = None if tenant is None else str(tenant)
        driver: Any = connection.connection.driver_connection
        driver.create_function("ae_writing_tenant", 0, lambda: named)
        return
    action = str(uuid4())
    values = {"tenant": str(tenant), "action": action}
    connection.execute(
        text(
            "SELECT set_config('app.tenant_id', :tenant, true), set_config('app.action_id', :action, true),"
            " set_config('search_path', reset_val, true) FROM pg_settings WHERE name = 'search_path'"
        ),
        values,
    )
    if signing_key is not None:
        values["signature"] = Signer(signing_key).context("w", str(tenant), action)
        opening = "SELECT set_config('app.signature', public.ae_open(:tenant, :action, 'w', :signature), true)"
        connection.execute(text(opening), values)


def read_done(connection: Connection, limit: int) -> list[Done]:
    """Return the newest records of maintenance, newest first."""
    schema = "" if connection.dialect.name == "sqlite" else "public."
    rows = connection.execute(
        text(
            "SELECT id, at, actor, reason, operation, target, CAST(details AS text)"
            f" FROM {schema}ae_maintenance ORDER BY id DESC LIMIT :most"
        ),
        {"most": limit},
    )
    return [
        Done(id, datetime.fromisoformat(str(at)).astimezone(UTC), actor, reason, operation, target, from_json(details))
        for id, at, actor, reason, operation, target, details in rows
    ]


def bound_id(connection: Connection, id: UUID | str) -> Any:
    """Return an id as the driver takes it."""
    return str(id) if connection.dialect.name == "sqlite" else UUID(str(id))


def slug_of(connection: Connection, tenant: Any) -> str:
    """Return the slug of a tenant; its id, if the directory lacks it."""
    statement = text(f"SELECT slug FROM {table_name(connection, 'ae_tenants')} WHERE tenant_id = :tenant")
    return str(connection.execute(statement, {"tenant": tenant}).scalar() or tenant)


def table_name(connection: Connection, table: str) -> str:
    """Return the name of one of the library's tables, as SQL writes it."""
    schema = schema_of(connection.dialect.name)
    return quoted(table) if schema is None else f"{quoted(schema)}.{quoted(table)}"


def _check_version(connection: Connection) -> None:
    version = schema_version(connection)
    if version != HEAD:
        found = "no actionengine schema" if version is None else f"version {version} of the schema"
        raise ConfigurationError(f"the database has {found}, this library needs {HEAD}: run `actionengine db upgrade`")


def _become_owner(connection: Connection) -> None:
    found = connection.exec_driver_sql(_OWNER).fetchall()
    if not found:
        raise ConfigurationError("the database has no actionengine schema: run `actionengine db upgrade`")
    ((owner, role, may_become, servers_time),) = found
    if not may_become:
        raise ConfigurationError(
            f"the role {role!r} does not own the tables: connect as {owner!r}, the role that runs `actionengine db "
            "upgrade`"
        )
    _check_version(connection)
    if abs(difference := time() - servers_time) > MAX_CLOCK_DIFFERENCE:
        raise ConfigurationError(
            f"the clock of this machine is {abs(difference) / 3600:.1f} h {'ahead of' if difference > 0 else 'behind'} "
            "the server's, and maintenance goes by the time: set the one that is wrong"
        )
    if owner != role:
        # A superuser's new tables would be its own.
        connection.exec_driver_sql(f"SET LOCAL ROLE {quoted(owner)}")
    connection.exec_driver_sql(
        "SELECT set_config('app.maintenance', 'on', true), set_config('search_path', 'pg_catalog, pg_temp', true)"
    )
