"""Bounded waits for the server, in one connection, for statements of any code.

The driver waits in one method of a connection, `wait`: for the statements of a handler's session, for those that
SQLAlchemy sends by itself, and for savepoints. This module replaces that method. A server that is silent for
`answer_timeout` seconds counts as out of reach. During a handler's statement, which may take long, the server is first
asked through another connection whether it works on it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from inspect import signature
from time import monotonic
from typing import Any

import psycopg
from psycopg import capabilities, waiting
from psycopg.pq import TransactionStatus

from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.postgres.generators import INTERVAL, ResponseTimeout, TimeLimit, Waiter, checked
from actionengine.storage.postgres.inquiry import Inquiry, end_backend
from actionengine.storage.sql.pools import IS_TAKING

CANCEL_TIMEOUT = 1.0
"""Seconds for each step of cancelling a statement."""

_ENDS_WAITS = "timeout" in signature(psycopg.Connection.wait).parameters
"""True if the driver can end a wait by itself, which costs less than a check here."""

_CANCELLED = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)


class BoundedWait:
    """The waits of one connection, as long as it lives.

    Once the connection is known to be silent or lost, `on_failure` gets the time (`time.monotonic`) of its last sign of
    life. A connection of a host's own engine is bounded while it opens, and while a unit of work takes and uses it.
    """

    __slots__ = ("_connection", "_inquired", "_on_failure", "_pgconn", "_timeout", "_until", "is_bounded", "is_opening")

    def __init__(
        self, connection: Any, is_async: bool, answer_timeout: float, on_failure: Callable[[float], None]
    ) -> None:
        self._connection = connection
        self._on_failure = on_failure
        self._pgconn = connection.pgconn
        self._timeout = answer_timeout
        self._inquired: int | None = None
        self._until: float | None = None
        self.is_bounded = True
        self.is_opening = False
        connection.wait = self._wait_async if is_async else self._wait

    def begin_session(self, began: int, until: float | None) -> None:
        """Let a handler's statements take longer, in the transaction that began at this time (in microseconds), until
        its deadline (`time.monotonic`)."""
        self._inquired, self._until = began, until

    def end_session(self) -> None:
        """End the use by a handler's session."""
        self._inquired = self._until = None

    # For the library's own statements, which check their own bounds

    def run(self, waiter: Waiter, interval: float = INTERVAL) -> Any:
        """Run one of the driver's generators, and return its value."""
        try:
            return waiting.wait(waiter, self._pgconn.socket, interval=interval)
        except _CANCELLED:
            self._interrupt(waiter)
            raise

    async def run_async(self, waiter: Waiter, interval: float = INTERVAL) -> Any:
        """Do the same under an event loop."""
        try:
            return await waiting.wait_async(waiter, self._pgconn.socket, interval=interval)
        except _CANCELLED:
            await self._interrupt_async(waiter)
            raise

    def give_up(self, since: float) -> None:
        """Give up the connection, which was silent since this time: close it, and end the server's side of it."""
        end_backend(self._connection, self._timeout)
        self._on_failure(since)
        if self.is_opening:
            shutdown_socket(self._connection)
        else:
            close(self._connection)

    # For all other statements. The driver's own wait handles the first moments, which costs less than a check here.

    def _wait(self, waiter: Waiter, interval: float = INTERVAL, timeout: float | None = None) -> Any:
        try:
            if timeout is None and _ENDS_WAITS:
                return waiting.wait(waiter, self._pgconn.socket, interval=INTERVAL, timeout=INTERVAL)
        except psycopg.errors._WaitTimeout:
            return self._wait_longer(waiter, interval)
        except psycopg.OperationalError as error:
            self._settle(error, monotonic())
            raise
        except _CANCELLED:
            self._interrupt(waiter)
            raise
        return self._wait_longer(waiter, interval, timeout, is_begun=False)

    async def _wait_async(
        self,
        waiter: Waiter,
        interval: float = INTERVAL,
        timeout: float | None = None,  # noqa: ASYNC109 - the driver's own signature
    ) -> Any:
        try:
            if timeout is None and _ENDS_WAITS:
                return await waiting.wait_async(waiter, self._pgconn.socket, interval=INTERVAL, timeout=INTERVAL)
        except psycopg.errors._WaitTimeout:
            return await self._wait_longer_async(waiter, interval)
        except psycopg.OperationalError as error:
            self._settle(error, monotonic())
            raise
        except _CANCELLED:
            await self._interrupt_async(waiter)
            raise
        return await self._wait_longer_async(waiter, interval, timeout, is_begun=False)

    def _wait_longer(self, waiter: Waiter, interval: float, timeout: float | None = None, is_begun: bool = True) -> Any:
        begun = monotonic()
        try:
            return self.run(self._bounded(waiter, timeout, is_begun), interval)
        except psycopg.OperationalError as error:
            self._settle(error, begun)
            raise

    async def _wait_longer_async(
        self,
        waiter: Waiter,
        interval: float,
        timeout: float | None = None,  # noqa: ASYNC109 - the driver's own signature
        is_begun: bool = True,
    ) -> Any:
        begun = monotonic()
        try:
            return await self.run_async(self._bounded(waiter, timeout, is_begun), interval)
        except psycopg.OperationalError as error:
            self._settle(error, begun)
            raise

    def _settle(self, error: psycopg.OperationalError, begun: float) -> None:
        if isinstance(error, ResponseTimeout):
            self.give_up(max(begun, monotonic() - self._timeout))
        elif is_lost(error):
            self._on_failure(monotonic())

    def _bounded(self, waiter: Waiter, timeout: float | None, is_begun: bool) -> Waiter:
        if timeout is None and not self.is_bounded and self._inquired is None and not IS_TAKING.get():
            return checked(waiter, _pass, is_begun)
        if timeout is not None:
            # This is a wait for notifications: none need come.
            return checked(waiter, TimeLimit(timeout, psycopg.errors._WaitTimeout).check)
        return checked(waiter, _Silence(self._connection, self._timeout, self._inquired, self._until).check, is_begun)

    # Interrupting

    def _interrupt(self, waiter: Waiter) -> None:
        if self._pgconn.transaction_status != TransactionStatus.ACTIVE:
            return
        begun = monotonic()
        try:
            cancel(self._connection)
            waiting.wait(_ending(waiter), self._pgconn.socket, interval=INTERVAL)
        except psycopg.errors.QueryCanceled:
            pass
        except BaseException:
            self._leave(begun)

    async def _interrupt_async(self, waiter: Waiter) -> None:
        if self._pgconn.transaction_status != TransactionStatus.ACTIVE:
            return
        begun = monotonic()
        try:
            await cancel_async(self._connection)
            await waiting.wait_async(_ending(waiter), self._pgconn.socket, interval=INTERVAL)
        except psycopg.errors.QueryCanceled:
            pass
        except BaseException:
            self._leave(begun)

    def _leave(self, since: float) -> None:
        # If the network drops the connection silently, the server does not learn that its client has given up.
        end_backend(self._connection, self._timeout)
        self._on_failure(since)
        self._pgconn.finish()


def _pass(is_heard: bool) -> None:
    """Let the wait go on."""


def _ending(waiter: Waiter) -> Waiter:
    return checked(waiter, TimeLimit(CANCEL_TIMEOUT).check, is_resumed=True)


class _Silence:
    """The server's silence, and its limit."""

    def __init__(self, connection: Any, seconds: float, transaction: int | None, until: float | None) -> None:
        self._connection = connection
        self._seconds = seconds
        self._transaction = transaction
        self._until = until
        self._heard = monotonic()
        self._inquiry: Inquiry | None = None

    def check(self, is_heard: bool) -> None:
        now = monotonic()
        if is_heard:
            self._heard, self._inquiry = now, None
        if self._until is not None and now > self._until:
            raise ResponseTimeout("the server did not answer within the time of the execution")
        if now - self._heard <= self._seconds:
            return
        if self._transaction is not None and self._inquiry is None:
            self._inquiry = Inquiry(self._connection, self._transaction, self._seconds)
        if self._inquiry is None or self._inquiry.is_over:
            raise ResponseTimeout("the server did not answer in time")
        if self._inquiry.is_at_work:
            self._heard, self._inquiry = now, None


def is_lost(error: BaseException) -> bool:
    """Return whether an error means that its connection is lost."""
    if not isinstance(error, _LOST) or isinstance(error, ResponseTimeout | psycopg.errors.QueryCanceled):
        return False
    return error.sqlstate is None or error.sqlstate[:2] in {"57", "08"} or error.sqlstate in {NOT_PREPARED, SILENT}


NOT_PREPARED = "26000"
"""A prepared statement is gone: other code has cleared the connection."""

SILENT = "25P03"
"""A transaction was idle for too long: the server has ended the connection."""

_LOST = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.InvalidSqlStatementName,
    psycopg.errors.IdleInTransactionSessionTimeout,
)


def cancel(connection: Any) -> None:
    """Ask the server to stop a connection's statement, within a bound. Ignore errors."""
    if capabilities.has_cancel_safe():
        with suppress(psycopg.Error):
            connection.cancel_safe(timeout=CANCEL_TIMEOUT)
        return
    # An older libpq waits for the server without a bound.
    thread = threading.Thread(target=_cancel_quietly, args=(connection,), daemon=True)
    thread.start()
    thread.join(CANCEL_TIMEOUT)


async def cancel_async(connection: Any) -> None:
    """Do the same under an event loop."""
    if capabilities.has_cancel_safe():
        with suppress(psycopg.Error):
            await connection.cancel_safe(timeout=CANCEL_TIMEOUT)
        return
    await asyncio.to_thread(cancel, connection)


def _cancel_quietly(connection: Any) -> None:
    with suppress(psycopg.Error):
        connection.cancel()


def close(connection: Any) -> None:
    """Close a connection in whose wait the caller runs. Nothing need be awaited for that."""
    closing = connection.close()
    if closing is not None:
        run_sync(closing)


def shutdown_socket(connection: Any) -> None:
    """Shut down the socket of a connection in which another thread or task waits. That one notices, and closes it."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as twin:
        twin.shutdown(socket.SHUT_RDWR)
