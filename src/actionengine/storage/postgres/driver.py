"""Statements below SQLAlchemy and psycopg's cursors: on libpq's own interface, several in one round trip.

A cursor of the driver takes more of the client's time than a statement takes of the server's. So the library sends its
own statements through `psycopg.pq`, prepared once in each connection, with one synchronisation for all statements that
are sent together ("Pipeline Mode", PostgreSQL's manual, chapter libpq).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from math import inf
from time import monotonic
from typing import Any, NamedTuple

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus
from psycopg.waiting import Ready, Wait

from actionengine.concurrency.run_sync import Mode
from actionengine.storage.postgres.generators import INTERVAL, ResponseTimeout
from actionengine.storage.postgres.inquiry import end_backend
from actionengine.storage.postgres.waiting import (
    CANCEL_TIMEOUT,
    BoundedWait,
    cancel,
    cancel_async,
    is_lost,
    shutdown_socket,
)
from actionengine.storage.sql.bridge import await_

Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]

MAX_PREPARED = 200
"""Statements that a connection prepares; there is no bound on the shapes of a recording."""
MAX_PREPARED_LENGTH = 8192
"""Bytes of a statement that is prepared, or cached in its encoded form. A longer one writes many rows, and each number
of rows, which callers of actions decide, is another statement."""

_IN_USE = "a cursor of the handler's own still reads from the connection: close it before the handler ends"


class InUse(ResponseTimeout):
    """The connection was not free in time."""


class Interrupted(psycopg.OperationalError):
    """The connection was left in the middle of a statement, and cannot be used again."""


class LibpqConnection:
    """One pooled connection, as long as it lives."""

    __slots__ = (
        "_answer_timeout",
        "_connection",
        "_deadline",
        "_mode",
        "_on_failure",
        "_pgconn",
        "_prepared",
        "_until",
        "bounds",
        "heard",
    )

    def __init__(
        self, connection: Any, mode: Mode, prepares: bool, answer_timeout: float, on_failure: Callable[[float], None]
    ) -> None:
        self._connection = connection
        self._answer_timeout = answer_timeout
        self._on_failure = on_failure
        self._deadline = self._until = 0.0
        self._mode = mode
        self.bounds = BoundedWait(connection, mode == "async", answer_timeout, on_failure)
        self.heard = monotonic()
        """The time at which the last answered statement was sent."""
        self._pgconn = connection.pgconn
        # A driver that prepares by itself also discards, by itself, everything that is prepared.
        self._prepared: set[bytes] | None = set() if prepares and connection.prepare_threshold is None else None

    def begin_opening(self) -> None:
        """Bound the waits while a host's own engine opens the connection. If that fails, the engine closes it."""
        self.bounds.is_opening = True

    def end_opening(self) -> None:
        """Leave the waits for the host's own statements to the host."""
        self.bounds.is_opening = self.bounds.is_bounded = False

    @property
    def transaction_status(self) -> int:
        """The state of its transaction: a `psycopg.pq.TransactionStatus`."""
        status: int = self._pgconn.transaction_status
        return status

    @property
    def prepared(self) -> int | None:
        """The number of statements that this object or the driver has prepared; None if neither prepares any."""
        if self._prepared is not None:
            return len(self._prepared)
        if self._connection.prepare_threshold is None:
            return None
        return len(self._connection._prepared._names)

    def execute(
        self,
        *statements: Statement,
        until: float | None = None,
        first: Sequence[Statement] = (),
        last: Sequence[Statement] = (),
    ) -> list[Row]:
        """Send statements in one round trip, and return the rows of the last one. If one fails, the later ones are not
        run.

        Parameters, marked `%s`, are texts, numbers, UUIDs, times with a zone, or None. The statements in `first` and
        `last` come before and after the others, and are not prepared. The answer must come before `until`
        (`time.monotonic`), and each piece of it within the storage's `answer_timeout` of the one before. Raise
        `psycopg.Error`.
        """
        asked = monotonic()
        self._deadline, self._until = asked + self._answer_timeout, inf if until is None else until
        try:
            if self._mode == "async":
                result = await_(self._execute_async(statements, first, last))
            else:
                self._take_lock()
                try:
                    result = self.bounds.run(self._round_trip(statements, first, last))
                finally:
                    self._connection.lock.release()
        except psycopg.Error as error:
            self._settle(error, asked)
            raise
        self.heard = asked
        if not result.ntuples:
            return []
        transformer = Transformer(self._connection)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)

    def _settle(self, error: psycopg.Error, asked: float) -> None:
        if isinstance(error, InUse | Interrupted):
            return
        if isinstance(error, ResponseTimeout):
            self.bounds.give_up(asked)
        elif is_lost(error):
            self._on_failure(asked)

    def wait_for_notification(self, until: float, is_woken: Callable[[], bool]) -> bool:
        """Return whether a notification came, or `is_woken`, before this time (`time.monotonic`)."""
        # The driver resumes the generator only after each interval: a short wait needs a short interval.
        interval = min(INTERVAL, max(0.001, until - monotonic()))
        if self._mode == "async":
            return bool(await_(self._wait_async(until, is_woken, interval)))
        with self._connection.lock:
            return bool(self.bounds.run(self._notification(until, is_woken), interval))

    async def _wait_async(self, until: float, is_woken: Callable[[], bool], interval: float) -> Any:
        async with self._connection.lock:
            return await self.bounds.run_async(self._notification(until, is_woken), interval)

    def _notification(self, until: float, is_woken: Callable[[], bool]) -> Generator[Wait, Ready, bool]:
        pgconn = self._pgconn
        came = False
        while True:
            pgconn.consume_input()
            while pgconn.notifies() is not None:
                came = True
            if came or is_woken():
                return True
            if monotonic() >= until:
                return False
            yield Wait.R

    def cancel(self) -> None:
        """Stop the statement that another thread or task waits for in this connection, and wait until it has stopped.

        A connection must not be closed while another thread uses it: its file descriptor may belong to another file by
        then. If the server does not answer, shut the socket down.
        """
        if self._mode == "async":
            await_(self._cancel_async())
            return
        cancel(self._connection)
        for last_try in (False, True):
            if self._connection.lock.acquire(timeout=CANCEL_TIMEOUT):
                self._connection.lock.release()
                return
            if not last_try:
                self._shutdown_socket()

    async def _cancel_async(self) -> None:
        await cancel_async(self._connection)
        for last_try in (False, True):
            try:
                async with asyncio.timeout(CANCEL_TIMEOUT), self._connection.lock:
                    return
            except TimeoutError:
                if not last_try:
                    self._shutdown_socket()

    def _shutdown_socket(self) -> None:
        end_backend(self._connection, self._answer_timeout)
        shutdown_socket(self._connection)

    async def _execute_async(
        self, statements: Sequence[Statement], first: Sequence[Statement], last: Sequence[Statement]
    ) -> Any:
        lock = self._connection.lock
        if lock.locked():
            try:
                async with asyncio.timeout(max(0.0, min(self._deadline, self._until) - monotonic())):
                    await lock.acquire()
            except TimeoutError:
                raise InUse(_IN_USE) from None
        else:
            await lock.acquire()
        try:
            return await self.bounds.run_async(self._round_trip(statements, first, last))
        finally:
            lock.release()

    def _take_lock(self) -> None:
        # A streaming cursor of the handler holds the lock until it is closed.
        if not self._connection.lock.acquire(timeout=max(0.0, min(self._deadline, self._until) - monotonic())):
            raise InUse(_IN_USE)

    def _round_trip(
        self, statements: Sequence[Statement], first: Sequence[Statement], last: Sequence[Statement]
    ) -> Generator[Wait, Ready, Any]:
        pgconn = self._pgconn
        if pgconn.pipeline_status != PipelineStatus.OFF:
            raise Interrupted("the connection was interrupted in the middle of a statement")
        encoded = [_wire(each) for each in statements]
        unprepared = [_wire(each) for each in first], [_wire(each) for each in last]
        pgconn.enter_pipeline_mode()
        preparing = self._send(encoded, *unprepared)
        pgconn.pipeline_sync()
        while pgconn.flush():
            ready = yield Wait.RW
            if ready & Ready.R:
                pgconn.consume_input()
            self._check(ready)
        answer = failed = None
        while True:
            while pgconn.is_busy():
                ready = yield Wait.R
                pgconn.consume_input()
                if pgconn.is_busy():
                    self._check(ready)
            result = pgconn.get_result()
            if result is None:
                if pgconn.status == ConnStatus.BAD:
                    raise self._lost(failed)
                continue
            if result.status == ExecStatus.PIPELINE_SYNC:
                break
            # A server that shuts down sends more results than statements.
            name = next(preparing, None)
            if result.status == ExecStatus.FATAL_ERROR and failed is None:
                failed = result
            if name is not None and result.status == ExecStatus.COMMAND_OK:
                assert self._prepared is not None
                self._prepared.add(name)
            answer = result
        pgconn.exit_pipeline_mode()
        if failed is not None:
            raise error_from_result(failed)
        return answer

    def _check(self, ready: Ready) -> None:
        # An answer counts however late it is read: this thread, or its event loop, may have been blocked.
        now = monotonic()
        if now > self._until or (not ready and now > self._deadline):
            raise ResponseTimeout("the server did not answer in time")
        if ready:
            self._deadline = now + self._answer_timeout

    def _lost(self, failed: Any) -> psycopg.Error:
        if failed is not None:
            return error_from_result(failed)
        return psycopg.OperationalError("the connection is lost")

    def _send(
        self, statements: Sequence[Encoded], first: Sequence[Encoded], last: Sequence[Encoded]
    ) -> Iterator[bytes | None]:
        """Send statements. Return, for each result to come, the name of the statement that it prepares, if any."""
        pgconn, prepared = self._pgconn, self._prepared
        results: list[bytes | None] = []
        for (_, statement), parameters in first:
            pgconn.send_query_params(statement, parameters)
            results.append(None)
        for (name, statement), parameters in statements:
            is_ready = prepared is not None and (name in prepared or name in results)
            if not is_ready and (
                prepared is None or len(prepared) + len(results) > MAX_PREPARED or len(statement) > MAX_PREPARED_LENGTH
            ):
                pgconn.send_query_params(statement, parameters)
            else:
                if not is_ready:
                    pgconn.send_prepare(name, statement)
                    results.append(name)
                pgconn.send_query_prepared(name, parameters)
            results.append(None)
        for (_, statement), parameters in last:
            pgconn.send_query_params(statement, parameters)
            results.append(None)
        return iter(results)


class EncodedStatement(NamedTuple):
    """A statement as it is sent, and its name if it is prepared."""

    name: bytes
    statement: bytes


Encoded = tuple[EncodedStatement, list[bytes | None]]


def milliseconds(seconds: float) -> str:
    """Return a time as PostgreSQL's settings take it; never 0, which would mean no limit."""
    return str(max(1, int(seconds * 1000)))


def _wired(statement: str) -> EncodedStatement:
    return _kept(statement) if len(statement) <= MAX_PREPARED_LENGTH else _encoded_statement(statement)


def _encoded_statement(statement: str) -> EncodedStatement:
    first, *others = statement.split("%s")
    encoded = (first + "".join(f"${number}{part}" for number, part in enumerate(others, 1))).encode()
    return EncodedStatement(b"ae_" + sha256(encoded).hexdigest()[:16].encode(), encoded)


_kept = lru_cache(maxsize=1024)(_encoded_statement)


def _wire(statement: Statement) -> Encoded:
    text, values = statement
    return _wired(text), [_encoded(value) for value in values]


def _encoded(value: Any) -> bytes | None:
    if value is None:
        return None
    kind = type(value)
    if kind is str:
        encoded: bytes = value.encode()
        if b"\0" in encoded:
            raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        return encoded
    if kind is datetime:
        return value.isoformat().encode()  # type: ignore[no-any-return]
    return str(value).encode()
