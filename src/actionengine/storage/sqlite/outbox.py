"""The outbox in a SQLite file. One relay at a time delivers a queue, since there is one writer at a time anyway.

The relay holds a lease, which is free again once its process is dead or the lease has run out. Nothing is locked while
events are published.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from time import monotonic
from typing import Any
from uuid import uuid4

from pydantic_core import to_json

from actionengine.concurrency.one_shot_event import OneShotEvent
from actionengine.concurrency.run_sync import Mode
from actionengine.storage.clock import steady_now
from actionengine.storage.errors import StorageError, StorageUnavailable
from actionengine.storage.outbox import (
    MAX_COUNTED_LAG,
    DeadLetter,
    FailedDelivery,
    OutboxStatus,
    PendingEvent,
    RelayHeartbeat,
)
from actionengine.storage.pages import page_size
from actionengine.storage.records import FIRST_ID, event_id
from actionengine.storage.sqlite import statements as sql
from actionengine.storage.sqlite.database import Rows, SQLiteDatabase
from actionengine.storage.sqlite.rows import bind_time, dead_letters_of, event_row

_Place = tuple[str, int, int]
"""The tenant, the lane and the position of an event."""

_LAST_POSITION = 2**63 - 1

_POLL_INTERVAL = 0.25
"""Seconds after which a relay looks for events that another process has written."""


class SQLiteOutbox:
    """A queue of the outbox, for one relay or operator."""

    def __init__(self, database: SQLiteDatabase, mode: Mode, queue: str) -> None:
        self._database = database
        self._mode = mode
        self._queue = queue
        self._owner = str(uuid4())
        self._lease = 0.0
        self._until = 0.0
        self._woken = False
        self._signal: OneShotEvent | None = None
        self._waited: dict[int, _Place] = {}

    async def take(self, limit: int, lease: float) -> Sequence[PendingEvent]:
        """Take the events that are due, unless another relay is at work."""
        self._lease = lease
        rows = await self._read(limit)
        if not rows:
            await self.release()
            await self._hold()
            return []
        # While batches follow each other, half of the lease is left, and nothing need be written.
        if self._until - monotonic() < lease / 2:
            if not await self._lease_is_ours():
                return []
            rows = await self._read(limit)
        self._waited = _waiting_places(rows)
        if self._waited:
            # An event that was held back is taken with the one that held it, once that one is due.
            (released,) = await self._write(self._release(self._waited.values()))
            if released:
                rows = await self._read(limit)
                self._waited = _waiting_places(rows)
        return [PendingEvent(position, event_row(event), tries) for _, _, tries, position, *event in rows]

    async def extend(self) -> None:
        """Renew the lease."""
        if not await self._lease_is_ours():
            raise _lease_is_over()

    async def settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
        """Delete the delivered events, and record the failures."""
        done = [(str(pending.event.tenant_id), pending.position, self._queue) for pending in delivered]
        failures = []
        for failure in failed:
            due_at = self._in(failure.retry_in) if failure.retry_in is not None else None
            dead_at = self._now() if failure.retry_in is None else None
            pending = failure.pending
            scope = (str(pending.event.tenant_id), pending.position, self._queue)
            event_id = pending.event.id if dead_at is not None else None
            failures.append((int(failure.counts), failure.reason, due_at, dead_at, event_id, *scope))
        last = max((pending.position for pending in (*delivered, *(failure.pending for failure in failed))), default=0)
        waited = [self._waited[each.position] for each in delivered if each.position in self._waited]
        # A relay without the lease does not know what other relays have done with these events.
        written = await self._write(
            (sql.DELETE_DELIVERED, (to_json(done).decode(),)),
            *((sql.RECORD_FAILURE, failure) for failure in failures),
            *([self._release(waited)] if waited else []),
            (sql.HOLD, self._up_to(last)),
            condition=(sql.HAS_LEASE, (self._queue, self._owner)),
        )
        if not written:
            raise _lease_is_over()

    async def release(self) -> None:
        """Release the lease, for another relay."""
        if self._until:
            with suppress(StorageError):
                await self._write((sql.RELEASE_LEASE, (self._queue, self._owner)))
            self._until = 0.0

    async def wait(self, seconds: float) -> None:
        """Wait until events may be due."""
        if not self._woken:
            now = self._now()
            ((due_at,),) = await self._query(sql.NEXT_DUE, (self._queue, now))
            if due_at is not None:
                seconds = min(seconds, (datetime.fromisoformat(due_at) - steady_now()).total_seconds())
            signal = self._signal = OneShotEvent(self._mode)
            self._database.sleeping_relays.add(signal.set)
            try:
                if not self._woken and not await self._query(sql.READ_OUTBOX, (self._queue, now, now, 1)):
                    await signal.wait(min(max(0.0, seconds), _POLL_INTERVAL))
                elif not self._until:
                    # Another relay delivers the events.
                    await signal.wait(min(seconds, 0.02))
            finally:
                self._signal = None
                self._database.sleeping_relays.discard(signal.set)
        self._woken = False

    def wake(self) -> None:
        """End the wait now."""
        self._woken = True
        signal = self._signal
        if signal is not None:
            signal.set()

    async def heartbeat(self, beat: RelayHeartbeat) -> None:
        """Record that this relay is at work."""
        times: dict[str, Any] = {"started_at": bind_time(beat.started_at), "seen_at": bind_time(beat.seen_at)}
        values = beat._replace(queue=self._queue, **times)
        await self._write((sql.DELETE_STALE_RELAYS, (self._in(-86400.0),)), (sql.WRITE_HEARTBEAT, values))

    async def status(self) -> OutboxStatus:
        """Return how much there is to deliver, and which relays are at work."""
        ((free, waiting, dead, skipped, held, oldest),) = await self._query(
            sql.OUTBOX_STATUS, (self._queue, self._now(), MAX_COUNTED_LAG)
        )
        pending = min(free + held, MAX_COUNTED_LAG)
        time = datetime.fromisoformat
        relays = []
        for row in await self._query(sql.READ_RELAYS, (self._queue, self._in(-60.0))):
            beat: Any = RelayHeartbeat(*row)
            relays.append(beat._replace(started_at=time(beat.started_at), seen_at=time(beat.seen_at)))
        return OutboxStatus(pending, waiting, dead, skipped, time(oldest) if oldest else None, relays, held)

    async def dead_letters(self, *, after: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """Return dead letters and skipped events, by event id."""
        later_than = event_id(after) if after is not None else FIRST_ID
        rows = await self._query(sql.DEAD_LETTERS, (self._queue, later_than, page_size(limit)))
        return dead_letters_of(rows, self._queue)

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        """Put dead letters back into the queue. Return how many."""
        now = self._now()
        if ids is None:
            return await self._change((sql.RETURN_ALL, (now, self._queue, now)), (sql.REDRIVE_ALL, (now, self._queue)))
        these = to_json(list(map(event_id, ids))).decode()
        return await self._change(
            (sql.RETURN, (now, self._queue, these, now)), (sql.REDRIVE, (now, self._queue, these))
        )

    async def skip(self, ids: Sequence[str], reason: str) -> int:
        """Mark dead letters as skipped, so that they hold back nothing. Return how many."""
        now = self._now()
        these = to_json(list(map(event_id, ids))).decode()
        return await self._change(
            (sql.RETURN, (now, self._queue, these, now)), (sql.SKIP, (f"; skipped: {reason}", self._queue, these))
        )

    async def close(self) -> None:
        """Release everything that this object holds."""
        await self.release()

    async def _lease_is_ours(self) -> bool:
        until = monotonic() + self._lease
        now = self._now()
        rows = await self._query(sql.READ_LEASE, (self._queue, self._owner, now))
        if rows and _is_alive(rows[0][0]):
            return False
        other = rows[0][1] if rows else self._owner
        values = (self._queue, self._owner, os.getpid(), self._in(self._lease), now, self._owner, other)
        # Set before the lease is written, so that it is released if this call is cancelled meanwhile.
        self._until = until
        (changed,) = await self._write((sql.LEASE, values))
        self._until = until if changed else 0.0
        return bool(changed)

    async def _read(self, limit: int) -> Rows:
        now = self._now()
        return await self._query(sql.READ_OUTBOX, (self._queue, now, now, limit))

    def _release(self, waited: Iterable[_Place]) -> tuple[str, Sequence[Any]]:
        """Return the statement that releases the events behind these."""
        now = self._now()
        return sql.RELEASE, (now, to_json([(*place, self._queue) for place in waited]).decode(), now)

    def _up_to(self, position: int) -> tuple[Any, ...]:
        """Return the parameters of `IS_BEHIND` and `HOLD`."""
        now = self._now()
        return self._queue, position, now, now

    async def _hold(self) -> None:
        """Mark the events that are held back, so that the next look does not read them."""
        everything = self._up_to(_LAST_POSITION)
        if await self._query(sql.IS_BEHIND, everything):
            await self._write((sql.HOLD, everything))

    async def _change(self, *statements: tuple[str, Sequence[Any]]) -> int:
        *_, changed = await self._write(*statements)
        self._database.wake_relays()
        return len(changed)

    async def _query(self, statement: str, parameters: Sequence[Any]) -> Rows:
        return await self._database.run(self._mode, self._database.query, self._mode, statement, parameters)

    async def _write(
        self, *statements: tuple[str, Sequence[Any]], condition: tuple[str, Sequence[Any]] | None = None
    ) -> list[Rows]:
        return await self._database.run(self._mode, self._database.write, self._mode, statements, condition)

    def _now(self) -> str:
        return self._in(0.0)

    def _in(self, seconds: float) -> str:
        return bind_time(steady_now() + timedelta(seconds=seconds))


def _lease_is_over() -> StorageUnavailable:
    return StorageUnavailable("the lease of this relay is over: another relay may deliver its events")


def _waiting_places(rows: Iterable[tuple[Any, ...]]) -> dict[int, _Place]:
    """Return the places of the events in a batch that may hold back others, by position."""
    return {row[3]: (row[5], row[0], row[3]) for row in rows if row[1] is not None}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
