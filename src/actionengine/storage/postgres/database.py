"""The server of a `PostgresStorage`: its connections, and statements outside a unit of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from actionengine.concurrency.run_sync import Mode
from actionengine.storage.counters import MAX_WAIT
from actionengine.storage.postgres.checks import check
from actionengine.storage.postgres.connecting import resolve_names, socket_options
from actionengine.storage.postgres.driver import LibpqConnection, Row, milliseconds
from actionengine.storage.postgres.errors import to_storage_error
from actionengine.storage.postgres.statements import BEGIN, opening_statements
from actionengine.storage.postgres.waiting import is_lost
from actionengine.storage.sql.database import Database
from actionengine.storage.sql.declared_protection import DeclaredProtection
from actionengine.storage.sql.pools import DRIVER, Pools
from actionengine.storage.sql.signing import Signer


class PostgresDatabase(Database):
    """A database on a PostgreSQL server. Signs the calls of operators, if there is a key."""

    def __init__(
        self,
        url: URL,
        *,
        connect_timeout: int,
        answer_timeout: float,
        application_name: str,
        isolation_level: str,
        limits: Mapping[str, float],
        signer: Signer | None,
        prepared_statements: bool,
        listens: bool,
        allow_strong_role: bool,
        pool_options: Mapping[str, Any],
        engine: Engine | None,
        async_engine: AsyncEngine | None,
        session_options: Mapping[str, Any] | None,
        protection: DeclaredProtection,
    ) -> None:
        self._prepares = prepared_statements
        self._answer_timeout = answer_timeout
        options = {
            **pool_options,
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
                **socket_options(url, answer_timeout),
            },
        }
        pools = Pools(
            url,
            "postgresql+psycopg_async",
            options,
            engine,
            async_engine,
            new_driver=self._new_driver,
            before_connecting=resolve_names,
        )
        super().__init__(pools, session_options, protection)
        self.begin = BEGIN[isolation_level]
        # A read-only action reads everything as of one moment, however many statements it takes.
        self.begin_reading = BEGIN[max(isolation_level, "REPEATABLE READ", key=list(BEGIN).index)]
        self.signer = signer
        self.listens = listens
        self.counter_wait = min(MAX_WAIT, limits.get("lock_timeout", inf), 0.9 * answer_timeout)
        """Seconds that a reservation waits for a counter at most: the server answers before it counts as silent."""
        self.limits = [milliseconds(limit) for limit in limits.values()]
        self.opening = {
            read_only: opening_statements(list(limits), read_only, signer is not None) for read_only in (False, True)
        }
        self._allow_strong_role = allow_strong_role

    def _to_storage_error(self, error: Exception) -> Exception | None:
        return to_storage_error(error)

    def bind_id(self, id: UUID) -> UUID:
        """Return a tenant's id as the driver takes it."""
        return id

    def bind_time(self, time: datetime) -> datetime:
        """Return a time as the driver takes it."""
        return time

    def load_time(self, time: Any) -> datetime:
        """Return a time, in UTC, that the driver has read."""
        moment: datetime = time
        return moment.astimezone(UTC)

    def check(self, mode: Mode) -> None:
        """Check the role, the schema, its signatures, and the tables of the host. Raise `ConfigurationError` if one of
        them will not do, with the remedy."""
        check(
            lambda statement, *parameters: self._query(mode, statement, parameters),
            self.pools.name,
            self.signature("check"),
            self._allow_strong_role,
        )
        self.protection.check(lambda statement, parameters: self._query(mode, statement, parameters), self.pools.name)
        self.is_checked = True

    # Outside a unit of work

    def query(self, mode: Mode, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a statement."""
        if not self.is_checked:
            self.check(mode)
        return self._query(mode, statement, parameters)

    def _query(self, mode: Mode, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
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

    def signature(self, call: str) -> str | None:
        """Return the signature of an operator's call; None without a key."""
        return self.signer.operator(call) if self.signer is not None else None

    # Connections

    def driver(self, pooled: PoolProxiedConnection, mode: Mode) -> LibpqConnection:
        """Return the libpq connection below a pooled one. It lives as long as that one does."""
        driver: LibpqConnection | None = pooled.info.get(DRIVER)
        if driver is None:
            driver = pooled.info[DRIVER] = self._new_driver(pooled.driver_connection, mode)
        return driver

    def _new_driver(self, connection: Any, mode: Mode) -> LibpqConnection:
        return LibpqConnection(connection, mode, self._prepares, self._answer_timeout, self.pools.doubt)
