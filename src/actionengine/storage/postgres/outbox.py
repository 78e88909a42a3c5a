"""A queue of the outbox on PostgreSQL: partitions of lanes, locked by the transaction that stays open during delivery.

A relay that dies loses its connection, and with it its locks. The server ends a relay that is silent for as long as its
lease. A batch takes two round trips.

A sleeping relay holds a lock in the connection that listens. Writers try the lock, and notify only if it is held: under
load, when no relay sleeps, commits do not queue for the notification queue. A relay gets the lock only while no writer
holds it that has not notified.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC
from math import inf
from time import monotonic
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import to_json
from sqlalchemy import Engine
from sqlalchemy.pool import PoolProxiedConnection

from actionengine.concurrency.one_shot_event import OneShotEvent
from actionengine.concurrency.run_sync import Mode
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.outbox import DeadLetter, FailedDelivery, OutboxStatus, PendingEvent, RelayHeartbeat
from actionengine.storage.pages import page_size
from actionengine.storage.postgres.database import PostgresDatabase
from actionengine.storage.postgres.driver import LibpqConnection, Row, Statement, milliseconds
from actionengine.storage.postgres.rows import array, dead_letters_of, taken_event, tenant_text
from actionengine.storage.postgres.statements import CHANNELS, SLEEP_LOCKS
from actionengine.storage.postgres.waiting import is_lost
from actionengine.storage.records import event_id

T = TypeVar("T")

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
LEASE = "SELECT pg_catalog.set_config('idle_in_transaction_session_timeout', %s, true)"
TAKE = """
SELECT attempts, position, id, tenant_id, type, subject, payload, action, action_id, actor_type, actor_id, occurred_at,
    version, on_behalf_of
FROM public.ae_outbox_take(%s, %s, %s, %s, %s)
"""
SETTLE = "SELECT public.ae_outbox_settle(%s, %s, %s, %s, %s, %s)"
NEXT = "SELECT public.ae_outbox_next(%s, %s, %s)"
WRITE_HEARTBEAT = "SELECT public.ae_relay_heartbeat(%s, %s)"
STATUS = """
SELECT pending, waiting, dead, skipped, held, oldest, relays::pg_catalog.text
FROM public.ae_relay_status(%s, %s, %s)
"""
DEAD_LETTERS = """
SELECT attempts, reason, dead_at, skipped, id, tenant_id, type, subject, payload, action, action_id, actor_type,
    actor_id, occurred_at, version, on_behalf_of
FROM public.ae_dead_letters(%s, %s, %s, %s)
"""
REDRIVE = "SELECT public.ae_redrive(%s, %s, %s)"
SKIP = "SELECT public.ae_skip(%s, %s, %s, %s)"

# The lock of the relay that sleeps at a queue, held by its connection. If only a shared lock can be had, writers hold
# it: they have seen no relay asleep, and are about to commit.
SLEEP = "SELECT pg_catalog.pg_try_advisory_lock(1634037602, %s)"
WAKE = "SELECT pg_catalog.pg_advisory_unlock(1634037602, %s)"
SHARED = """
SELECT CASE
    WHEN pg_catalog.pg_try_advisory_lock_shared(1634037602, %s)
        THEN pg_catalog.pg_advisory_unlock_shared(1634037602, %s)
    ELSE false
END
"""

_MAX_PARTITIONS = 16
_PARTITIONS_UNDER_LOAD = 4
"""Partitions, of 64, that a relay takes at once."""

_FULL_SCAN_INTERVAL = 60.0
"""Seconds after which a look begins with the first position again, so that no event is missed for ever."""

_BUSY_RELAY_INTERVAL = 0.02
"""Seconds between two looks at events that another relay is delivering."""

_IDLE_RELAY_INTERVAL = 0.25
"""Seconds between two looks while another relay holds the lock: that relay is notified."""

_WRITERS_INTERVAL = 0.005
"""Seconds between two looks while writers hold the lock, which notify no relay."""


class Known:
    """The places where the next look at each queue begins, as the database has returned them (see `ae_outbox_known` and
    `ae_purge_keys` in the schema). All relays of a storage share them."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}
        self._until: dict[str, float] = {}

    def of(self, queue: str) -> str | None:
        """Return the marks of a queue; None if the next look is a full one."""
        if monotonic() < self._until.get(queue, 0.0):
            return self._marks[queue]
        return None

    def record(self, queue: str, marks: str, is_full: bool) -> None:
        """Keep the marks that a look has returned."""
        self._marks[queue] = marks
        if is_full:
            self._until[queue] = monotonic() + _FULL_SCAN_INTERVAL


class PostgresOutbox:
    """A queue of the outbox, for one relay or operator."""

    def __init__(self, database: PostgresDatabase, known: Known, mode: Mode, queue: str) -> None:
        self._database = database
        self._known = known
        self._mode = mode
        self._queue = queue
        self._sleep_lock = SLEEP_LOCKS[queue]
        self._woken = False
        self._fruitless = 0
        self._behind = "[]"
        self._partitions = _MAX_PARTITIONS
        self._held: tuple[Engine, PoolProxiedConnection] | None = None
        self._is_taking = False
        self._is_listening = False
        self._polling: OneShotEvent | None = None

    async def take(self, limit: int, lease: float) -> Sequence[PendingEvent]:
        """Take the events that are due."""
        return await self._run(self._take, limit, lease)

    async def extend(self) -> None:
        """Renew the lease."""
        await self._run(self._extend)

    async def settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
        """Delete the delivered events, record the failures, and release the rest."""
        await self._run(self._settle, delivered, failed)

    async def release(self) -> None:
        """Release the events that were taken."""
        with suppress(Exception):
            await self._run(self._release)

    async def wait(self, seconds: float) -> None:
        """Wait until events may be due."""
        try:
            await (self._run(self._wait, seconds) if self._database.listens else self._poll(seconds))
        finally:
            self._woken = False

    def wake(self) -> None:
        """End the wait now."""
        self._woken = True
        polling = self._polling
        if polling is not None:
            polling.set()

    async def heartbeat(self, beat: RelayHeartbeat) -> None:
        """Record that this relay is at work."""
        await self._ask("relay", WRITE_HEARTBEAT, to_json(beat._replace(queue=self._queue)._asdict()).decode())

    async def status(self) -> OutboxStatus:
        """Return how much there is to deliver, and which relays are at work."""
        parameters = (self._queue, self._database.signature("relay"), self._known.of(self._queue))
        ((pending, waiting, dead, skipped, held, oldest, relays),) = await self._asked(STATUS, parameters)
        beats = _HEARTBEATS.validate_json(relays)
        return OutboxStatus(pending, waiting, dead, skipped, oldest and oldest.astimezone(UTC), beats, held)

    async def dead_letters(self, *, after: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """Return dead letters and skipped events, by event id."""
        later_than = event_id(after) if after is not None else None
        rows = await self._ask("relay", DEAD_LETTERS, later_than, page_size(limit), self._queue)
        return dead_letters_of(rows, self._queue)

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        """Put dead letters back into the queue. Return how many."""
        wanted = None if ids is None else array(map(event_id, ids))
        ((changed,),) = await self._ask("redrive", REDRIVE, wanted, self._queue)
        return int(changed)

    async def skip(self, ids: Sequence[str], reason: str) -> int:
        """Mark dead letters as skipped, so that they hold back nothing. Return how many."""
        ((changed,),) = await self._ask("skip", SKIP, array(map(event_id, ids)), reason, self._queue)
        return int(changed)

    async def close(self) -> None:
        """Release everything that this object holds."""
        await self.release()
        with suppress(Exception):
            await self._run(self._release_quietly)

    async def _poll(self, seconds: float) -> None:
        """Wait without a connection that listens, for which no notification comes."""
        ((due_in,),) = await self._ask("relay", NEXT, self._queue, self._known.of(self._queue))
        seconds = min(seconds, self._pause_until(due_in), _IDLE_RELAY_INTERVAL)
        signal = self._polling = OneShotEvent(self._mode)
        if not self._woken:
            await signal.wait(seconds)
        self._polling = None

    # In the mode of the storage

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._database.run(self._mode, function, *arguments)

    async def _ask(self, call: str, statement: str, *parameters: Any) -> list[Row]:
        return await self._asked(statement, (*parameters, self._database.signature(call)))

    async def _asked(self, statement: str, parameters: Sequence[Any]) -> list[Row]:
        asked = (statement, parameters)
        if self._held is not None and not self._is_taking:
            # A second connection may not be free in a small pool.
            return await self._run(self._execute, asked)
        return await self._run(self._database.query, self._mode, *asked)

    def _take(self, limit: int, lease: float) -> list[PendingEvent]:
        known = self._known.of(self._queue)
        statements: list[Statement] = [
            (BEGIN, ()),
            (LEASE, (milliseconds(lease),)),
            (TAKE, (limit, self._partitions, self._queue, known, self._database.signature("relay"))),
        ]
        if self._is_taking:
            self._release()
        try:
            rows = self._execute(*statements)
        except Exception as error:
            if not is_lost(error):
                raise
            # The connection had died before anything was done in it.
            rows = self._execute(*statements)
        self._is_taking = True
        (_, _, marks, _, _, _, self._behind, *_), *rows = rows
        self._known.record(self._queue, marks, known is None)
        if rows:
            self._fruitless = 0
        else:
            self._end(("COMMIT", ()))
        # Under load a few partitions fill the batch, and the others are for other relays.
        self._partitions = _MAX_PARTITIONS if len(rows) < limit else _PARTITIONS_UNDER_LOAD
        return [taken_event(*row) for row in rows]

    def _extend(self) -> None:
        self._check_taken()
        self._execute(("SELECT", ()))

    def _settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
        self._check_taken()
        failures = [
            {
                "tenant_id": failure.pending.event.tenant_id,
                "position": failure.pending.position,
                "reason": failure.reason.replace("\0", ""),
                "retry_in": failure.retry_in,
                "counts": failure.counts,
            }
            for failure in failed
        ]
        parameters = (
            f"{{{','.join([tenant_text(pending.event.tenant_id) for pending in delivered])}}}",
            f"{{{','.join([str(pending.position) for pending in delivered])}}}",
            to_json(failures).decode(),
            self._behind,
            self._queue,
            self._database.signature("relay"),
        )
        self._end((SETTLE, parameters), ("COMMIT", ()))

    def _release(self) -> None:
        if self._is_taking:
            self._end(("ROLLBACK", ()))

    def _check_taken(self) -> None:
        if not self._is_taking:
            raise StorageUnavailable("this relay has lost what it had taken: another one may deliver it")

    def _end(self, *statements: Statement) -> None:
        self._execute(*statements)
        self._is_taking = False

    def _execute(self, *statements: Statement) -> list[Row]:
        """Run statements in the connection that this object holds. If one fails, close the connection, and give up the
        events that were taken."""
        driver = self._driver()
        try:
            return driver.execute(*statements)
        except BaseException:
            self._drop()
            raise

    def _driver(self) -> LibpqConnection:
        if self._held is None:
            if not self._database.is_checked:
                self._database.check(self._mode)
            self._held = self._database.pools.take(self._mode)
        return self._database.driver(self._held[1], self._mode)

    def _release_quietly(self) -> None:
        if self._is_listening:
            self._drop()
        elif self._held is not None:
            held, self._held = self._held, None
            self._database.pools.release(*held)

    def _drop(self) -> None:
        held, self._held = self._held, None
        self._is_taking = self._is_listening = False
        if held is not None:
            with suppress(Exception):
                held[1].invalidate()
                held[1].close()

    # Sleeping

    def _wait(self, seconds: float) -> None:
        try:
            if not self._is_listening:
                self._execute((f"LISTEN {CHANNELS[self._queue]}", ()))
                self._is_listening = True
            has_lock = self._is(SLEEP, self._sleep_lock)
            ((due_in,),) = self._execute(
                (NEXT, (self._queue, self._known.of(self._queue), self._database.signature("relay")))
            )
            pause = min(seconds, self._pause_until(due_in))
            if not has_lock:
                pause = min(pause, _WRITERS_INTERVAL if self._is_shared() else _IDLE_RELAY_INTERVAL)
            self._driver().wait_for_notification(monotonic() + pause, lambda: self._woken)
            if has_lock:
                self._execute((WAKE, (self._sleep_lock,)))
        except BaseException:
            self._drop()
            raise

    def _is(self, statement: str, *parameters: int) -> bool:
        ((answer,),) = self._execute((statement, parameters))
        return bool(answer)

    def _is_shared(self) -> bool:
        return self._is(SHARED, self._sleep_lock, self._sleep_lock)

    def _pause_until(self, seconds: float | None) -> float:
        if seconds is None:
            return inf
        if seconds > 0:
            return float(seconds)
        # It is due now: it came meanwhile, or another relay delivers it.
        self._fruitless += 1
        return 0.0 if self._fruitless == 1 else _BUSY_RELAY_INTERVAL


_HEARTBEATS = TypeAdapter(list[RelayHeartbeat])
