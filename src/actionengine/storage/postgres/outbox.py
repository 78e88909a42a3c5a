"""A queue of the outbox on PostgreSQL: partitions of lanes, locked by the transaction that stays open while they are
delivered.

A relay that dies loses its connection, and with it its locks; one that is silent for as long as its lease is cut off by
the server. Two round trips a batch.

Who sleeps holds a lock in the connection that listens. Writers try it: only where it is held do they notify, so that
under load, when no relay sleeps, commits do not queue up for the notification queue. It can be taken only while no
writer holds it who has not notified.
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
from actionengine.storage.port import (
    DeadLetter,
    FailedDelivery,
    OutboxStatus,
    PendingEvent,
    RelayHeartbeat,
    StorageUnavailable,
)
from actionengine.storage.postgres.database import PostgresDatabase
from actionengine.storage.postgres.driver import LibpqConnection, Row, Statement, milliseconds
from actionengine.storage.postgres.rows import array, event_row, taken_event, tenant_text
from actionengine.storage.postgres.statements import CHANNELS, SLEEP_LOCKS
from actionengine.storage.postgres.waiting import is_lost
from actionengine.storage.records import event_id

T = TypeVar("T")

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
LEASE = "SELECT pg_catalog.set_config('idle_in_transaction_session_timeout', %s, true)"
TAKE = """
SELECT attempts, position, id, tenant_id, type, subject, payload, action, action_id, actor_type, actor_id, occurred_at,
    version
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
    actor_id, occurred_at, version
FROM public.ae_dead_letters(%s, %s, %s, %s)
"""
REDRIVE = "SELECT public.ae_redrive(%s, %s, %s)"
SKIP = "SELECT public.ae_skip(%s, %s, %s, %s)"

# The lock of who sleeps at a queue, held by the connection. Where it can only be had shared, it is writers who hold it:
# they have seen nobody asleep, and are about to commit.
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
"""Seconds after which a look begins with the first position again, whatever is known: nothing can be left for ever."""

_BUSY_RELAY_INTERVAL = 0.02
"""Seconds between two looks at events that another relay is delivering."""

_IDLE_RELAY_INTERVAL = 0.25
"""Seconds between two looks where another relay holds the lock of who sleeps: that one is notified."""

_WRITERS_INTERVAL = 0.005
"""Seconds between two looks where writers hold it, who notify nobody."""


class Known:
    """Where the next look at a queue begins, as the database has told it (see `ae_outbox_known` and `ae_purge_keys` in
    the schema). All relays of a storage share it."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}
        self._until: dict[str, float] = {}

    def of(self, queue: str) -> str | None:
        """Return the marks of a queue; None where the next look is a full one."""
        if monotonic() < self._until.get(queue, 0.0):
            return self._marks[queue]
        return None

    def record(self, queue: str, marks: str, is_full: bool) -> None:
        """Keep what a look has found."""
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
        """Take what is due."""
        return await self._run(self._take, limit, lease)

    async def extend(self) -> None:
        """Begin the lease anew."""
        await self._run(self._extend)

    async def settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
        """Forget what was delivered, note what failed, and give back the rest."""
        await self._run(self._settle, delivered, failed)

    async def release(self) -> None:
        """Give back what was taken."""
        with suppress(Exception):
            await self._run(self._release)

    async def wait(self, seconds: float) -> None:
        """Wait until there may be something to take."""
        try:
            await (self._run(self._wait, seconds) if self._database.listens else self._poll(seconds))
        finally:
            self._woken = False

    def wake(self) -> None:
        """End the waiting now."""
        self._woken = True
        polling = self._polling
        if polling is not None:
            polling.set()

    async def heartbeat(self, beat: RelayHeartbeat) -> None:
        """Let others know of this relay."""
        await self._ask("relay", WRITE_HEARTBEAT, to_json(beat._replace(queue=self._queue)._asdict()).decode())

    async def status(self) -> OutboxStatus:
        """How much there is to deliver, and who does it."""
        parameters = (self._queue, self._database.signature("relay"), self._known.of(self._queue))
        ((pending, waiting, dead, skipped, held, oldest, relays),) = await self._asked(STATUS, parameters)
        beats = _HEARTBEATS.validate_json(relays)
        return OutboxStatus(pending, waiting, dead, skipped, oldest and oldest.astimezone(UTC), beats, held)

    async def dead_letters(self, *, after: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """Dead letters and skipped events, by event id."""
        later_than = event_id(after) if after is not None else None
        rows = await self._ask("relay", DEAD_LETTERS, later_than, page_size(limit), self._queue)
        return [
            DeadLetter(event_row(event), attempts, reason, dead_at.astimezone(UTC), skipped, self._queue)
            for attempts, reason, dead_at, skipped, *event in rows
        ]

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        """Try dead letters again."""
        wanted = None if ids is None else array(map(event_id, ids))
        ((changed,),) = await self._ask("redrive", REDRIVE, wanted, self._queue)
        return int(changed)

    async def skip(self, ids: Sequence[str], reason: str) -> int:
        """Give up dead letters."""
        ((changed,),) = await self._ask("skip", SKIP, array(map(event_id, ids)), reason, self._queue)
        return int(changed)

    async def close(self) -> None:
        """Give back what this object holds."""
        await self.release()
        with suppress(Exception):
            await self._run(self._release_quietly)

    async def _poll(self, seconds: float) -> None:
        """Wait without a connection that listens: writers notify nobody."""
        ((due_in,),) = await self._ask("relay", NEXT, self._queue, self._known.of(self._queue))
        seconds = min(seconds, self._pause_until(due_in), _IDLE_RELAY_INTERVAL)
        signal = self._polling = OneShotEvent(self._mode)
        if not self._woken:
            await signal.wait(seconds)
        self._polling = None

    # In the world of the storage

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._database.run(self._mode, function, *arguments)

    async def _ask(self, call: str, statement: str, *parameters: Any) -> list[Row]:
        return await self._asked(statement, (*parameters, self._database.signature(call)))

    async def _asked(self, statement: str, parameters: Sequence[Any]) -> list[Row]:
        asked = (statement, parameters)
        if self._held is not None and not self._is_taking:
            # A relay needs no second connection, which a small pool may not have.
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
            # A connection that died while nothing was done in it.
            rows = self._execute(*statements)
        self._is_taking = True
        (_, _, marks, _, _, _, self._behind, *_), *rows = rows
        self._known.record(self._queue, marks, known is None)
        if rows:
            self._fruitless = 0
        else:
            self._end(("COMMIT", ()))
        # Where there is a lot to do, a few partitions have enough of it, and the others are for other relays.
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
        """Run statements in the connection that this object holds. Where one fails, that is closed, and what was taken
        is given up."""
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
        # Due now: it came meanwhile, or another relay is at work on it.
        self._fruitless += 1
        return 0.0 if self._fruitless == 1 else _BUSY_RELAY_INTERVAL


_HEARTBEATS = TypeAdapter(list[RelayHeartbeat])
