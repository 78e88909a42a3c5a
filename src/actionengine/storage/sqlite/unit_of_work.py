"""One transaction of one tenant on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from math import inf
from time import monotonic
from typing import Any
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy.engine import Connection

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Tenant
from actionengine.storage.clock import steady_now
from actionengine.storage.counters import Counter, Reservation, from_text, to_text
from actionengine.storage.errors import StorageError
from actionengine.storage.outbox import EVENTS, MAX_COUNTED_LAG, MAX_EXAMINED, QUEUES, DeadLetter, QueueStatus
from actionengine.storage.rows import CLAIMED, Claim, ClaimAnswer
from actionengine.storage.sql.bridge import await_
from actionengine.storage.sql.rows import KEY_GONE, json_bytes, json_text
from actionengine.storage.sql.unit_of_work import SQLUnitOfWork
from actionengine.storage.sqlite import statements as sql
from actionengine.storage.sqlite.action_log import SQLiteLog
from actionengine.storage.sqlite.database import ConnectionState, SQLiteDatabase
from actionengine.storage.sqlite.documents import SQLiteRecords
from actionengine.storage.sqlite.driver import stop, stop_async
from actionengine.storage.sqlite.rows import bind_time, dead_letters_of, event_values, log_values, partition_key
from actionengine.storage.tenants import tenant_deleted
from actionengine.storage.words import words_of


class SQLiteUnitOfWork(SQLUnitOfWork):
    """One transaction of one tenant."""

    database: SQLiteDatabase
    _records_type = SQLiteRecords
    _cursor: Any = None
    _state: ConnectionState
    _has_begun = False
    _has_writer_lock = False
    _is_query_only = False

    def __init__(self, database: SQLiteDatabase, tenant: Tenant, action_id: str, mode: Mode, read_only: bool) -> None:
        super().__init__(database, tenant, action_id, mode, read_only)
        self._tenant_id = str(tenant.id)
        self._claims: list[tuple[UUID, str, str]] = []
        self._has_returned = False

    def execute(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a statement at the level of the driver."""
        self._check_transaction()
        cursor = self._cursor
        cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows

    def _clock(self) -> datetime:
        return steady_now()

    def _check_transaction(self) -> None:
        # SQLite ends a transaction on some errors, such as a full disk. The next statement would commit by itself.
        pooled: Any = self._pooled
        if not pooled.driver_connection.in_transaction:
            raise StorageError("the transaction was ended, by the handler or by an error that it caught")

    def _take_connection(self, claim: Claim | None, wait: float) -> ClaimAnswer | None:
        database = self.database
        if not database.is_checked:
            database.check(self._mode)
        if not self._read_only and not self._acquire_writer_lock(claim, wait):
            return ClaimAnswer("in_progress")
        try:
            self._engine, self._pooled = database.pools.take(self._mode, self._is_lookup)
        except BaseException:
            self._released()
            raise
        self._state = database.prepare(self._pooled)
        connection: Any = self._pooled.dbapi_connection
        self._cursor = connection.cursor()
        self._cursor.execute("BEGIN" if self._read_only else "BEGIN IMMEDIATE")
        self._has_begun = True
        if not self._is_lookup and self.execute(sql.IS_DELETED, (self._tenant_id,)):
            raise tenant_deleted()
        if self._read_only:
            return None
        self._state.tenant = self._tenant_id if self._action_id else None
        return self._claim_in_transaction(claim, wait) if claim is not None else None

    def _acquire_writer_lock(self, claim: Claim | None, wait: float) -> bool:
        """Wait for the writer's lock. Return False if another claim of the same key has held it for too long."""
        database = self.database
        left = inf if self._deadline is None else max(0.0, self._deadline - monotonic())
        if claim is not None and (self.tenant.id, claim.action, claim.key) in database.held_keys:
            if not database.wait_for_writer_lock(self, self._mode, min(wait, left)):
                return False
        else:
            database.acquire_writer_lock(self, self._mode, min(database.busy_timeout, left))
        self._has_writer_lock = True
        return True

    def _claim_in_transaction(self, claim: Claim, wait: float) -> ClaimAnswer:
        scope = (self._tenant_id, claim.action, claim.key)
        if not self.execute(sql.CLAIM, (*scope, claim.fingerprint)):
            ((fingerprint, result, approval_id, expires_at, asked),) = self.execute(sql.READ_KEY, scope)
            replaced = approval_id is not None and approval_id == claim.replaces
            if not replaced and expires_at > bind_time(steady_now()):
                if fingerprint != claim.fingerprint:
                    return ClaimAnswer("mismatch")
                return ClaimAnswer("replay", json_bytes(result), approval_id, json_bytes(asked))
        key = (self.tenant.id, claim.action, claim.key)
        self.database.held_keys[key] = self
        self._claims.append(key)
        return CLAIMED

    def _reserve(self, reservations: Sequence[Reservation]) -> Sequence[Reservation]:
        # There is one writer at a time: no other transaction writes between the read and the write.
        full: list[Reservation] = []
        for each in reservations:
            now, counter = self._clock(), self._read_counter(each.budget, each.scope)
            if counter is None or counter.expires_at <= now:
                counter = Counter(0, now + each.window)
            if counter.used + each.amount > each.limit:
                full.append(each)
                continue
            used, expires_at = to_text(counter.used + each.amount), bind_time(counter.expires_at)
            self.query(sql.WRITE_COUNTER, (self._tenant_id, each.budget, each.scope, used, expires_at))
        return full

    def _read_counter(self, budget: str, scope: str) -> Counter | None:
        for used, expires_at in self.query(sql.READ_COUNTER, (self._tenant_id, budget, scope)):
            return Counter(from_text(used), datetime.fromisoformat(expires_at))
        return None

    def _log_reader(self) -> SQLiteLog:
        return SQLiteLog(self)

    def _last_position(self) -> int:
        ((position,),) = self.query(sql.LAST_POSITION, (self._tenant_id,))
        return int(position)

    def _outbox_status(self) -> list[QueueStatus]:
        found = []
        for queue in QUEUES:
            parameters = (self._tenant_id, queue, bind_time(self._clock()), MAX_COUNTED_LAG, MAX_EXAMINED)
            ((free, waiting, held, dead, skipped, oldest),) = self.query(sql.TENANT_OUTBOX, parameters)
            pending, since = min(free + held, MAX_COUNTED_LAG), oldest and datetime.fromisoformat(oldest)
            found.append(QueueStatus(queue, pending, waiting, held, dead, skipped, since))
        return found

    def _dead_letters(self, queue: str, later_than: str, limit: int, skipped: bool) -> list[DeadLetter]:
        parameters = (queue, self._tenant_id, later_than, limit, skipped)
        return dead_letters_of(self.query(sql.TENANT_DEAD_LETTERS, parameters), queue)

    def _redrive(self, queue: str, ids: Sequence[str]) -> list[str]:
        now = bind_time(self._clock())
        return self._change_letters(queue, ids, True, lambda found: (sql.REDRIVE, (now, queue, found)))

    def _skip(self, queue: str, ids: Sequence[str], reason: str) -> list[str]:
        return self._change_letters(queue, ids, False, lambda found: (sql.SKIP, (f"; skipped: {reason}", queue, found)))

    def _change_letters(
        self, queue: str, ids: Sequence[str], skipped: bool, change: Callable[[str], tuple[str, Sequence[Any]]]
    ) -> list[str]:
        """Change the tenant's dead letters with these ids, and release the events behind them. Return their ids.

        The triggers let no action change the outbox. They do not hold for these statements.
        """
        parameters = (queue, to_json(ids).decode(), self._tenant_id, skipped)
        changed = [id for (id,) in self.query(sql.TENANT_DEAD, parameters)]
        if changed:
            now, these = bind_time(self._clock()), to_json(changed).decode()
            tenant, self._state.tenant = self._state.tenant, None
            try:
                self.query(sql.RETURN, (now, queue, these, now))
                self.query(*change(these))
            finally:
                self._state.tenant = tenant
            self._has_returned = True
        return changed

    def _finish(self) -> None:
        self._check_transaction()
        for recording in self._recordings:
            for row in recording.log:
                self.execute(sql.WRITE_LOG, log_values(row))
                for subject in row.subjects:
                    self.execute(sql.WRITE_SUBJECT, (self._tenant_id, subject, row.id))
                for principal in row.on_behalf_of:
                    self.execute(sql.WRITE_PRINCIPAL, (self._tenant_id, principal, row.id))
                for word in words_of(row.reason) if row.reason else ():
                    self.execute(sql.WRITE_WORD, (self._tenant_id, word, row.id))
            for event in recording.events:
                self.execute(sql.WRITE_EVENT, event_values(event))
                lane = partition_key(event)
                self.execute(sql.WRITE_OUTBOX, (self._tenant_id, lane, EVENTS))
                for route in recording.routes:
                    if route.takes(event):
                        self.execute(sql.WRITE_OUTBOX, (self._tenant_id, lane, route.queue))
            for claim, result, approval_id, expires_at, asked in recording.results:
                scope = (self._tenant_id, claim.action, claim.key)
                values = (claim.fingerprint, json_text(result), approval_id, bind_time(expires_at), json_text(asked))
                if not self.execute(sql.WRITE_KEY, (*values, *scope)):
                    raise StorageError(KEY_GONE)
        if self._connection is None:
            self._cursor.execute("COMMIT")
        else:
            # The connection's own commit closes all cursors: one that the handler left open would block a later
            # transaction.
            self._dbapi_connection.commit()
            self._cursor = self._dbapi_connection.cursor()
        if self._has_returned or any(recording.events for recording in self._recordings):
            self.database.wake_relays()
        self._tidy()

    def _allow_writes(self, allow: bool) -> None:
        self._cursor.execute(f"PRAGMA query_only = {'OFF' if allow else 'ON'}")
        self._is_query_only = not allow

    def _undo(self) -> None:
        if not self._has_begun:
            raise StorageError("the transaction was interrupted while it began")
        pooled: Any = self._pooled
        if pooled.driver_connection.in_transaction:
            if self._connection is None:
                self._cursor.execute("ROLLBACK")
            else:
                self._dbapi_connection.rollback()
                self._cursor = self._dbapi_connection.cursor()
        self._tidy()

    @property
    def _dbapi_connection(self) -> Any:
        assert self._pooled is not None
        return self._pooled.dbapi_connection

    def _abort(self) -> None:
        pooled: Any = self._pooled
        if self._mode == "async":
            await_(stop_async(pooled.driver_connection))
        else:
            stop(pooled.driver_connection)

    def _tidy(self) -> None:
        """Restore the connection; close it if a handler's own SQL has left something in it."""
        assert self._pooled is not None
        if self._is_query_only:
            self._allow_writes(True)
        if self._connection is not None:
            self._cursor.execute(sql.LEFTOVERS)
            if self._cursor.fetchall() != [(0,)]:
                self._pooled.invalidate()
                return
        self.database.restore(self._pooled, self._state)

    def _connect_session(self) -> Connection:
        connection = super()._connect_session()
        self._check_transaction()
        if self._read_only and not self._is_query_only:
            self._allow_writes(False)
        return connection

    def _interrupt(self) -> None:
        pooled: Any = self._pooled
        interrupted = pooled.driver_connection.interrupt()
        if self._mode == "async":
            await_(interrupted)

    def _released(self) -> None:
        for key in self._claims:
            if self.database.held_keys.get(key) is self:
                del self.database.held_keys[key]
        if self._has_writer_lock:
            self._has_writer_lock = False
            self.database.writer_lock.release(self)
