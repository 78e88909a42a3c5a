"""Questions about a silent connection, sent to the server through another one, in a thread of their own.

A long statement and a network that loses packets look the same to the client; the server knows which of the two it is.
The server does not know that its client has given up, and the transaction would keep its locks: so it is ended too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from time import monotonic
from typing import Any

import psycopg
from psycopg import waiting

from actionengine.storage.postgres.generators import INTERVAL, TimeLimit, checked

logger = logging.getLogger("actionengine")

_FIND = """
SELECT pid, state = 'active' AND coalesce(wait_event_type, '') <> 'Client'
FROM pg_stat_activity
WHERE usename = current_user
    AND backend_type = 'client backend'
    AND (date_part('epoch', xact_start) * 1000000)::int8 = %s
"""
"""Finds the transaction that began at this time, also behind a pooler, and whether the server works on it. A server
that waits for its client does not."""

_END = "SELECT pg_terminate_backend(%s) FROM pg_stat_activity WHERE usename = current_user AND pid = %s"


class Inquiry:
    """The question whether the server works on a transaction's statement. If it does not, the transaction is ended."""

    def __init__(self, connection: Any, transaction: int, seconds: float) -> None:
        self._until = monotonic() + seconds
        self._ended = False
        self.is_at_work = False
        """True once the server has said that it works on the statement."""
        _in_thread(self._ask, _parameters(connection), transaction, seconds)

    @property
    def is_over(self) -> bool:
        """Return whether the server does not work on it, or has not said so in time."""
        return not self.is_at_work and (self._ended or monotonic() > self._until)

    def _ask(self, parameters: dict[str, Any], transaction: int, seconds: float) -> None:
        try:
            with _connected(parameters, seconds) as connection:
                found = _rows(connection, _FIND, (transaction,))
                self.is_at_work = any(is_at_work for _, is_at_work in found)
                for pid, _ in found:
                    if not self.is_at_work:
                        _rows(connection, _END, (pid, pid))
        finally:
            self._ended = True


def end_backend(connection: Any, seconds: float) -> None:
    """End the server's side of a connection that was given up, if the server can be reached. Do not wait for it."""
    with suppress(psycopg.Error):
        _in_thread(_end, _parameters(connection), connection.info.backend_pid, seconds)


def _end(parameters: dict[str, Any], pid: int, seconds: float) -> None:
    with _connected(parameters, seconds) as connection:
        # A pooler has process ids of its own.
        if _rows(connection, "SELECT pg_backend_pid()") == [(connection.pgconn.backend_pid,)]:
            _rows(connection, _END, (pid, pid))


def _in_thread(function: Callable[..., None], parameters: dict[str, Any], *arguments: Any) -> None:
    def run() -> None:
        try:
            function(parameters, *arguments)
        except psycopg.Error as error:
            logger.debug("the server could not be asked about a silent connection: %s", error)

    threading.Thread(target=run, name="actionengine-inquiry", daemon=True).start()


def _parameters(connection: Any) -> dict[str, Any]:
    return {**connection.info.get_parameters(), "password": connection.info.password}


@contextmanager
def _connected(parameters: dict[str, Any], seconds: float) -> Iterator[psycopg.Connection[Any]]:
    connection = psycopg.connect(**{"connect_timeout": 5, **parameters}, autocommit=True, prepare_threshold=None)

    def wait(waiter: Any, interval: float = INTERVAL) -> Any:
        return waiting.wait(checked(waiter, TimeLimit(seconds).check), connection.pgconn.socket, interval=interval)

    with closing(connection):
        setattr(connection, "wait", wait)  # noqa: B010 - a method of this one connection
        connection.execute("SET search_path = pg_catalog")
        yield connection


def _rows(connection: psycopg.Connection[Any], statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    return connection.execute(statement.encode(), values or None).fetchall()
