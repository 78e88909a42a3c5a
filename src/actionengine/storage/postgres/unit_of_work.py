"""One transaction of one tenant on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain
from math import inf
from secrets import token_hex
from time import monotonic
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy.engine import Connection

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Tenant
from actionengine.storage.counters import Counter, Reservation, from_text, to_text, waited_too_long
from actionengine.storage.errors import StorageError, StorageUnavailable
from actionengine.storage.outbox import QUEUES, DeadLetter, QueueStatus
from actionengine.storage.postgres import statements as sql
from actionengine.storage.postgres.action_log import PostgresLog
from actionengine.storage.postgres.database import PostgresDatabase
from actionengine.storage.postgres.documents import PostgresRecords
from actionengine.storage.postgres.driver import LibpqConnection, Row, Statement, milliseconds
from actionengine.storage.postgres.errors import aborted_transaction_error, key_too_long
from actionengine.storage.postgres.rows import array, dead_letters_of, event_values, log_values, word_values
from actionengine.storage.postgres.waiting import is_lost
from actionengine.storage.rows import CLAIMED, Claim, ClaimAnswer, EventRow, Route
from actionengine.storage.sql.rows import json_bytes, json_text
from actionengine.storage.sql.savepoints import Savepoint
from actionengine.storage.sql.unit_of_work import ANSWER_TIMEOUT, SQLUnitOfWork
from actionengine.storage.tenants import tenant_deleted

_ROLLBACK_TIMEOUT = 1.0
"""Seconds that a rollback may take beyond the deadline of its execution."""

_DOCUMENTS = "ae_documents"
_COUNTERS = "ae_budget_counters"
_MICROSECOND = timedelta(microseconds=1)


class PostgresUnitOfWork(SQLUnitOfWork):
    """One transaction of one tenant."""

    database: PostgresDatabase
    _records_type = PostgresRecords
    _driver: LibpqConnection

    def __init__(self, database: PostgresDatabase, tenant: Tenant, action_id: str, mode: Mode, read_only: bool) -> None:
        super().__init__(database, tenant, action_id, mode, read_only)
        self._later: list[Statement] = []
        self._began = 0
        self._ahead = 0.0
        self._latches: list[str] = []
        self._announced: Sequence[Reservation] = ()
        self._room: Sequence[bool] = ()
        self._returned: set[str] = set()

    def execute(self, statement: str, parameters: Sequence[Any]) -> list[Row]:
        """Run a statement at the level of the driver."""
        return self._send((statement, parameters))

    def _mark(self, statement: str) -> None:
        # The catalogue would show the savepoint's name if the statement were prepared.
        self._send(last=((statement, ()),))

    def _send(self, *statements: Statement, last: Sequence[Statement] = ()) -> list[Row]:
        """Send statements, after those that wait in `_later`."""
        later, self._later = self._later, []
        try:
            return self._driver.execute(*later, *statements, until=self._deadline, last=last)
        except psycopg.errors.UniqueViolation as error:
            if later and (error.diag.table_name or "").startswith(_DOCUMENTS):
                # A generated id is taken. A handler that catches this must not commit: the insert has been reported
                # as done.
                self._failed = self.database.translate_error(error)
            raise

    def queue_write(self, statement: str, parameters: Sequence[Any]) -> None:
        """Run a statement whose rows are not needed, in the round trip of the next statement."""
        if self._session is not None:
            # A handler's session makes and undoes its own savepoints without this unit of work.
            self.query(statement, parameters)
            return
        self.make_savepoints()
        self._later.append((statement, parameters))

    def _connect_session(self) -> Connection:
        connection = super()._connect_session()
        self._driver.bounds.begin_session(self._began, self._deadline)
        if self._later:
            self.execute("SELECT", ())
        return connection

    def _take_connection(self, claim: Claim | None, wait: float) -> ClaimAnswer | None:
        database = self.database
        if not database.is_checked:
            database.check(self._mode)
        for attempt in (1, 2):
            self._engine, self._pooled = database.pools.take(self._mode, self._is_lookup)
            self._driver = database.driver(self._pooled, self._mode)
            try:
                return self._begin(claim, wait)
            except BaseException as error:
                if is_lost(error):
                    self._release(broken=True)
                    if attempt == 1:
                        # The connection had died in the pool: nothing was done in it.
                        continue
                raise
        raise AssertionError

    def _begin(self, claim: Claim | None, wait: float) -> ClaimAnswer | None:
        database, tenant_id = self.database, str(self.tenant.id)
        parameters: list[Any] = [tenant_id, self._action_id]
        if database.signer is not None:
            mode = "r" if self._read_only else "w"
            signature = database.signer.context(mode, tenant_id, self._action_id)
            parameters += (tenant_id, self._action_id, mode, signature)
        parameters.extend(database.limits)
        opening, wanted = database.opening[self._read_only], self._announced
        begin = database.begin_reading if self._read_only and not self._is_lookup else database.begin
        if claim is None:
            statement, form, source = opening.plain, opening.plain_form, "context"
        else:
            parameters += (milliseconds(wait), tenant_id, claim.action, claim.key, claim.fingerprint)
            statement, form, source = opening.claiming, opening.claiming_form, "claimed"
        if wanted:
            statement = sql.reserving(form, len(wanted), source)
            parameters += (*self._reserved(wanted), tenant_id, self._wait())
        else:
            parameters.append(tenant_id)
        if claim is None:
            with _waiting_for_counters():
                ((self._began, is_deleted, *room),) = self._driver.execute(
                    (begin, ()), (statement, parameters), until=self._deadline
                )
            self._set_clock(self._began)
            self._check_deleted(is_deleted)
            self._room = room[1:-1]
            return None
        try:
            with _waiting_for_counters():
                ((self._began, is_deleted, is_claimed, _, *room, now),) = self._driver.execute(
                    (begin, ()), (statement, parameters), until=self._deadline
                )
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
            return ClaimAnswer("in_progress")
        except psycopg.errors.ProgramLimitExceeded:
            raise key_too_long() from None
        self._set_clock(now)
        self._check_deleted(is_deleted)
        if not is_claimed:
            return self._claim_in_transaction(claim, wait)
        self._room = room[1:-1]
        return CLAIMED

    def _set_clock(self, now: int) -> None:
        """Record by how much the database's clock, at this time in microseconds, is ahead of ours."""
        self._ahead = now / 1_000_000 - monotonic()

    def _clock(self) -> datetime:
        return datetime.fromtimestamp(self._ahead + monotonic(), UTC)

    def _check_deleted(self, is_deleted: bool) -> None:
        # A look-up still reads the rows that a deleted tenant has left, above all its events.
        if is_deleted and not self._is_lookup:
            raise tenant_deleted()

    def _claim_in_transaction(self, claim: Claim, wait: float) -> ClaimAnswer:
        claiming = (sql.CLAIM, (*claim, milliseconds(wait)))
        try:
            ((status, result, approval_id, asked),) = self._send(("SAVEPOINT ae_claim", ()), claiming)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
            self.execute("ROLLBACK TO SAVEPOINT ae_claim", ())
            return ClaimAnswer("in_progress")
        except psycopg.errors.ProgramLimitExceeded:
            raise key_too_long() from None
        if status == "claimed":
            return CLAIMED
        return ClaimAnswer(status, json_bytes(result), approval_id, json_bytes(asked))

    def announce(self, reservations: Sequence[Reservation]) -> None:
        """Send these reservations with the statement that opens the transaction, if that claims a key."""
        self._announced = reservations

    def _reserve(self, reservations: Sequence[Reservation]) -> Sequence[Reservation]:
        if self._pooled is None and not self._unmade:
            self._announced = reservations
            self._open(None, 0.0)
        room, self._room = self._room, ()
        if not room or self._announced != reservations:
            parameters = [*self._reserved(reservations), self._wait()]
            with _waiting_for_counters():
                ((_, *room, _),) = self.query(sql.reserve_statement(len(reservations)), parameters)
        return [each for each, has_room in zip(reservations, room, strict=True) if not has_room]

    def _reserved(self, reservations: Sequence[Reservation]) -> list[Any]:
        parameters: list[Any] = []
        for budget, scope, amount, limit, window in reservations:
            # In microseconds: days can have 23 or 25 hours.
            length = f"{window // _MICROSECOND} microseconds"
            parameters += (self.tenant.id, budget, scope, to_text(amount), length, to_text(limit))
        return parameters

    def _wait(self) -> str:
        """Return the limit of a wait for counters, in milliseconds: at the deadline, the row of the log is still
        written."""
        left = inf if self._deadline is None else self._deadline - ANSWER_TIMEOUT - monotonic()
        return milliseconds(min(self.database.counter_wait, left))

    def _read_counter(self, budget: str, scope: str) -> Counter | None:
        for used, expires_at in self.query(sql.READ_COUNTER, (self.tenant.id, budget, scope)):
            return Counter(from_text(used), expires_at.astimezone(UTC))
        return None

    def _log_reader(self) -> PostgresLog:
        return PostgresLog(self)

    def _last_position(self) -> int:
        ((position,),) = self.query(sql.LAST_POSITION, (self.tenant.id,))
        return int(position)

    def _outbox_status(self) -> list[QueueStatus]:
        statuses = [QueueStatus(*row) for row in self.query(sql.TENANT_OUTBOX, ())]
        return [each._replace(oldest=each.oldest and each.oldest.astimezone(UTC)) for each in statuses]

    def _dead_letters(self, queue: str, later_than: str, limit: int, skipped: bool) -> list[DeadLetter]:
        return dead_letters_of(self.query(sql.TENANT_DEAD_LETTERS, (later_than, limit, queue, skipped)), queue)

    def _redrive(self, queue: str, ids: Sequence[str]) -> list[str]:
        return self._changed(queue, sql.TENANT_REDRIVE, (array(ids), queue))

    def _skip(self, queue: str, ids: Sequence[str], reason: str) -> list[str]:
        return self._changed(queue, sql.TENANT_SKIP, (array(ids), reason, queue))

    def _changed(self, queue: str, statement: str, parameters: Sequence[Any]) -> list[str]:
        changed = [str(id) for (id,) in self.query(statement, parameters)]
        if changed:
            self._returned.add(queue)
        return changed

    def _recording(self) -> list[Statement]:
        executions = [row for recording in self._recordings for row in recording.log]
        has_principals = any(row.on_behalf_of for row in executions)
        log = list(map(log_values, executions))
        written = [row for recording in self._recordings for row in recording.events]
        events = list(map(event_values, written))
        routes = self._routes(written) if written else []
        latest = {
            claim[:2]: (self.tenant.id, *claim[:3], json_text(result), approval_id, expires_at, json_text(asked))
            for recording in self._recordings
            for claim, result, approval_id, expires_at, asked in recording.results
        }
        results = list(latest.values())
        statements: list[Statement] = []
        statements += [(sql.TENANT_RETURN, (queue,)) for queue in QUEUES if queue in self._returned]
        while log or events or results:
            rows = log[: sql.MAX_ROWS], events[: sql.MAX_ROWS], results[: sql.MAX_ROWS]
            words = word_values(executions[: sql.MAX_ROWS])
            queues = routes if rows[1] else []
            types = [None if route.types is None else array(sorted(route.types)) for route in queues]
            parameters = list(chain.from_iterable(rows[0]))
            if words:
                parameters += (self.tenant.id, *words)
            parameters += (*chain.from_iterable(rows[1]), *types)
            parameters += chain.from_iterable(rows[2])
            names = tuple(route.queue for route in queues)
            statement = sql.record_statement(
                len(rows[0]), len(rows[1]), len(rows[2]), names, has_principals and bool(rows[0]), bool(words)
            )
            statements.append((statement, parameters))
            del executions[: sql.MAX_ROWS], log[: sql.MAX_ROWS], events[: sql.MAX_ROWS], results[: sql.MAX_ROWS]
        return statements

    def _routes(self, events: Sequence[EventRow]) -> list[Route]:
        """Return the routes that take some of these events."""
        routes = dict.fromkeys(route for recording in self._recordings for route in recording.routes)
        return [route for route in routes if any(map(route.takes, events))]

    def _finish(self) -> None:
        status = self._driver.transaction_status
        if status == TransactionStatus.INERROR:
            raise aborted_transaction_error()
        if status == TransactionStatus.IDLE:
            raise StorageError("the handler has ended the transaction by itself; the pipeline does that")
        look = (sql.SETTLE, (sql.CHECK_TRANSACTION, (self._began,))) if self._connection is not None else ()
        try:
            self._send_last(*self._later, *self._recording(), ("COMMIT", ()), first=look)
        except psycopg.Error as error:
            if error.sqlstate == sql.IS_TAMPERED:
                self._close_connection()
            raise

    def _undo_to(self, savepoint: Savepoint) -> None:
        if savepoint not in self._unmade:
            # The statements that wait came after the savepoint.
            self._later.clear()
            if savepoint.read_only and self._latches:
                self._latches.pop()
        super()._undo_to(savepoint)

    def _release_savepoint(self, savepoint: Savepoint) -> None:
        if savepoint.read_only and self._latches and savepoint not in self._unmade:
            latch = self._latches.pop()
            if self._session is not None:
                self._flush()
                try:
                    self._driver.execute(until=self._deadline, first=((f"RELEASE SAVEPOINT {latch}", ()),))
                except psycopg.errors.InvalidSavepointSpecification:
                    raise StorageError(
                        "the SQL of a nested read-only action has rolled back to before that action"
                    ) from None
        super()._release_savepoint(savepoint)

    def _allow_writes(self, allow: bool) -> None:
        # The end of the savepoint restores the setting around it. SQL can roll back to that savepoint, and so may write
        # again; but then the latch is gone, a savepoint whose name SQL does not know and so cannot make again.
        if not allow:
            self._latches.append(f"ae_{token_hex(8)}")
            forbid = "SET LOCAL transaction_read_only = on", f"SAVEPOINT {self._latches[-1]}"
            self._driver.execute(until=self._deadline, first=[(statement, ()) for statement in forbid])

    def _undo(self) -> None:
        if self._driver.transaction_status == TransactionStatus.UNKNOWN:
            raise StorageUnavailable("the connection was given up")
        if self._driver.transaction_status != TransactionStatus.IDLE or self._connection is not None:
            if self._deadline is not None:
                # The time is usually up; a server that answers needs no more than this.
                self._deadline = max(self._deadline, monotonic() + _ROLLBACK_TIMEOUT)
            self._send_last(first=(("ROLLBACK", ()),))

    def _send_last(self, *statements: Statement, first: Sequence[Statement] = ()) -> None:
        """Run the last statements of the transaction. After a handler's own SQL, clean the connection, or close it."""
        if self._connection is None:
            self._driver.execute(*statements, until=self._deadline, first=first)
            return
        clean = sql.CLEAN if sql.SETTLE in first else sql.CLEAN_UNCHECKED
        ((by_sql, by_driver),) = self._driver.execute(
            *statements, *clean, until=self._deadline, first=first, last=(sql.LEFT_BEHIND,)
        )
        if by_sql or self._driver.prepared not in {by_driver, None}:
            self._close_connection()

    def _close_connection(self) -> None:
        assert self._pooled is not None
        self._pooled.invalidate()

    def _release(self, broken: bool = False) -> None:
        if self._connection is not None and self._pooled is not None:
            self._driver.bounds.end_session()
        super()._release(broken)

    def _interrupt(self) -> None:
        self._driver.cancel()

    def _abort(self) -> None:
        # The transaction ends with the connection, but a running statement would go on for some time.
        if self._driver.transaction_status == TransactionStatus.ACTIVE:
            self._driver.cancel()


@contextmanager
def _waiting_for_counters() -> Iterator[None]:
    try:
        yield
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
        if _COUNTERS in (error.diag.context or ""):
            raise waited_too_long() from error
        raise
