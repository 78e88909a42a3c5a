"""Connections to the durable engine's database on which each wait has a limit.

A network that drops all packets looks like a slow server, and TCP takes the connection for alive. So each wait for an
answer has a deadline. A connection that misses it is closed, and its pool drops the connections that were idle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import ceil, inf
from time import monotonic
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext

from actionengine.errors import ConfigurationError
from actionengine.storage.postgres.connecting import resolve_names, socket_options
from actionengine.storage.postgres.driver import milliseconds
from actionengine.storage.postgres.generators import ResponseTimeout, checked

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 10.0

_SERVER_TIMEOUT = 1.0
"""Seconds after which the server ends an abandoned transaction of this process, and releases its locks."""


class DurableUnavailable(Exception):
    """The durable engine's database is out of reach, or not set up."""


class Bounds(NamedTuple):
    """The most seconds to wait for a connection to the durable engine's database (rounded up to whole seconds, at least
    two, for each address of its host), and for the answer to a statement."""

    connect_timeout: float = CONNECT_TIMEOUT
    answer_timeout: float = ANSWER_TIMEOUT

    def check(self) -> None:
        """Raise `ConfigurationError` for seconds that are not positive and finite."""
        check_seconds(**self._asdict())

    def for_lease(self, lease: float) -> Bounds:
        """Return bounds that leave time to renew a lease on another connection before it runs out."""
        longest = min(max(1.0, lease / 4), CONNECT_TIMEOUT)
        return Bounds(min(self.connect_timeout, longest), min(self.answer_timeout, longest))

    @property
    def longest(self) -> float:
        """The most seconds until a query is answered or refused, if it finds a silent connection and opens another."""
        return 2 * self.answer_timeout + max(2, ceil(self.connect_timeout))


def check_seconds(**times: float) -> None:
    """Raise `ConfigurationError` for a time, given by its parameter's name, that is not positive and finite."""
    for name, seconds in times.items():
        if not 0 < seconds < inf:
            raise ConfigurationError(f"{name} is {seconds}: give a number of seconds above 0")


class Switch:
    """The state of a pool: whether it still serves, and whether DBOS waits for lost connections to come back."""

    def __init__(self) -> None:
        self.is_off = threading.Event()
        self.is_patient = threading.Event()
        """Set once the process has started: until then, a lost connection is an error."""

    def turn_off(self) -> None:
        """End the waits in this pool, and refuse new connections."""
        self.is_patient.clear()
        self.is_off.set()


class BoundedConnection(psycopg.Connection[Any]):
    """A connection with a limit for each wait."""

    answer_timeout = ANSWER_TIMEOUT
    switch: Switch | None = None
    _pool = None
    """Tells the driver that a pool has the connection: the driver then closes an abandoned one without a warning."""

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Wait for the server's part of a statement. Raises `ResponseTimeout` if the server is silent for too long."""
        deadline = monotonic() + self.answer_timeout

        def check(is_heard: bool) -> None:
            nonlocal deadline
            if self.switch is not None and self.switch.is_off.is_set():
                raise ResponseTimeout("this process stops, and no longer waits for an answer")
            if is_heard:
                deadline = monotonic() + self.answer_timeout
            elif monotonic() > deadline:
                raise ResponseTimeout(f"the database did not answer within {self.answer_timeout:g} s (answer_timeout)")

        try:
            return super().wait(checked(gen, check), *arguments, **options)
        except ResponseTimeout:
            # A late answer would be taken for the answer to another statement.
            self.close()
            raise


def open_postgres(url: URL, bounds: Bounds, *, size: int, overflow: int = 0, switch: Switch | None = None) -> Engine:
    """Return a pool of bounded connections to a PostgreSQL database, which are opened on demand. It no longer serves
    once its `switch` is off."""
    engine = create_engine(
        url,
        pool_size=size,
        max_overflow=overflow,
        pool_timeout=bounds.answer_timeout,
        pool_pre_ping=True,
        connect_args=_connect_arguments(url, bounds),
    )

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, options: Any) -> BoundedConnection:
        if switch is not None and switch.is_off.is_set():
            raise DurableUnavailable("this process has stopped")
        resolve_names(dialect, record, arguments, options)
        connection = BoundedConnection.connect(*arguments, **options)
        connection.answer_timeout = bounds.answer_timeout
        connection.switch = switch
        return connection

    @event.listens_for(engine, "connect")
    def bound_server(connection: BoundedConnection, record: Any) -> None:
        limit = milliseconds(bounds.answer_timeout + _SERVER_TIMEOUT)
        try:
            connection.execute(f"SET idle_in_transaction_session_timeout = {limit}".encode())
            # The pool rolls back uncommitted settings.
            connection.commit()
        except BaseException:
            # The pool does not close a connection that it does not have yet.
            connection.close()
            raise

    if switch is not None:
        event.listen(engine, "handle_error", _notified_by(switch))
        event.listen(engine, "checkin", _closed_by(switch))
    return engine


def _notified_by(switch: Switch) -> Callable[[ExceptionContext], None]:
    """Return a listener that raises an error for a lost connection. DBOS would wait for a new one."""

    def notify(context: ExceptionContext) -> None:
        if switch.is_patient.is_set():
            return
        if context.is_pre_ping:
            # The pool replaces this connection itself.
            return
        is_refused = context.connection is None and isinstance(context.original_exception, psycopg.Error)
        if context.is_disconnect or is_refused:
            raise DurableUnavailable(str(context.original_exception)) from context.original_exception

    return notify


def _closed_by(switch: Switch) -> Callable[[Any, Any], None]:
    """Return a listener that closes connections which return to the pool after it was turned off."""

    def close(connection: Any, record: Any) -> None:
        if switch.is_off.is_set():
            record.invalidate()

    return close


def _connect_arguments(url: URL, bounds: Bounds) -> dict[str, Any]:
    """Return the arguments of a connection that the URL does not give."""
    arguments = {"connect_timeout": ceil(bounds.connect_timeout), "application_name": "actionengine"}
    given = {name: value for name, value in arguments.items() if name not in url.query}
    return {**given, **socket_options(url, bounds.answer_timeout)}
