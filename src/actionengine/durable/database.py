"""Connections to the durable engine's database, on which nothing waits without a bound.

A network that swallows what it carries looks like a slow server, and to TCP like a live one: so each wait for an answer
has a deadline. A connection that misses it is closed, and its pool drops those that were idle meanwhile.
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
"""Seconds after which the server ends a transaction that this process has given up, and frees its locks."""


class DurableUnavailable(Exception):
    """The durable engine's database is out of reach, or not set up."""


class Bounds(NamedTuple):
    """The seconds that this process waits for a connection to the durable engine's database (whole ones, at least two,
    for each address of its host), and for the answer to a statement."""

    connect_timeout: float = CONNECT_TIMEOUT
    answer_timeout: float = ANSWER_TIMEOUT

    def check(self) -> None:
        """Raise `ConfigurationError` for seconds that are not positive and finite."""
        check_seconds(**self._asdict())

    def for_lease(self, lease: float) -> Bounds:
        """Return bounds that leave a lease time to be renewed, on another connection, before it runs out."""
        longest = min(max(1.0, lease / 4), CONNECT_TIMEOUT)
        return Bounds(min(self.connect_timeout, longest), min(self.answer_timeout, longest))

    @property
    def longest(self) -> float:
        """The seconds after which a question is answered or refused: it finds a connection that is silent, and opens
        another one."""
        return 2 * self.answer_timeout + max(2, ceil(self.connect_timeout))


def check_seconds(**times: float) -> None:
    """Raise `ConfigurationError` for a time, given by its parameter's name, that is not positive and finite."""
    for name, seconds in times.items():
        if not 0 < seconds < inf:
            raise ConfigurationError(f"{name} is {seconds}: give a number of seconds above 0")


class Switch:
    """The state of a pool: whether its connections still serve, and whether DBOS waits for lost ones to come back."""

    def __init__(self) -> None:
        self.is_off = threading.Event()
        self.is_patient = threading.Event()
        """Set once the process has started: until then, a lost connection is an error."""

    def turn_off(self) -> None:
        """End the waits in this pool, and open no connection any more."""
        self.is_patient.clear()
        self.is_off.set()


class BoundedConnection(psycopg.Connection[Any]):
    """A connection each of whose waits has an end."""

    answer_timeout = ANSWER_TIMEOUT
    switch: Switch | None = None
    _pool = None
    """Tells the driver that a pool has the connection: one that a pool gave up closes without a warning."""

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Wait for the server's part of a statement. Raises `ResponseTimeout` when the server is silent for too
        long."""
        deadline = monotonic() + self.answer_timeout

        def check(is_heard: bool) -> None:
            nonlocal deadline
            if self.switch is not None and self.switch.is_off.is_set():
                raise ResponseTimeout("this process has ceased to wait for an answer, because it stops")
            if is_heard:
                deadline = monotonic() + self.answer_timeout
            elif monotonic() > deadline:
                raise ResponseTimeout(f"the database did not answer within {self.answer_timeout:g} s (answer_timeout)")

        try:
            return super().wait(checked(gen, check), *arguments, **options)
        except ResponseTimeout:
            # What comes later would be taken for the answer to something else.
            self.close()
            raise


def open_postgres(url: URL, bounds: Bounds, *, size: int, overflow: int = 0, switch: Switch | None = None) -> Engine:
    """Return a pool of bounded connections to a PostgreSQL database; the pool opens them when they are asked for.

    Where there is a `switch`, the pool serves no more once that is off.
    """
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
            # A pool rolls back what is given back to it.
            connection.commit()
        except BaseException:
            # The pool does not close a connection that it has not got yet.
            connection.close()
            raise

    if switch is not None:
        event.listen(engine, "handle_error", _notified_by(switch))
        event.listen(engine, "checkin", _closed_by(switch))
    return engine


def _notified_by(switch: Switch) -> Callable[[ExceptionContext], None]:
    """Return a listener that has a lost connection be an error for DBOS, too, which would wait for another one."""

    def notify(context: ExceptionContext) -> None:
        if switch.is_patient.is_set():
            return
        if context.is_pre_ping:
            # The pool opens another connection instead.
            return
        is_refused = context.connection is None and isinstance(context.original_exception, psycopg.Error)
        if context.is_disconnect or is_refused:
            raise DurableUnavailable(str(context.original_exception)) from context.original_exception

    return notify


def _closed_by(switch: Switch) -> Callable[[Any, Any], None]:
    """Return a listener that closes a connection which is given back late."""

    def close(connection: Any, record: Any) -> None:
        if switch.is_off.is_set():
            record.invalidate()

    return close


def _connect_arguments(url: URL, bounds: Bounds) -> dict[str, Any]:
    """Return the arguments of a connection which the URL does not give."""
    arguments = {"connect_timeout": ceil(bounds.connect_timeout), "application_name": "actionengine"}
    given = {name: value for name, value in arguments.items() if name not in url.query}
    return {**given, **socket_options(url, bounds.answer_timeout)}
